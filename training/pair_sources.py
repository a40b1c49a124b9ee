"""Load pairs from JSON lines files, BEIR folders, CodeSearchNet and the Hugging Face hub."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval.eval.datasets import Split, data_folder, read_split
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.training.mining.comments import summary
from llamaindex_code_retrieval.training.pairs import Pair, pair_from_row, read_jsonl


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
        pairs = [pair for where, row in read_jsonl(Path(source)) if (pair := _pair(row, where)) is not None]
        if not pairs:
            raise ValueError(f"{source} has no row with both a description and a code; name a file with some")
        return pairs
    return _beir_pairs(read_named_split(source))


def read_named_split(source: str) -> Split:
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


def _pair(row: dict[str, Any], where: str) -> Pair | None:
    """Return a row of ours or of CodeSearchNet's as a pair, ``None`` where its description or code is empty."""
    if "query" in row and "func_name" not in row:
        return pair_from_row(row, where)
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
    pairs = [_pair(dict(row), f"hf:{source}, row {number}") for number, row in enumerate(rows, start=1)]
    found = [pair for pair in pairs if pair is not None]
    if not found:
        raise ValueError(f"hf:{source} has no row with both a description and a code")
    return found
