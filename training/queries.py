"""Load queries without answers, from which a student learns its teacher's vectors."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from llamaindex_code_retrieval.training.pair_sources import read_named_split
from llamaindex_code_retrieval.training.pairs import read_jsonl


def load_queries(source: str) -> list[str]:
    """Return the distinct queries of a source in their order.

    - a ``.txt`` file with one query a line, such as a search log;
    - a ``.jsonl`` or ``.jsonl.gz`` file whose rows have the field ``query`` or ``text``: the output of ``mine``, or
      BEIR's queries;
    - a folder in BEIR's layout, or the name of one in ``$CODE_RETRIEVAL_DATA``: all queries of the split ``train``, or
      of the split after a colon (``cosqa:dev``), with or without an answer.

    Raises:
        FileNotFoundError: there is no such file, folder or split.
        ValueError: the source has another layout or holds no query.
    """
    if source.endswith(".txt"):
        if not Path(source).is_file():
            raise FileNotFoundError(f"{source} is not a file; name a .txt file with one query a line")
        texts = Path(source).read_text(encoding="utf-8", errors="replace").splitlines()
    elif source.endswith((".jsonl", ".jsonl.gz")):
        texts = [_query(row, where) for where, row in read_jsonl(Path(source))]
    else:
        split = read_named_split(source)
        texts = [split.queries[query] for query in split.qrels]
    queries = list(dict.fromkeys(query.strip() for query in texts if query.strip()))
    if not queries:
        raise ValueError(f"{source} holds no query; name a file with one query a line")
    return queries


def sample_queries(queries: Sequence[str], count: int, *, seed: int) -> list[str]:
    """Return at most ``count`` distinct queries in an order drawn by ``seed``."""
    distinct = list(dict.fromkeys(queries))
    return random.Random(seed).sample(distinct, min(count, len(distinct)))


def _query(row: dict[str, object], where: str) -> str:
    text = row.get("query", row.get("text"))
    if not isinstance(text, str):
        raise ValueError(f"{where} has no field query or text that is a string: {json.dumps(row)[:80]}")
    return text
