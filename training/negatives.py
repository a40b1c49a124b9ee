"""Hard negatives: codes that the current model takes for answers, and that are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def hard_negatives(
    queries: NDArray[np.float32],
    codes: NDArray[np.float32],
    positives: Sequence[int],
    *,
    per_query: int,
    margin: float = 0.05,
    depth: int = 100,
    clusters: Sequence[int] | None = None,
    answers: Sequence[frozenset[int]] | None = None,
) -> list[list[int]]:
    """Return for each query the rows of at most ``per_query`` codes nearest to it that do not answer it.

    ``queries`` (n, dim) and ``codes`` (m, dim) are unit vectors, ``positives[i]`` is the code of query i, and
    ``answers[i]`` all that are known to answer it. False negatives are filtered by margin: a code nearer than the
    positive's cosine less ``margin`` is taken for an unmarked answer (NV-Retriever, Moreira et al. 2024, section 3),
    and so is a near-duplicate of an answer (the same ``clusters`` entry). Only the ``depth`` nearest
    codes are looked at.

    >>> codes = np.eye(3, dtype=np.float32)
    >>> hard_negatives(np.array([[0.8, 0.6, 0.0]], dtype=np.float32), codes, [0], per_query=1)
    [[1]]
    """
    if per_query < 1:
        raise ValueError(f"per_query must be at least 1, got {per_query}")
    groups = list(range(len(codes))) if clusters is None else clusters
    found: list[list[int]] = []
    for start in range(0, len(queries), 1024):
        scores = queries[start : start + 1024] @ codes.T  # (queries, codes)
        for i, row in enumerate(scores, start=start):
            known = answers[i] | {positives[i]} if answers is not None else {positives[i]}
            excluded = {groups[code] for code in known}
            size = min(len(row), depth + len(known))
            nearest = np.argpartition(-row, size - 1)[:size]
            nearest = nearest[np.lexsort((nearest, -row[nearest]))]
            limit = row[positives[i]] - margin
            found.append([int(j) for j in nearest if row[j] <= limit and groups[j] not in excluded][:per_query])
    return found
