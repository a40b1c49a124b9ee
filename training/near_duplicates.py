"""Find near-duplicates among codes: MinHash proposes, the Jaccard similarity of the token sets decides."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._optional import require


def near_duplicate_clusters(codes: Sequence[str], *, threshold: float = 0.8) -> list[int]:
    """Return a cluster number for each code: the position of the first code in its cluster.

    Two codes are near-duplicates if the sets of their sequences of five tokens have a Jaccard similarity of at least
    ``threshold``; white space is ignored. Codes that a chain of near-duplicates connects share a cluster. MinHash with
    64 permutations finds the candidates, so that a few near-duplicates can be missed, but none is reported wrongly.

    Raises:
        ValueError: ``threshold`` is not over 0 and at most 1.
        ImportError: the package ``datasketch`` is missing.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be over 0 and at most 1, got {threshold}")
    datasketch = require("datasketch", extra="train", purpose="finding near-duplicates")
    tokens = [tuple(_TOKEN.findall(code)) for code in codes]
    first = {each: place for place, each in reversed(list(enumerate(tokens)))}
    parent = [first[each] for each in tokens]
    distinct = sorted(set(parent))
    shingles = {place: _shingles(tokens[place]) for place in distinct}
    # weights of false positives and negatives: a wrong candidate costs a comparison, a missed one is lost
    index = datasketch.MinHashLSH(threshold=min(threshold, 0.99), num_perm=64, weights=(0.2, 0.8))
    sketches = datasketch.MinHash.generator(shingles.values(), num_perm=64, hashfunc=int)

    def find(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    for place, sketch in zip(distinct, sketches, strict=True):
        for other in index.query(sketch):
            one, two = find(place), find(other)
            if one != two and _jaccard(shingles[place], shingles[other]) >= threshold:
                parent[max(one, two)] = min(one, two)
        index.insert(place, sketch, check_duplication=False)
    return [find(place) for place in range(len(codes))]


_TOKEN = re.compile(r"\w+|[^\w\s]")


def _shingles(tokens: Sequence[str]) -> NDArray[np.uint32]:
    """Return the sorted distinct hashes of all sequences of five tokens, or of the one shorter sequence."""
    runs = zip(*(tokens[skip:] for skip in range(5)), strict=False) if len(tokens) > 5 else [tokens]
    hashes = [zlib.crc32(" ".join(run).encode(errors="replace")) for run in runs]
    return np.unique(np.array(hashes, dtype=np.uint32))


def _jaccard(one: NDArray[np.uint32], two: NDArray[np.uint32]) -> float:
    common = len(np.intersect1d(one, two, assume_unique=True))
    return common / (len(one) + len(two) - common)
