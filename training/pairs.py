"""Training pairs, a query and the code that answers it: read, mined from source code, split and varied."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TEXTS = ("language", "repository", "path", "license")
_LISTS = ("negatives", "negative_queries")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A query and a code that answers it, where both come from, and what is known not to fit.

    ``license`` is an SPDX id, or the name of a licence file that was not recognised. ``negatives`` are codes that do
    not answer the query, ``negative_queries`` queries that were judged not to be answered by the code.
    """

    query: str
    code: str
    language: str = ""
    repository: str = ""
    path: str = ""
    license: str = ""
    negatives: tuple[str, ...] = ()
    negative_queries: tuple[str, ...] = ()


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write one JSON object a line, gzipped if ``path`` ends in ``.gz``; a kill leaves the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            # no time stamp and no name in the archive: the same pairs make the same bytes
            out = gzip.GzipFile("", "wb", fileobj=stream, mtime=0) if path.suffix == ".gz" else stream
            for pair in pairs:
                row = {"query": pair.query, "code": pair.code}
                row |= {name: value for name in (*_TEXTS, *_LISTS) if (value := getattr(pair, name))}
                out.write(json.dumps(row).encode() + b"\n")
            if out is not stream:
                out.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_pairs(path: str | Path) -> list[Pair]:
    """Read what ``write_pairs`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an empty file, or a line that is no pair; the message names the line.
    """
    return [_pair(row, where) for where, row in _rows(Path(path))]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON lines file, each with words for where it is."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; name a .jsonl or .jsonl.gz file of pairs")
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
                    raise ValueError(f"{where} is not JSON ({error}); write one object a line") from error
                if not isinstance(row, dict):
                    raise ValueError(f"{where} is {row!r:.80}; write an object with query and code")
                empty = False
                yield where, row
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is no whole gzip file after line {number} ({error}); write it again") from error
    if empty:
        raise ValueError(f"{path} holds no pair; write one JSON object with query and code a line")


def _pair(row: dict[str, Any], where: str) -> Pair:
    for name in ("query", "code", *_TEXTS):
        value = row.get(name, None if name in ("query", "code") else "")
        if value is None and name not in row:
            raise ValueError(f"{where} has no {name}, only {', '.join(row) or 'nothing'}; a pair needs query and code")
        if not isinstance(value, str):
            raise ValueError(f"{where} has the {name} {value!r:.80}; it must be a string")
        if name in ("query", "code") and not value.strip():
            raise ValueError(f"{where} has the {name} {value!r:.80}, which is empty; write a text or drop the line")
    for name in _LISTS:
        value = row.get(name, [])
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            raise ValueError(f"{where} has the {name} {value!r:.80}; it must be a list of strings that are not empty")
    return Pair(
        **{name: row[name] for name in ("query", "code", *_TEXTS) if name in row},
        **{name: tuple(row[name]) for name in _LISTS if name in row},
    )
