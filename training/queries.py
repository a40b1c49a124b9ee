"""Queries without answers: what a student can learn its teacher's vectors from."""

from __future__ import annotations

import json
from pathlib import Path

from llamaindex_code_retrieval.training.pair_sources import read_named_split
from llamaindex_code_retrieval.training.pairs import read_jsonl


def load_queries(source: str) -> list[str]:
    """Read queries from wherever ``source`` says, each once, in their order.

    - a ``.txt`` file, a query a line: a search log, say;
    - a ``.jsonl`` or ``.jsonl.gz`` file whose rows have a ``query`` or a ``text``: what ``mine`` writes, or BEIR's
      queries;
    - a folder in BEIR's layout, or the name of one in ``$CODE_RETRIEVAL_DATA``: the queries of its split ``train``, or
      of the split behind a colon, whether they are answered or not.

    Raises:
        FileNotFoundError: there is no such file, folder or split.
        ValueError: what is there is not laid out as above, or holds no query.
    """
    if source.endswith(".txt"):
        if not Path(source).is_file():
            raise FileNotFoundError(f"{source} is no file; name a .txt file with a query a line")
        found = Path(source).read_text(encoding="utf-8", errors="replace").splitlines()
    elif source.endswith((".jsonl", ".jsonl.gz")):
        found = [_query(row, where) for where, row in read_jsonl(Path(source))]
    else:
        split = read_named_split(source)
        found = [split.queries[query] for query in split.qrels]
    queries = list(dict.fromkeys(query.strip() for query in found if query.strip()))
    if not queries:
        raise ValueError(f"{source} holds no query; give a file with one a line")
    return queries


def _query(row: dict[str, object], where: str) -> str:
    text = row.get("query", row.get("text"))
    if not isinstance(text, str):
        raise ValueError(f"{where} has no query or text that is a string: {json.dumps(row)[:80]}")
    return text
