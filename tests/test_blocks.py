"""One broken line costs one function: the definitions around it are found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llamaindex_code_retrieval.languages.blocks import without_broken_blocks
from llamaindex_code_retrieval.languages.syntax import definitions

COUNT, BROKEN = 7, 3  # functions of a file, and the one that is broken
FUNCTIONS = {
    "python": "def f#(a):\n    x = g(a, [1, #])\n    if x:\n        return 'y'\n    return a\n",
    "ruby": "def f#(a)\n  x = g(a, [1, #])\n  if x\n    return 'y'\n  end\n  a\nend\n",
    "lua": "function f#(a)\n  local x = g(a, {1, #})\n  if x then\n    return 'y'\n  end\n  return a\nend\n",
    "bash": 'f#() {\n  x=$(g "$1" #)\n  if [ "$x" ]; then\n    echo \'y\'\n  fi\n  echo done\n}\n',
    "perl": "sub f# {\n  my $x = g($_[0], [1, #]);\n  if ($x) {\n    return 'y';\n  }\n  return 1;\n}\n",
    "julia": 'function f#(a)\n    x = g(a, [1, #])\n    if x\n        return "y"\n    end\n    a\nend\n',
    "elixir": "def f#(a) do\n  x = g(a, [1, #])\n  if x do\n    'y'\n  end\n  a\nend\n",
    "r": "f# <- function(a) {\n  x <- g(a, c(1, #))\n  if (x) {\n    return('y')\n  }\n  a\n}\n",
    "sql": "CREATE FUNCTION f#(a int) RETURNS int AS $$\nBEGIN\n  x := g(a, #);\n  RETURN 'y';\nEND;\n$$;\n",
    "go": 'func f#(a int) int {\n\tx := g(a, []int{1, #})\n\tif x {\n\t\treturn "y"\n\t}\n\treturn a\n}\n',
    "rust": 'fn f#(a: i32) -> i32 {\n    let x = g(a, [1, #]);\n    if x {\n        return "y";\n    }\n    a\n}\n',
    "c": 'int f#(int a) {\n  int x = g(a, h[#]);\n  if (x) {\n    return "y";\n  }\n  return a;\n}\n',
    "javascript": "function f#(a) {\n  const x = g(a, [1, #]);\n  if (x) {\n    return 'y';\n  }\n  return a;\n}\n",
    "php": "function f#($a) {\n  $x = g($a, [1, #]);\n  if ($x) {\n    return 'y';\n  }\n  return $a;\n}\n",
}
METHODS = {
    "python": ("class C:\n", FUNCTIONS["python"].replace("(a)", "(self, a)"), ""),
    "ruby": ("class C\n", FUNCTIONS["ruby"], "end\n"),
    "java": (
        "class C {\n",
        "int f#(int a) {\n    int x = g(a, h[#]);\n    if (x) {\n        return 'y';\n    }\n    return a;\n}\n",
        "}\n",
    ),
    "elixir": ("defmodule C do\n", FUNCTIONS["elixir"], "end\n"),
}


def broken_versions(function: str) -> Iterator[str]:
    """Yield a function without one of its brackets, quotes or ends, and with a line that does not belong there."""
    rows = function.splitlines()
    for row, line in enumerate(rows):
        for mark in sorted(set(")([]{}'\"") & set(line)):
            yield "\n".join([*rows[:row], line.replace(mark, "", 1), *rows[row + 1 :]])
        if line.strip() in ("end", "fi", "}"):
            yield "\n".join(rows[:row] + rows[row + 1 :])
    for line in ("'", "{", "@@ %% ((", "<<<<<<< HEAD"):
        yield "\n".join([*rows[:2], line, *rows[2:]])


def lost_functions(sources: list[str], language: str, *, head: str = "", tail: str = "") -> set[int]:
    found = {definition.symbol for definition in definitions(head + "\n".join(sources) + tail, language)}
    return {number for number in range(len(sources)) if f"f{number}" not in found}


@pytest.mark.parametrize("language", FUNCTIONS)
def test_a_broken_line_costs_at_most_the_functions_beside_it(language: str) -> None:
    head = "<?php\n" if language == "php" else ""
    sources = [FUNCTIONS[language].replace("#", str(number)) for number in range(COUNT)]
    assert lost_functions(sources, language, head=head) == set()
    for version in broken_versions(sources[BROKEN]):
        lost = lost_functions([*sources[:BROKEN], version, *sources[BROKEN + 1 :]], language, head=head)
        assert len(lost - {BROKEN}) <= 1, version


@pytest.mark.parametrize("language", METHODS)
def test_a_broken_line_costs_at_most_the_methods_beside_it(language: str) -> None:
    head, method, tail = METHODS[language]
    method = "".join(f"    {row}\n" for row in method.splitlines())
    sources = [method.replace("#", str(number)) for number in range(COUNT)]
    assert lost_functions(sources, language, head=head, tail=tail) == set()
    for version in broken_versions(sources[BROKEN]):
        broken = [*sources[:BROKEN], version, *sources[BROKEN + 1 :]]
        assert len(lost_functions(broken, language, head=head, tail=tail) - {BROKEN}) <= 1, version


def test_functions_with_docstrings_below_a_missing_bracket() -> None:
    sources = [f'def f{number}(a):\n    """Does {number}."""\n    return a + {number}\n' for number in range(40)]
    sources[20] = sources[20].replace("(a):", "(a:")
    assert lost_functions(sources, "python") <= {20}


def braces_match(source: bytes) -> bool:
    return source.count(b"{") == source.count(b"}") and b"?" not in source


@pytest.mark.parametrize(
    ("source", "result", "lost"),
    [
        ("a {\n  x\n}\nb {\n  y\n}", "a {\n  x\n}\nb {\n  y\n}", 0),
        ("a {\n  x {\n}\nb {\n  y\n}", "a {\n\n}\nb {\n  y\n}", 1),  # inside a block
        ("a {{\n  x\n}\nb {\n  y\n}", "\n\n\nb {\n  y\n}", 3),  # around it
        ("a\nb?\nc", "a\n\nc", 1),
        ("a {\n  x\n?\n  y\n}\nb", "a {\n  x\n\n  y\n}\nb", 1),  # indented too little
        ("a {\n<<<<<<< ours\nx\n=======\ny\n>>>>>>> b\n}", "a {\n\nx\n\ny\n\n}", 3),
    ],
)
def test_broken_blocks_are_left_out(source: str, result: str, lost: int) -> None:
    shorter, count = without_broken_blocks(source.encode(), braces_match)
    assert (b"\n".join(line.rstrip() for line in shorter.split(b"\n")).decode(), count) == (result, lost)
    assert len(shorter) == len(source)


def test_only_the_broken_block_of_a_long_block_is_left_out() -> None:
    methods = [f"  m{number} {{\n    x\n  }}" for number in range(6)]
    methods[3] = methods[3].replace("x", "x?")
    shorter, lost = without_broken_blocks("\n".join(["class {", *methods, "}"]).encode(), braces_match)
    assert (lost, shorter.count(b"x"), b"m3 {" in shorter) == (1, 5, True)


def test_the_header_of_a_long_block_may_be_what_is_broken() -> None:
    source = "\n".join(["class ? {{", *(f"  m{number} {{\n    x\n  }}" for number in range(6)), "}"])
    shorter, lost = without_broken_blocks(source.encode(), braces_match)
    assert (lost, shorter.count(b"x")) == (2, 6)
