"""Training pairs, a query and the code that answers it: read, mined from source code, split and varied."""

from __future__ import annotations

import gzip
import json
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import open_atomically, short_hash
from llamaindex_code_retrieval.eval.beir import Split, data_folder, read_split
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.training.mining.comments import summary

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
    with open_atomically(path) as stream:
        # no time stamp and no name in the archive: the same pairs make the same bytes
        out = gzip.GzipFile("", "wb", fileobj=stream, mtime=0) if path.suffix == ".gz" else stream
        for pair in pairs:
            row = {"query": pair.query, "code": pair.code}
            row |= {name: value for name in (*_TEXTS, *_LISTS) if (value := getattr(pair, name))}
            out.write(json.dumps(row).encode() + b"\n")
        if out is not stream:
            out.close()


def read_pairs(path: str | Path) -> list[Pair]:
    """Read what ``write_pairs`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an empty file, or a line that is no pair; the message names the line.
    """
    return [_pair(row, where) for where, row in jsonl_rows(Path(path))]


def jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON lines file, each with words for where it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line that is no object, a damaged gzip file, or no line at all.
    """
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
    known: dict[str, Any] = {name: row[name] for name in ("query", "code", *_TEXTS) if name in row}
    known |= {name: tuple(row[name]) for name in _LISTS if name in row}
    return Pair(**known)


# --- sets of pairs from elsewhere ------------------------------------------------------------------------------------


def load_pairs(source: str) -> list[Pair]:
    """Read pairs from wherever ``source`` says.

    - a ``.jsonl`` or ``.jsonl.gz`` file: ours, or CodeSearchNet's, known by its fields;
    - a folder in BEIR's layout, or the name of one in ``$CODE_RETRIEVAL_DATA``: its split ``train``, or the split that
      stands behind a colon, as in ``cosqa:dev``;
    - ``hf:org/name`` or ``hf:org/name:split``: a data set of the Hugging Face hub, read by ``datasets``.

    Raises:
        FileNotFoundError: there is no such file, folder or split.
        ValueError: what is there is not laid out as above, or holds no pair.
        ImportError: a hub data set without the package ``datasets``.
    """
    if source.startswith("hf:"):
        return _hub_pairs(source.removeprefix("hf:"))
    if source.endswith((".jsonl", ".jsonl.gz")):
        pairs = [pair for where, row in jsonl_rows(Path(source)) if (pair := _any_pair(row, where)) is not None]
        if not pairs:
            raise ValueError(f"{source} has no row with both a description and a code; name a file with some")
        return pairs
    return _beir_pairs(named_split(source))


def named_split(source: str) -> Split:
    """Read a split as ``folder:split`` or ``name:split`` says; ``train`` where no split is named.

    Raises:
        FileNotFoundError: there is no such folder or split.
        ValueError: what is there is not in BEIR's layout.
    """
    name, colon, split = source.rpartition(":")
    if not colon or Path(source).is_dir():
        name, split = source, "train"
    folder = Path(name) if Path(name).is_dir() else data_folder(name)
    if folder is None:
        data = os.environ.get("CODE_RETRIEVAL_DATA", "not set")
        raise FileNotFoundError(
            f"{name} is no folder, nor one in CODE_RETRIEVAL_DATA ({data}); name a .jsonl file, a folder "
            "with corpus.jsonl, queries.jsonl and qrels/, or hf:org/name"
        )
    return read_split(folder, split)


_DESCRIPTIONS = ("query", "docstring", "func_documentation_string", "docstring_tokens", "func_documentation_tokens")
_CODES = ("code", "func_code_string", "code_tokens", "func_code_tokens")


def _any_pair(row: dict[str, Any], where: str) -> Pair | None:
    """Return a row of ours or of CodeSearchNet's as a pair, ``None`` where its description or code is empty."""
    if "query" in row and "func_name" not in row:
        return _pair(row, where)
    description_name = next((name for name in _DESCRIPTIONS if name in row), None)
    code_name = next((name for name in _CODES if name in row), None)
    if description_name is None or code_name is None:
        raise ValueError(
            f"{where} has the fields {', '.join(row) or 'none'}; a pair needs query and code, or CodeSearchNet's "
            "docstring and code"
        )
    texts = []
    for name in (description_name, code_name):
        value = row[name]
        if isinstance(value, list) and all(isinstance(token, str) for token in value):
            value = " ".join(value)
        if not isinstance(value, str):
            raise ValueError(f"{where} has the {name} {value!r:.80}; it must be a string or a list of tokens")
        texts.append(value)
    description, code = texts
    language = str(row.get("language") or "").lower()
    query = summary(description) or " ".join(description.split("\n\n")[0].split())
    if language == "python" and (found := definitions(code, "python")):
        code = textwrap.dedent(found[0].code_without_docstring)
    if not query.strip() or not code.strip():
        return None
    return Pair(
        query=query,
        code=code,
        language=language,
        repository=str(row.get("repo") or row.get("repository_name") or ""),
        path=str(row.get("path") or row.get("func_path_in_repository") or ""),
    )


def _beir_pairs(judged: Split) -> list[Pair]:
    rows = [(query, code, score) for query, scores in judged.qrels.items() for code, score in scores.items()]
    rejected_codes: dict[str, list[str]] = {}
    rejected_queries: dict[str, list[str]] = {}
    for query, code, score in rows:
        if score <= 0:
            rejected_codes.setdefault(query, []).append(judged.corpus[code])
            rejected_queries.setdefault(code, []).append(judged.queries[query])
    pairs = [
        Pair(
            query=judged.queries[query],
            code=judged.corpus[code],
            language=judged.languages.get(code, ""),
            negatives=tuple(rejected_codes.get(query, ())),
            negative_queries=tuple(rejected_queries.pop(code, ())),  # on the code's first pair only: no doubles
        )
        for query, code, score in rows
        if score > 0
    ]
    if not pairs:
        raise ValueError(f"{judged.file} names no code that answers a query (score over 0), so there is no pair")
    return pairs


def _hub_pairs(source: str) -> list[Pair]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "reading hf: data sets needs `datasets`; pip install 'llamaindex-code-retrieval[train]'"
        ) from error
    name, colon, split = source.rpartition(":")
    if not colon:
        name, split = source, "train"
    try:
        rows = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"hf:{source} cannot be read ({type(error).__name__}: {error}); is the name right, has it the split "
            f"{split!r}, and can the hub be reached? A .jsonl file of the same rows works without it"
        ) from error
    pairs = [_any_pair(dict(row), f"hf:{source}, row {number}") for number, row in enumerate(rows, start=1)]
    found = [pair for pair in pairs if pair is not None]
    if not found:
        raise ValueError(f"hf:{source} has no row with both a description and a code")
    return found


def pairs_fingerprint(pairs: Sequence[Pair]) -> str:
    """Return 16 hex digits over all that training reads of the pairs, their order included."""
    return short_hash(
        json.dumps((pair.query, pair.code, pair.language, *pair.negatives, "", *pair.negative_queries))
        for pair in pairs
    )
