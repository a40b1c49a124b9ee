"""BEIR's layout on disk: codes, queries, and which code was judged to answer which query."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEADER = ["query-id", "corpus-id", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split of a set, as it stands in the files."""

    file: Path
    corpus: dict[str, str]  # corpus id -> code
    queries: dict[str, str]  # query id -> text
    qrels: dict[str, dict[str, int]]  # query id -> corpus id -> score; over 0 answers the query
    languages: dict[str, str]  # corpus id -> language, where a line names one


def data_folder(name: str) -> Path | None:
    """Return ``$CODE_RETRIEVAL_DATA/<name>``, or ``None`` where the variable is unset or the folder absent."""
    root = os.environ.get("CODE_RETRIEVAL_DATA")
    folder = Path(root, name) if root else None
    return folder if folder is not None and folder.is_dir() else None


def read_split(path: str | Path, split: str) -> Split:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` from the folder ``path``.

    A split named ``<split>-<language>`` has that language's codes only.

    Raises:
        FileNotFoundError: the folder, a file or the split is missing.
        ValueError: a line that is not what the layout asks for, an id or judgement given twice, a judged id that
            corpus or queries lack, an empty corpus.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name one that holds corpus.jsonl, queries.jsonl and qrels/")
    qrels_file = folder / "qrels" / f"{split}.tsv"
    if not qrels_file.is_file():
        splits = ", ".join(sorted(file.stem for file in qrels_file.parent.glob("*.tsv"))) or "none"
        raise FileNotFoundError(f"{folder} has no split {split!r} ({qrels_file} is missing); splits there: {splits}")
    corpus, languages = _read_texts(folder / "corpus.jsonl")
    queries, _ = _read_texts(folder / "queries.jsonl")
    if not corpus:
        raise ValueError(f"{folder / 'corpus.jsonl'} holds no code; write one JSON object a line")
    language = next((name for name in sorted(set(languages.values())) if split.endswith(f"-{name}")), None)
    if language is not None:
        languages = {code: name for code, name in languages.items() if name == language}
        corpus = {code: corpus[code] for code in languages}
    qrels = _read_qrels(qrels_file, corpus=corpus, queries=queries, language=language)
    return Split(file=qrels_file, corpus=corpus, queries=queries, qrels=qrels, languages=languages)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank with their numbers from 1."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/")
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, line


def _read_texts(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return id -> text, and id -> language where a line names one."""
    texts: dict[str, str] = {}
    languages: dict[str, str] = {}
    for number, line in _lines(file):
        try:
            row: Any = json.loads(line)
        except ValueError as error:  # not JSON, or not UTF-8
            raise ValueError(f"{file}, line {number} is not JSON ({error}); write one object a line") from error
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
