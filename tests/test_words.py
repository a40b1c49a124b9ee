from __future__ import annotations

import math
from pathlib import Path

import pytest

from llamaindex_code_retrieval.index.words import LexicalIndex, code_words

TEXTS = [
    "def readFile(path): open(path)",
    "class HTTPServer: pass",
    "def read_line(file): return file.line",
    "",
    "읽기 파일",
]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("snake_case_name", ["snake", "case", "name"]),
        ("camelCaseName", ["camel", "case", "name"]),
        ("HTTPServerError2", ["http", "server", "error", "2"]),
        ("__init__ _private", ["init", "private"]),
        ("CONSTANT_VALUE", ["constant", "value"]),
        ("x+=1;//ok", ["x", "1", "ok"]),
        ("größe 文件", ["gr", "öß", "e", "文件"]),
        ("", []),
        ("___ --- \n", []),
    ],
)
def test_identifiers_are_split(text: str, words: list[str]) -> None:
    assert code_words(text) == words


def test_scores_are_bm25() -> None:
    """By hand: Lucene's BM25, k1 = 1.5, b = 0.75, for the one text that holds "server"."""
    index = LexicalIndex.build(TEXTS)
    lengths = [len(code_words(text)) for text in TEXTS]
    idf = math.log(1 + (len(TEXTS) - 1 + 0.5) / (1 + 0.5))
    mean = sum(lengths) / len(lengths)
    expected = idf * 1 / (1 + 1.5 * (1 - 0.75 + 0.75 * lengths[1] / mean))
    [(row, score)] = index.search("the Server", top_k=5)
    assert row == 1
    assert score == pytest.approx(expected, rel=1e-5)


def test_order_ties_and_misses() -> None:
    index = LexicalIndex.build([*TEXTS, TEXTS[1]])
    assert [row for row, _ in index.search("HTTP", top_k=5)] == [1, 5]
    assert [row for row, _ in index.search("HTTP", top_k=1)] == [1]
    assert [row for row, _ in index.search("read file", top_k=5)] == [2, 0]  # "file" twice
    assert index.search("absent words", top_k=5) == []
    assert index.search("", top_k=5) == []


@pytest.mark.parametrize("texts", [TEXTS, [], ["", "--"]])
def test_save_and_load(texts: list[str], tmp_path: Path) -> None:
    index = LexicalIndex.build(texts)
    index.save(tmp_path)
    again = LexicalIndex.load(tmp_path, size=len(texts))
    assert again.search("read the file", top_k=3) == index.search("read the file", top_k=3)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pkl", ".pickle")]
