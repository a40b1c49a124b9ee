"""``Pair``, a query and the code that answers it, and the files that hold pairs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llamaindex_code_retrieval._io import open_atomically, short_hash

OTHER = "other"
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "doc": "the first paragraph of a doc comment -> its function",
        "commit": "the message of a commit -> a function that it changed",
        "section": "a section of a document -> the definition that it describes",
        "symbol": "a question that names a definition -> the definition",
        "path": "a question that names a file -> the definition after which the file is named",
        "test": "the name of a test -> the function that it tests",
        "written": "a question that a language model wrote about a function -> the function",
        OTHER: "a pair of any other origin, such as one of a data set",
    }
)
"""The kinds of pairs: what the query is, and what the code."""

_TEXTS = ("language", "repository", "path", "license", "kind")
_LISTS = ("negatives", "negative_queries")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A query and a code that answers it, their origin, and known negatives.

    ``license`` is an SPDX expression, or the name of a licence file that was not recognised. ``kind`` is one of
    ``KINDS``. ``negatives`` are codes that do not answer the query, ``negative_queries`` are queries that the code
    does not answer.
    """

    query: str
    code: str
    language: str = ""
    repository: str = ""
    path: str = ""
    license: str = ""
    kind: str = OTHER
    negatives: tuple[str, ...] = ()
    negative_queries: tuple[str, ...] = ()


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write one JSON object per line, gzipped if ``path`` ends in ``.gz``. The file is replaced atomically."""
    path = Path(path)
    with open_atomically(path) as stream:
        # without name and time stamp, so that equal pairs give equal bytes
        out = gzip.GzipFile("", "wb", fileobj=stream, mtime=0) if path.suffix == ".gz" else stream
        for pair in pairs:
            row = {"query": pair.query, "code": pair.code}
            named = (
                (*_TEXTS, *_LISTS) if pair.kind != OTHER else (*(name for name in _TEXTS if name != "kind"), *_LISTS)
            )
            row |= {name: value for name in named if (value := getattr(pair, name))}
            out.write(json.dumps(row).encode() + b"\n")
        if out is not stream:
            out.close()


def read_pairs(path: str | Path) -> list[Pair]:
    """Read the pairs that ``write_pairs`` wrote.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is empty, or a line is not a pair; the message names the line.
    """
    return [pair_from_row(row, where) for where, row in read_jsonl(Path(path))]


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON lines file, each with its file and line for error messages.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line is not an object, the gzip file is damaged, or there is no line.
    """
    check_file(path)
    empty = True
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except ValueError as error:  # not JSON, or not UTF-8
                    raise ValueError(f"{where} is not JSON ({error}); write one object per line") from error
                if not isinstance(row, dict):
                    raise ValueError(f"{where} is {row!r:.80}; write an object with query and code")
                empty = False
                yield where, row
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or cut off after line {number} ({error}); write it again") from error
    if empty:
        raise ValueError(f"{path} is empty; write one JSON object with query and code per line")


def check_file(path: Path) -> None:
    """Raise ``FileNotFoundError`` if there is no file ``path``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; name a .jsonl or .jsonl.gz file of pairs")


def pair_from_row(row: dict[str, Any], where: str) -> Pair:
    """Return the pair that a row written by ``write_pairs`` holds; ``where`` names the row in error messages.

    Raises:
        ValueError: query or code is missing or empty, a value has the wrong type, or the kind is unknown.
    """
    for name in ("query", "code", *_TEXTS):
        value = row.get(name, None if name in ("query", "code") else "")
        if value is None and name not in row:
            raise ValueError(f"{where} has no {name}, only {', '.join(row) or 'nothing'}; a pair needs query and code")
        if not isinstance(value, str):
            raise ValueError(f"{where} has the {name} {value!r:.80}; it must be a string")
        if name in ("query", "code") and not value.strip():
            raise ValueError(f"{where} has the {name} {value!r:.80}, which is empty; write a text or drop the line")
    if row.get("kind", OTHER) not in KINDS:
        raise ValueError(f"{where} has the kind {row['kind']!r:.80}; the kinds are {', '.join(KINDS)}")
    for name in _LISTS:
        value = row.get(name, [])
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            raise ValueError(f"{where} has the {name} {value!r:.80}; it must be a list of strings that are not empty")
    values: dict[str, Any] = {name: row[name] for name in ("query", "code", *_TEXTS) if name in row}
    values |= {name: tuple(row[name]) for name in _LISTS if name in row}
    return Pair(**values)


def pairs_fingerprint(pairs: Sequence[Pair]) -> str:
    """Return 16 hex digits that change with every text that training reads, and with the order of the pairs."""
    return short_hash(
        json.dumps((pair.query, pair.code, pair.language, *pair.negatives, "", *pair.negative_queries))
        for pair in pairs
    )
