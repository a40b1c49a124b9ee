"""Load pairs from JSON lines files, CodeSearchNet, folders in BEIR's layout and the Hugging Face hub."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._optional import check_installed, require
from llamaindex_code_retrieval.eval.datasets import Split, data_folder, read_split
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.training.pairs import Pair, check_file, pair_from_row, read_jsonl
from llamaindex_code_retrieval.training.repositories.comments import summary

_HUB_PREFIX = "hf:"


def load_pairs(*sources: str) -> list[Pair]:
    """Read the pairs of one or several sources, in their order.

    A source is

    - a ``.jsonl`` or ``.jsonl.gz`` file, written by :func:`.write_pairs` or in CodeSearchNet's format;
    - a folder in BEIR's layout, or the name of one in ``$CODE_RETRIEVAL_DATA``. Its split ``train`` is read, or the
      split named after a colon, as in ``cosqa:dev``;
    - ``hf:org/name`` or ``hf:org/name:split``: a data set of the Hugging Face hub, read with ``datasets``.

    All files and folders, and whether ``datasets`` is installed, are checked before the first source is read.

    Raises:
        FileNotFoundError: a file, folder or split does not exist.
        ValueError: a source is in none of these formats, or holds no pair.
        ImportError: a hub data set is named and ``datasets`` is missing.
    """
    for source in sources:
        if source.startswith(_HUB_PREFIX):
            _hub_name_and_split(source)
            check_installed("datasets", extra="train", purpose=f"reading {source}")
        elif _is_file(source):
            check_file(Path(source))
        else:
            _find_split(source)
    return [pair for source in sources for pair in _load(source)]


def _load(source: str) -> list[Pair]:
    if source.startswith(_HUB_PREFIX):
        return _load_from_hub(source)
    if _is_file(source):
        pairs = [pair for where, row in read_jsonl(Path(source)) if (pair := _pair_from_any_row(row, where))]
        if not pairs:
            raise ValueError(f"{source} has no row with both a description and a code; name a file with some")
        return pairs
    return _pairs_from_judgements(read_named_split(source))


def _is_file(source: str) -> bool:
    return source.endswith((".jsonl", ".jsonl.gz"))


def read_named_split(source: str) -> Split:
    """Read a split named by ``folder:split`` or ``name:split``, or the split ``train`` of ``folder`` or ``name``.

    Raises:
        FileNotFoundError: the folder or split does not exist.
        ValueError: the folder is not in BEIR's layout.
    """
    return read_split(*_find_split(source))


def _find_split(source: str) -> tuple[Path, str]:
    name, colon, split = source.rpartition(":")
    if not colon or Path(source).is_dir():
        name, split = source, "train"
    folder = Path(name) if Path(name).is_dir() else data_folder(name)
    if folder is None:
        data = os.environ.get("CODE_RETRIEVAL_DATA", "not set")
        raise FileNotFoundError(
            f"{name} is not a folder, and there is none of that name in CODE_RETRIEVAL_DATA ({data}); name a .jsonl "
            "file, a folder with corpus.jsonl, queries.jsonl and qrels/, or hf:org/name"
        )
    return folder, split


_DESCRIPTIONS = ("query", "docstring", "func_documentation_string", "docstring_tokens", "func_documentation_tokens")
_CODES = ("code", "func_code_string", "code_tokens", "func_code_tokens")


def _pair_from_any_row(row: dict[str, Any], where: str) -> Pair | None:
    """Return the pair of a row of either format, or ``None`` if its description or code is empty."""
    if "query" in row and "func_name" not in row:
        return pair_from_row(row, where)
    description_name = next((name for name in _DESCRIPTIONS if name in row), None)
    code_name = next((name for name in _CODES if name in row), None)
    if description_name is None or code_name is None:
        raise ValueError(
            f"{where} has the fields {', '.join(row) or 'none'}; a pair needs query and code, or CodeSearchNet's "
            "docstring and code"
        )
    description, code = _text(row, description_name, where), _text(row, code_name, where)
    language = str(row.get("language") or "").lower()
    query = summary(description) or " ".join(description.split("\n\n")[0].split())
    if language == "python" and (functions := definitions(code, "python")):
        code = textwrap.dedent(functions[0].code_without_docstring)
    if not query.strip() or not code.strip():
        return None
    return Pair(
        query=query,
        code=code,
        language=language,
        repository=str(row.get("repo") or row.get("repository_name") or ""),
        path=str(row.get("path") or row.get("func_path_in_repository") or ""),
    )


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row[name]
    if isinstance(value, list) and all(isinstance(token, str) for token in value):
        value = " ".join(value)
    if not isinstance(value, str):
        raise ValueError(f"{where} has the {name} {value!r:.80}; it must be a string or a list of tokens")
    return value


def _pairs_from_judgements(split: Split) -> list[Pair]:
    """Return a pair for each relevant code; codes judged irrelevant become negatives."""
    rows = [(query, code, score) for query, scores in split.qrels.items() for code, score in scores.items()]
    rejected_codes: dict[str, list[str]] = {}
    rejected_queries: dict[str, list[str]] = {}
    for query, code, score in rows:
        if score <= 0:
            rejected_codes.setdefault(query, []).append(split.corpus[code])
            rejected_queries.setdefault(code, []).append(split.queries[query])
    pairs = [
        Pair(
            query=split.queries[query],
            code=split.corpus[code],
            language=split.languages.get(code, ""),
            negatives=tuple(rejected_codes.get(query, ())),
            negative_queries=tuple(rejected_queries.pop(code, ())),  # on the code's first pair only
        )
        for query, code, score in rows
        if score > 0
    ]
    if not pairs:
        raise ValueError(f"{split.file} judges no code relevant to a query (score over 0), so there are no pairs")
    return pairs


def _hub_name_and_split(source: str) -> tuple[str, str]:
    """Return the name and the split of ``hf:name`` or ``hf:name:split``.

    Raises:
        ValueError: the name or the split is empty.
    """
    name, _, split = source.removeprefix(_HUB_PREFIX).partition(":")
    if not name.strip() or (":" in source.removeprefix(_HUB_PREFIX) and not split.strip()):
        raise ValueError(f"{source!r} names no data set; write hf:org/name or hf:org/name:split")
    return name, split or "train"


def _load_from_hub(source: str) -> list[Pair]:
    datasets = require("datasets", extra="train", purpose=f"reading {source}")
    name, split = _hub_name_and_split(source)
    try:
        rows = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{source} cannot be read ({type(error).__name__}: {error}); check the name, the split {split!r} and "
            "the connection to the hub, or name a .jsonl file of the same rows"
        ) from error
    numbered = enumerate(rows, start=1)
    pairs = [pair for number, row in numbered if (pair := _pair_from_any_row(dict(row), f"{source}, row {number}"))]
    if not pairs:
        raise ValueError(f"{source} has no row with both a description and a code; name another data set or split")
    return pairs
