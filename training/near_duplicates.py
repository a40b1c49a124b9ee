"""Find near-duplicates among codes: MinHash proposes, the Jaccard similarity of the token sets decides."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def near_duplicate_clusters(codes: Sequence[str], *, threshold: float = 0.8) -> list[int]:
    """Return a cluster number for each code: those joined by a chain of near-duplicates share one.

    Near-duplicates have a Jaccard similarity of ``threshold`` between their sets of five successive tokens; white space
    does not count. MinHash finds the candidates (64 permutations), the sets themselves decide.
    """
    from datasketch import MinHash, MinHashLSH

    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be over 0 and at most 1, got {threshold}")
    tokens = [tuple(_TOKEN.findall(code)) for code in codes]
    first = {each: place for place, each in reversed(list(enumerate(tokens)))}
    parent = [first[each] for each in tokens]
    distinct = sorted(set(parent))
    shingles = {place: _shingles(tokens[place]) for place in distinct}
    # weights: a missed candidate is lost, a wrong one only costs a comparison
    index = MinHashLSH(threshold=min(threshold, 0.99), num_perm=64, weights=(0.2, 0.8))
    sketches = MinHash.generator(shingles.values(), num_perm=64, hashfunc=int)

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
    """Return the sorted hashes of every five successive tokens, or of all of them where they are fewer."""
    runs = zip(*(tokens[skip:] for skip in range(5)), strict=False) if len(tokens) > 5 else [tokens]
    hashes = [zlib.crc32(" ".join(run).encode(errors="replace")) for run in runs]
    return np.unique(np.array(hashes, dtype=np.uint32))


def _jaccard(one: NDArray[np.uint32], two: NDArray[np.uint32]) -> float:
    common = len(np.intersect1d(one, two, assume_unique=True))
    return common / (len(one) + len(two) - common)
