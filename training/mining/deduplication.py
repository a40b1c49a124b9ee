"""Leave out pairs: repeated ones, near-duplicates of each other and of evaluation sets, and those beyond a limit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from llamaindex_code_retrieval._io import Progress
from llamaindex_code_retrieval.training.mining.benchmarks import Benchmarks
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.pairs import Pair

MAX_SAME_QUERY = 3
"""A query that more functions of one repository share does not describe any of them."""
MAX_SAME_CODE = {"commit": 3, "section": 3, "test": 3}
"""How many queries of a kind near-duplicate codes may have; one of the other kinds."""


def deduplicate(
    pairs: Sequence[Pair], benchmarks: Benchmarks, dropped: Counter[str], on_progress: Progress
) -> list[Pair]:
    """Return the pairs without repeated codes, queries of many functions, near-duplicates, and what benchmarks use.

    Pairs of different kinds may have the same code.
    """
    first: dict[tuple[str, str, str], Pair] = {}
    for pair in pairs:
        several = pair.kind in MAX_SAME_CODE
        key = (pair.kind, " ".join(pair.code.split()), pair.query.lower() if several else "")
        first.setdefault(key, pair)
    distinct = list(first.values())
    dropped["same code as another"] += len(pairs) - len(distinct)

    uses = Counter((pair.kind, pair.repository, pair.query.lower()) for pair in distinct)
    specific = [pair for pair in distinct if uses[pair.kind, pair.repository, pair.query.lower()] <= MAX_SAME_QUERY]
    dropped[f"description of over {MAX_SAME_QUERY} functions"] += len(distinct) - len(specific)

    unseen = [pair for pair in specific if pair.query.lower() not in benchmarks.queries]
    dropped["query of a benchmark"] += len(specific) - len(unseen)
    return _without_near_duplicates(unseen, benchmarks, dropped, on_progress)


def _without_near_duplicates(
    pairs: Sequence[Pair], benchmarks: Benchmarks, dropped: Counter[str], on_progress: Progress
) -> list[Pair]:
    on_progress("compare", 0, len(pairs))
    clusters = near_duplicate_clusters([*benchmarks.codes, *(pair.code for pair in pairs)])
    known = len(benchmarks.codes)
    kept: list[Pair] = []
    uses: Counter[tuple[str, int]] = Counter()
    for pair, cluster in zip(pairs, clusters[known:], strict=True):
        uses[pair.kind, cluster] += 1
        if cluster < known:
            dropped["near-duplicate of a benchmark"] += 1
        elif uses[pair.kind, cluster] > MAX_SAME_CODE.get(pair.kind, 1):
            dropped["near-duplicate of another"] += 1
        else:
            kept.append(pair)
    on_progress("compare", len(pairs), len(pairs))
    return kept


def limit_per_repository(pairs: Sequence[Pair], limit: int, dropped: Counter[str]) -> list[Pair]:
    """Return at most ``limit`` pairs of each kind and repository: those whose texts have the smallest SHA-256."""
    selected: set[int] = set()
    counts: Counter[tuple[str, str]] = Counter()

    def digest(number: int) -> bytes:
        pair = pairs[number]
        text = pair.code if pair.kind not in MAX_SAME_CODE else f"{pair.code}\0{pair.query}"
        return hashlib.sha256(text.encode(errors="replace")).digest()

    for number in sorted(range(len(pairs)), key=digest):
        key = pairs[number].kind, pairs[number].repository
        counts[key] += 1
        if counts[key] <= limit:
            selected.add(number)
    dropped[f"beyond {limit} per repository"] += len(pairs) - len(selected)
    return [pair for number, pair in enumerate(pairs) if number in selected]
