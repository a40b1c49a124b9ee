from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaindex_code_retrieval._code_words import code_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("snake_case_name", ["snake", "case", "name"]),
        ("camelCaseName", ["camel", "case", "name"]),
        ("HTTPServerError2", ["http", "server", "error", "2"]),
        ("__init__ _private", ["init", "private"]),
        ("CONSTANT_VALUE", ["constant", "value"]),
        ("x+=1;//ok", ["x", "1", "ok"]),
        ("größe 文件", ["größe", "文件"]),
        ("getCaféName_2", ["get", "café", "name", "2"]),
        ("cafe\u0301 CAF\u00c9", ["café", "café"]),  # composed and decomposed
        ("ПриветМир HTTPСервер", ["привет", "мир", "http", "сервер"]),
        ("读取配置 表", ["读取", "取配", "配置", "表"]),
        ("load设定file", ["load", "设定", "file"]),
        ("読み込む", ["読み", "み込", "込む"]),
        ("ﾃﾞｰﾀ ＡＢＣ１", ["デー", "ータ", "abc", "1"]),  # half-width and full-width
        ("설정파일", ["설정", "정파", "파일"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("👍️ ok", ["ok"]),
        ("\ud800 x", ["x"]),
        ("", []),
        ("___ --- \n", []),
    ],
)
def test_identifiers_are_split(text: str, words: list[str]) -> None:
    assert code_words(text) == words


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_words_do_not_depend_on_other_words(text: str) -> None:
    assert code_words(f"{text} é") == [*code_words(text), "é"]


@given(st.text())
def test_words_are_lower_case_and_without_spaces(text: str) -> None:
    words = code_words(text)
    assert all(word and word == word.lower() and not any(map(str.isspace, word)) for word in words)
