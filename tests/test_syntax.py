"""Definitions, docstrings and bodies in the source code of each language."""

from __future__ import annotations

import gc
import re
import tracemalloc
from pathlib import Path

import pytest
from snippets import SAMPLES, SNIPPETS, describe_sample, outline_file

from llamaindex_code_retrieval.languages.grammars import query_text
from llamaindex_code_retrieval.languages.syntax import Definition, Parsed, definitions, parse
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, GRAMMARS, language_of, language_of_text

CODE_SAMPLES = [sample for sample in SAMPLES if sample.parent.name in CODE_LANGUAGES]


@pytest.mark.parametrize("sample", CODE_SAMPLES, ids=lambda sample: f"{sample.parent.name}/{sample.name}")
def test_definitions_of_every_language(sample: Path) -> None:
    assert describe_sample(sample) == outline_file(sample).read_text(encoding="utf-8")
    found = definitions(sample.read_bytes().decode(), sample.parent.name)
    assert all(d.scope.endswith(d.symbol) and d.start_line <= d.name_line <= d.end_line for d in found)


def test_every_language_has_a_sample() -> None:
    assert {sample.parent.name for sample in CODE_SAMPLES} == set(CODE_LANGUAGES)
    assert {language_of(sample) for sample in SAMPLES} >= set(CODE_LANGUAGES)


@pytest.mark.parametrize("sample", CODE_SAMPLES, ids=lambda sample: f"{sample.parent.name}/{sample.name}")
def test_samples_parse_without_errors(sample: Path) -> None:
    outline = parse(sample.read_bytes().decode(), sample.parent.name)
    assert outline is not None
    assert not isinstance(outline, Parsed) or outline.errors == 0


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_queries_avoid_faults_of_tree_sitter(grammar: str) -> None:
    code = re.sub(r'"(?:\\.|[^"\\])*"', "", query_text(grammar))
    assert not re.search(r"\(#[\w-]+\?[^()]*\)\s*\(#set!", code), "#set! stands before predicates"
    assert "#not-any-of?" not in code, "#not-any-of? always holds"


def test_grammar_with_the_fewest_errors_is_used() -> None:
    header = "class A : public B {\n public:\n  virtual int f() const { return 1; }\n};\n"
    assert [(d.kind, d.scope) for d in definitions(header, "c")] == [("class", "A"), ("method", "A.f")]
    assert [d.scope for d in definitions("const A = () => { return <b>hi</b>; };\n", "typescript")] == ["A"]
    flow = "// @flow\ntype A = { b: string };\nexport class B<T> {\n  x: A;\n  f(y: T): A {\n    return x;\n  }\n}\n"
    assert [d.scope for d in definitions(flow, "javascript")] == ["A", "B", "B.f"]


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a/b.PY", "python"),
        (Path("x.hpp"), "cpp"),
        ("x.h", "c"),
        ("x.tsx", "typescript"),
        ("Rakefile", "ruby"),
        ("a/Dockerfile.dev", "dockerfile"),
        ("x.foo.bar", None),
        ("", None),
    ],
)
def test_language_of(path: str | Path, language: str | None) -> None:
    assert language_of(path) == language


@pytest.mark.parametrize(
    ("first_line", "language"),
    [
        ("#!/bin/sh", "bash"),
        ("#! /usr/bin/perl -w", "perl"),
        ("#!/usr/bin/env -S python3 -u", "python"),
        ("#!/usr/bin/env -S uv run --script", "python"),
        ("#!/usr/bin/env PYTHONPATH=. python3.12", "python"),
        ("#!/usr/local/bin/lua5.3", "lua"),
        ("#!/usr/bin/env Rscript", "r"),
        ("#!/usr/bin/env bats", "bash"),
        ("#!/usr/bin/ruby1.9", "ruby"),
        ("#!/usr/bin/awk -f", None),
        ("#!", None),
        ("# python", None),
    ],
)
def test_language_of_scripts(first_line: str, language: str | None) -> None:
    assert language_of_text("bin/tool", f"{first_line}\n") == language
    assert language_of_text("tool.go", f"{first_line}\n") == "go"


