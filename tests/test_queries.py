"""Queries without answers, read from files and sampled."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamaindex_code_retrieval.training.queries import load_queries, sample_queries


def test_sampled_queries_are_distinct_and_drawn_by_the_seed() -> None:
    queries = [f"q{i % 10}" for i in range(30)]
    assert sorted(sample_queries(queries, 100, seed=0)) == sorted(set(queries))
    assert (
        sample_queries(queries, 4, seed=0) == sample_queries(queries, 4, seed=0) != sample_queries(queries, 4, seed=1)
    )
    assert len(set(sample_queries(queries, 4, seed=0))) == 4


def test_queries_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes("read a file\n\n  sort  \nread a file\nüber\n".encode() + b"\xff\n")
    assert load_queries(str(log)) == ["read a file", "sort", "über", "\ufffd"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "a", "code": "x"}\n{"_id": "1", "text": "b"}\n{"query": "a"}\n{"query": " "}\n')
    assert load_queries(str(rows)) == ["a", "b"]
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "c1", "text": "def f(): pass"}\n')
    (folder / "queries.jsonl").write_text("".join(f'{{"_id": "q{i}", "text": "query {i}"}}\n' for i in range(3)))
    for split, judged in {"train": "q0\tc1\t1\n", "dev": "q1\tc1\t1\nq2\tc1\t0\n"}.items():
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    assert load_queries(str(folder)) == ["query 0"]
    assert load_queries(f"{folder}:dev") == ["query 1", "query 2"]  # one of them without an answer
    monkeypatch.setenv("CODE_RETRIEVAL_DATA", str(tmp_path))
    assert load_queries("beir:dev") == ["query 1", "query 2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.txt", "\n \n", "holds no query; name a file with one query a line"),
        ("rows.jsonl", "", "rows.jsonl"),
        ("rows.jsonl", '{"query": ""}\n', "holds no query"),
        (
            "rows.jsonl",
            '{"query": "a"}\n{"code": "x"}\n',
            r"rows\.jsonl, line 2 has no field query or text that is a string",
        ),
        ("rows.jsonl", '{"query": 3}\n', "line 1 has no field query or text that is a string"),
        ("rows.jsonl", '{"query": "a"\n', r"rows\.jsonl, line 1"),
    ],
)
def test_files_without_queries_are_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_queries(str(tmp_path / name))


@pytest.mark.parametrize("name", ["none.txt", "none.jsonl", "none", "none:dev"])
def test_files_that_there_are_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="; name a"):
        load_queries(str(tmp_path / name))
