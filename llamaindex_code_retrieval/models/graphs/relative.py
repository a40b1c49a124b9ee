"""Relative position bias: T5 and MPNet add a learned number to attention scores by the distance of two tokens."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval.models.graphs.operations import Array


def bias_by_distance(weight: Array, *, max_distance: int) -> Array:
    """Return the bias of each head at the distances from ``-max_distance`` to ``max_distance``, (heads, distances).

    ``weight`` has the shape (buckets, heads).
    """
    buckets = distance_buckets(np.arange(-max_distance, max_distance + 1), len(weight), max_distance=max_distance)
    by_distance: Array = weight[buckets].T
    return by_distance


def distance_buckets(distances: NDArray[np.int64], buckets: int, *, max_distance: int) -> NDArray[np.int64]:
    """Return the bucket of each distance: half of the buckets are for tokens behind.

    Half of those hold one distance each; the others widen logarithmically up to ``max_distance``.
    """
    half = buckets // 2
    exact = half // 2
    size = np.abs(distances)
    # In fp32, as transformers computes it: a distance on the border of two buckets may fall to either by rounding.
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    wide = exact + (ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)).astype(np.int64)
    return np.where(distances > 0, half, 0) + np.where(size < exact, size, np.minimum(wide, half - 1))
