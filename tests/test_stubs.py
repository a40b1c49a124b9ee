"""Declarations without a body: which texts are mainly such, and what they declare."""

from __future__ import annotations

import pytest

from llamaindex_code_retrieval.chat.stubs import declared_names

ASYNC = "@overload\nasync def get(\n    a: int,\n) -> int: ...\n@typing.overload\n@cached\ndef put() -> None: ..."


@pytest.mark.parametrize(
    ("language", "text", "names"),
    [
        ("python", ASYNC, ["get", "put"]),
        ("python", "import typing as t\n\n\n@t.overload\ndef get(a: int) -> int: ...", ["get"]),
        (
            "python",
            "@overload\ndef get(a: int) -> int: ...\nLIMIT = {'a': 1, 'b': 2, 'c': 3, 'd': 4, 'e': 5, 'f': 6}",
            [],
        ),
        ("python", "@cached\ndef get(a: int) -> int: ...", []),
        (
            "c",
            "/* Adds. */\nUV_EXTERN int uv_add(int a,\n    void (*done)(int));\nchar* name(void);",
            ["uv_add", "name"],
        ),
        ("cpp", 'extern "C" {\nstd::string join(const std::vector<int>& parts) noexcept;\n}', ["join"]),
        ("c", "int size = 1;\nstruct cart { int size; int more; };\nint total(void);", []),
        ("c", "#include <a.h>\n#define B 1", []),
        ("java", "int add(int a);", []),
    ],
)
def test_declared_names(language: str, text: str, names: list[str]) -> None:
    assert declared_names(text, language) == names


@pytest.mark.parametrize("text", ["a b " * 5_000, "int f(" + "(" * 10_000, "**** " * 4_000, "@overload\n" * 2_000])
def test_a_text_without_an_end_is_read_in_time(text: str) -> None:
    assert declared_names(text, "c") == []
    assert declared_names(text, "python") == []
