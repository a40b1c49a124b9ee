"""Benchmarks in BEIR's layout on disk: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.eval.datasets.benchmark import Benchmark

_HEADER = ["query-id", "corpus-id", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split of a data set, with all rows of its files."""

    file: Path
    """The qrels file."""
    corpus: dict[str, str]
    """Corpus id -> code."""
    queries: dict[str, str]
    """Query id -> text."""
    qrels: dict[str, dict[str, int]]
    """Query id -> corpus id -> score; a score over 0 means that the code answers the query."""
    languages: dict[str, str]
    """Corpus id -> language, for rows that name one."""


def data_folder(name: str) -> Path | None:
    """Return ``$CODE_RETRIEVAL_DATA/<name>``, or ``None`` if the variable is unset or there is no such folder."""
    root = os.environ.get("CODE_RETRIEVAL_DATA")
    folder = Path(root, name) if root else None
    return folder if folder is not None and folder.is_dir() else None


def load_beir(path: str | Path, *, split: str) -> Benchmark:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` from the folder ``path``, in BEIR's layout.

    The corpus of a split named ``<split>-<language>`` holds that language's codes only. Queries whose judgements are
    all 0 are left out; the score 0 rows of other queries are kept. Fields other than ``_id``, ``text`` and
    ``language`` are ignored.

    Raises:
        FileNotFoundError: the folder, a file or the split is missing.
        ValueError: see :func:`read_split`; no query has a relevant code.
    """
    data = read_split(path, split)
    qrels = {query: scores for query, scores in data.qrels.items() if any(score > 0 for score in scores.values())}
    if not qrels:
        raise ValueError(f"{data.file} names no relevant code (score over 0), so there is nothing to measure")
    return Benchmark(
        name=f"{Path(path).resolve().name}/{split}",
        corpus=data.corpus,
        queries={query: data.queries[query] for query in qrels},
        qrels=qrels,
        languages=data.languages,
    )


def save_beir(benchmark: Benchmark, folder: str | Path, *, split: str = "test") -> None:
    """Write a benchmark in BEIR's layout, for :func:`load_beir` to read."""
    folder = Path(folder)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [
        {"_id": id_, "text": code, **({"language": benchmark.languages[id_]} if id_ in benchmark.languages else {})}
        for id_, code in benchmark.corpus.items()
    ]
    queries = [{"_id": id_, "text": text} for id_, text in benchmark.queries.items()]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        write_atomically(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    rows_of_qrels = [
        f"{query}\t{code}\t{score}" for query, codes in benchmark.qrels.items() for code, score in codes.items()
    ]
    write_atomically(
        folder / "qrels" / f"{split}.tsv", "\n".join(["query-id\tcorpus-id\tscore", *rows_of_qrels]) + "\n"
    )


def read_split(path: str | Path, split: str) -> Split:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` from the folder ``path``.

    The corpus of a split named ``<split>-<language>`` holds that language's codes only.

    Raises:
        FileNotFoundError: the folder, a file or the split is missing.
        ValueError: a line breaks the layout, an id or a judgement is given twice, a judged id is not in the corpus or
            the queries, or the corpus is empty.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; name one that holds corpus.jsonl, queries.jsonl and qrels/")
    qrels_file = folder / "qrels" / f"{split}.tsv"
    if not qrels_file.is_file():
        splits = ", ".join(sorted(file.stem for file in qrels_file.parent.glob("*.tsv"))) or "none"
        raise FileNotFoundError(f"{folder} has no split {split!r} ({qrels_file} is missing); splits there: {splits}")
    corpus, languages = _read_texts(folder / "corpus.jsonl")
    queries, _ = _read_texts(folder / "queries.jsonl")
    if not corpus:
        raise ValueError(f"{folder / 'corpus.jsonl'} holds no code; write one JSON object per line")
    language = next((name for name in sorted(set(languages.values())) if split.endswith(f"-{name}")), None)
    if language is not None:
        languages = {code: name for code, name in languages.items() if name == language}
        corpus = {code: corpus[code] for code in languages}
    qrels = _read_qrels(qrels_file, corpus=corpus, queries=queries, language=language)
    return Split(file=qrels_file, corpus=corpus, queries=queries, qrels=qrels, languages=languages)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) for each line that is not blank; numbers start at 1."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/")
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, line


def _read_texts(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return id -> text, and id -> language for rows that name one."""
    texts: dict[str, str] = {}
    languages: dict[str, str] = {}
    for number, line in _lines(file):
        try:
            row: Any = json.loads(line)
        except ValueError as error:  # not JSON, or not UTF-8
            raise ValueError(f"{file}, line {number} is not JSON ({error}); write one object per line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number} is {row!r}; write an object with _id and text")
        for key in ("_id", "text", "language"):
            if not isinstance(row.get(key, "" if key == "language" else None), str):
                raise ValueError(f"{file}, line {number} has {key} {row.get(key)!r}; it must be a string")
        if row["_id"] in texts:
            raise ValueError(f"{file}, line {number} gives the id {row['_id']!r} a second time; ids must differ")
        texts[row["_id"]] = row["text"]
        if "language" in row:
            languages[row["_id"]] = row["language"]
    return texts, languages


def _read_qrels(
    file: Path, *, corpus: Mapping[str, str], queries: Mapping[str, str], language: str | None
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, line in _lines(file):
        fields = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
        if number == 1:
            if fields != _HEADER:
                raise ValueError(f"{file}, line 1 is {fields}; it must be the tab-separated header {_HEADER}")
            continue
        if len(fields) != 3:
            raise ValueError(f"{file}, line {number} has {len(fields)} fields: {fields}; it must have {_HEADER}")
        query, code, score = fields
        if query not in queries:
            raise ValueError(
                f"{file}, line {number} judges query {query!r}, which queries.jsonl lacks; add or remove it"
            )
        if code not in corpus:
            pool = "corpus.jsonl" if language is None else f"the {language} part of corpus.jsonl"
            raise ValueError(f"{file}, line {number} judges code {code!r}, which {pool} lacks; add or remove it")
        if not score.removeprefix("-").isdecimal():
            raise ValueError(f"{file}, line {number} has the score {score!r}; it must be a whole number")
        if code in qrels.setdefault(query, {}):
            raise ValueError(f"{file}, line {number} judges query {query!r} and code {code!r} a second time; keep one")
        qrels[query][code] = int(score)
    return qrels
