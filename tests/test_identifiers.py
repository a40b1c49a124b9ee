"""The names that a source declares, in all languages."""

from __future__ import annotations

import pytest
from snippets import SNIPPETS

from llamaindex_code_retrieval.languages.identifiers import declarations
from llamaindex_code_retrieval.languages.syntax import parse

DECLARED = {  # name of the language -> source, names that it declares, names that it only uses
    "python": (
        "import os\ndef f(path, *rest):\n    for name in os.listdir(path):\n        size = len(name)",
        "f path rest name size",
        "os listdir len",
    ),
    "javascript": ("function f(a) { const b = g(a); return b.c((x) => x) }", "f a b x", "g c"),
    "typescript": ("export function f(a: Box): Id { let b = g(a); return b }", "f a b", "Box Id g"),
    "java": ("class A { int n; List<B> f(C c) { D d = c.g(); return d; } }", "A n f c d", "List B C D g"),
    "go": ("package p\nfunc (s *S) F(a int) error { b := g.H(a); return b }", "F a b s", "H int g"),
    "rust": ("fn f(a: &Path) -> Kind { let b = g(a); b.h() }", "f a b", "Path Kind g h"),
    "c": ("int f(struct s *a) { int b = g(a); return b; }", "f a b", "g"),
    "cpp": ("class A : B { int n; void f(C &c) { auto d = c.g(); } };", "A n f c d", "B C g"),
    "csharp": ("class A : B { int F(C c) { var d = c.G(); return d; } }", "A F c d", "B C G"),
    "kotlin": ("class A(val n: Int) { fun f(c: C): D { val d = c.g(); return d } }", "A n f c d", "Int C D g"),
    "swift": ("func f(a: B) -> C { let d = g(a); return d }", "f a d", "B C g"),
    "ruby": ("class A < B\n  def f(c)\n    d = c.g\n    d\n  end\nend", "A f c d", "B g"),
    "php": ("<?php function f(B $a) { $d = g($a); return $d; }", "f", "B g"),
    "scala": ("class A(n: Int) extends B { def f(c: C) = { val d = c.g; d } }", "A f c d", "B C Int g"),
    "lua": ("local function f(a)\n  local b = g(a)\n  return b.c\nend", "f a b", "g c"),
}


@pytest.mark.parametrize("language", DECLARED)
def test_declared_names_are_told_from_used_ones(language: str) -> None:
    source, declared, used = DECLARED[language]
    outline = parse(source, language)
    assert outline is not None
    names = {each.name for each in declarations(outline)}
    assert names >= set(declared.split())
    assert not names & set(used.split())


@pytest.mark.parametrize("language", SNIPPETS)
def test_each_language_declares_names_that_stand_in_their_rows(language: str) -> None:
    outline = parse(SNIPPETS[language], language)
    assert outline is not None
    found = declarations(outline)
    assert len({each.name for each in found}) >= 2
    lines = SNIPPETS[language].split("\n")
    for name, row in found:
        assert name in lines[row] or row == 0 or any(name in line for line in lines[row : row + 12]), (name, row)
        assert name not in ("self", "this", "super", "cls")