def only(source: str, language: str, scope: str) -> Definition:
    [definition] = [d for d in definitions(source, language) if d.scope == scope]
    return definition


def test_code_without_docstring() -> None:
    assert only(SNIPPETS["python"], "python", "Cart.total").code_without_docstring == (
        "    @property\n    def total(self):\n        return sum(self.items)"
    )
    assert only(SNIPPETS["python"], "python", "rate").code_without_docstring.startswith("# Only a comment.\n@cache\n")
    assert only(SNIPPETS["java"], "java", "Tax.withTax").code_without_docstring == (
        "    @Override\n    public int withTax(int price) {\n        return price * rate;\n    }"
    )
    assert only(SNIPPETS["go"], "go", "Stack.Push").code_without_docstring == (
        "func (s *Stack[T]) Push(x T) {\n\ts.items = append(s.items, x)\n}"
    )
    assert only(SNIPPETS["ruby"], "ruby", "Shop.Cart.build").code_without_docstring == (
        "    def self.build\n      new\n    end"
    )


@pytest.mark.parametrize(
    ("source", "docstring", "code"),
    [
        ("def f():\n    '''Go.'''\n", "Go.", "def f():\n    pass"),
        ("def f(): 'Go.'\n", "Go.", "def f(): pass"),
        ("def f():\n    'Go.'; return 1\n", "Go.", "def f():\n    return 1"),
        ("def f():\n    'é' 'ü'  # é\n    return 1\n", "éü", "def f():\n    # é\n    return 1"),
        ("def f():\n    '''A\n\n      b\n    '''\n\n    return 1\n", "A\n\nb", "def f():\n\n    return 1"),
        ("def f():\r\n    '''A\r\n    b'''\r\n    return 1\r\n", "A\nb", "def f():\r\n    return 1\r"),
        ("def f():\n    'a\\tb \\'c\\' \\d'\n    return 1\n", "a       b 'c' \\d", "def f():\n    return 1"),
        ("def f():\n    f'no'\n", "", "def f():\n    f'no'"),
        ("def f():\n    b'no'\n", "", "def f():\n    b'no'"),
        ("def f():\n    'no' + x\n", "", "def f():\n    'no' + x"),
    ],
)
def test_python_docstrings(source: str, docstring: str, code: str) -> None:
    [definition] = definitions(source, "python")
    assert (definition.docstring, definition.code_without_docstring) == (docstring, code)


@pytest.mark.parametrize(
    ("source", "docstring", "start"),
    [
        ("// Licence\n\nfunction f() {}", "", 3),
        ("let x = 1; // of x\nfunction f() {}", "", 2),
        ("/* a */ /* b */\nfunction f() {}", "a", 1),
        ("/* a */ g();\nfunction f() {}", "", 2),
        ("// ------\n// Runs.\n// ------\nfunction f() {}", "Runs.", 1),
        ("/* Runs. */\nfunction f() {}", "Runs.", 1),
        ("/**\n * Runs.\n *\n *   - one\n **/\nfunction f() {}", "Runs.\n\n  - one", 1),
        ("/*!\n * @brief Runs.\n */\nfunction f() {}", "@brief Runs.", 1),
        ("/// Runs.\n// eslint-disable-next-line\nfunction f() {}", "Runs.", 1),
    ],
)
def test_doc_comments(source: str, docstring: str, start: int) -> None:
    [definition] = definitions(source, "javascript")
    assert (definition.docstring, definition.start_line) == (docstring, start)


