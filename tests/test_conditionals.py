"""Directives of the C preprocessor inside statements."""

from __future__ import annotations

import pytest

from llamaindex_code_retrieval.languages.conditionals import resolve_directives
from llamaindex_code_retrieval.languages.syntax import definitions


def resolve(source: str) -> list[str]:
    """Return the rows of the resolved source that are not blank."""
    resolved = resolve_directives(source, "c")
    assert resolved.count("\n") == source.count("\n")
    return [line.strip() for line in resolved.split("\n") if line.strip()]


@pytest.mark.parametrize(
    "source",
    [
        "int a;\n#ifdef X\nint f() {\n  return 1;\n}\n#else\nint f() { return 2; }\n#endif\n",
        "#ifndef X_H\n#define X_H\nint a;\n#endif\n",
        "void f() {\n#if X\n  a();\n#endif\n}\n",
        "int a;\n",
        "#endif\nint a;\n#else\n",
        "#ifdef X\nint a;\n",
    ],
    ids=["functions", "guard", "statements", "none", "no-start", "no-end"],
)
def test_directives_between_statements_stay(source: str) -> None:
    assert resolve_directives(source, "c") == source


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ("#ifdef X\nif (a) {\n#else\nif (b) {\n#endif\n}", ["if (a) {", "}"]),
        ("#ifdef X\nif (a) {\n#else\nb();\nif (b) {\n#endif\n}", ["b();", "if (b) {", "}"]),
        ("return a\n#ifdef X\n|| b\n#endif\n;", ["return a", "|| b", ";"]),
        ("#if 0\nint f() {\n#else\nint g() {\n#endif\n}", ["int g() {", "}"]),
        ("#if 0\nint f() {\n#endif\nint g;", ["int g;"]),
        ("f(a,\n#if X\n#if Y\nb,\n#endif\nc,\n#endif\nd);", ["f(a,", "b,", "c,", "d);"]),
        ("enum {\n#define XX(a) a,\nLIST(XX)\n#undef XX\nLAST };", ["enum {", "LIST(XX)", "LAST };"]),
        ("int a[] = {\n#ifdef X\n1,\n#endif\n2 };", ["int a[] = {", "1,", "2 };"]),
        ("a = b +\n#define C 1 \\\n  + 2\nc;", ["a = b +", "c;"]),
    ],
)
def test_directives_inside_statements_are_left_out(source: str, rows: list[str]) -> None:
    assert resolve(source) == rows


def test_branches_that_open_a_block_each_do_not_hide_what_follows() -> None:
    source = "int f() {\n#ifdef X\n  if (a) {\n#else\n  if (b) {\n#endif\n    c();\n  }\n}\n\nint g() { return 1; }\n"
    assert [(d.scope, d.start_line, d.end_line) for d in definitions(source, "c")] == [("f", 1, 9), ("g", 11, 11)]