@pytest.mark.parametrize(
    ("language", "annotations", "definition"),
    [
        ("python", "@cache  # a", "def f():\n    pass"),
        ("java", "@Slow // a", "class f {}"),
        ("javascript", "@slow // a", "export class f {}"),
        ("typescript", "@slow() // a\n@fast() /* b */", "export class f {}"),
        ("kotlin", '@Suppress("a") // a', "fun f() { g() }"),
        ("kotlin", '@Suppress("a") // a\n@JvmStatic // b', "fun f() { g() }"),
        ("kotlin", '@Suppress("a") /* a */', "private fun f() { g() }"),
        ("scala", "@inline // a", "def f() = 1"),
        ("csharp", "[Slow] // a", "class f {}"),
        ("rust", "#[inline] // a\n#[must_use] /* b */ // c", "fn f() {}"),
        ("rust", "#[inline] #[must_use]", "fn f() {}"),
        ("swift", "@objc // a", "func f() {}"),
        ("php", "<?php #[Slow] // a", "function f() {}"),
        ("dart", "@pragma('a') // a\n@slow // b", "int f() { return 1; }"),
        ("groovy", "@Slow // a", "class f {}"),
        ("cpp", "template <typename T> // a", "T f() { return 1; }"),
        ("ruby", "sig { void } # a", "def f; end"),
        ("elixir", "@impl true # a", "def f, do: 1"),
        ("julia", '"Doc." # a', "f() = 1"),
    ],
)
def test_annotations_with_a_comment_belong_to_the_definition(language: str, annotations: str, definition: str) -> None:
    found = only(f"{annotations}\n{definition}\n", language, "f")
    assert (found.start_line, found.name_line) == (1, annotations.count("\n") + 2)
    assert found.docstring == ("Doc." if language == "julia" else "")


def test_scripts_keep_their_rows_and_markup_its_nesting() -> None:
    source = '<main>\n  <p>\n    é\n  </p>\n</main>\n<script type="module">\nfunction f() {\n  g();\n}\n</script>\n'
    parsed = parse(source, "html")
    assert parsed is not None
    [item] = parsed.top.children
    assert (item.scope, item.first, item.last) == ("f", 6, 8)
    assert [parsed.depths[row] for row in (0, 1, 2, 4, 5, 6)] == [0, 1, 2, 0, 0, 1]


@pytest.mark.parametrize(
    ("path", "row", "kept"),
    [
        ("hcl/sample.tf", "}", ["variable.region", "locals", "aws_instance.web", "output.ip"]),
        ("haskell/sample.hs", "x `plus` y = x + y", ["area", "<+>", "sorted", "Show (Tree a).show", "main"]),
        ("ocaml/sample.ml", "let inc : int -> int = fun x -> x + 1", ["add", "odd", "depth", "Make.show", "counter"]),
        ("zig/sample.zig", "const Handle = opaque {};", ["Point.init", "Shape.area", "List.append", "main"]),
    ],
)
def test_a_broken_row_costs_one_definition(path: str, row: str, kept: list[str]) -> None:
    sample = next(sample for sample in CODE_SAMPLES if sample.as_posix().endswith(path))
    source = sample.read_text(encoding="utf-8")
    found = definitions(source.replace(f"\n{row}\n", f"\n{row} (\n", 1), sample.parent.name)
    assert {d.scope for d in found} >= set(kept)
    assert len(found) > len(definitions(source, sample.parent.name)) - 4


def test_a_source_without_layout_is_not_repaired() -> None:
    source = "f x = (\n\ng x = x + 1\n\nh x = x\n"
    assert [d.scope for d in definitions(source, "haskell")] == ["f", "g", "h"]
    assert definitions(f"{source}-- {'x' * 5_000}\n", "haskell") == []


def test_deep_nesting_is_no_recursion() -> None:
    assert definitions("f(){x " * 20_000, "c") == []


@pytest.mark.parametrize("end", ["", "\r", "\n"])
def test_a_heredoc_of_perl_may_be_cut_off(end: str) -> None:
    assert [d.scope for d in definitions(f"sub f {{ 1 }}\nprint <<EOF;\n  $x \\{end}", "perl")] == ["f"]
    assert [d.end_line for d in definitions(f"package A;\nprint <<EOF;\n  $x \\{end}", "perl")] == [3]


def test_a_parse_keeps_little_memory() -> None:
    source = SNIPPETS["perl"] * 20
    definitions(source, "perl")
    tracemalloc.start()
    try:
        definitions(source, "perl")
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 20 * len(source)
