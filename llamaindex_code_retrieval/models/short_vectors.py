"""Cut vectors to their first numbers (Matryoshka embeddings: Kusupati et al. 2022)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import json_hash, read_json
from llamaindex_code_retrieval.models.files import DAMAGED, TRAIN_CONFIG

logger = logging.getLogger(__name__)


def shortened(vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """Return the first ``dimensions`` numbers of each vector, scaled to unit length again; all of them for ``None``.

    >>> shortened(np.array([[0.6, 0.0, 0.8]], dtype=np.float32), 2).tolist()
    [[1.0, 0.0]]
    """
    if dimensions is None:
        return vectors
    cut = vectors[:, :dimensions]
    short: NDArray[np.float32] = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    return short


def short_fingerprint(fingerprint: str, dimensions: int | None) -> str:
    """Return the fingerprint of a model's vectors cut to ``dimensions``."""
    return fingerprint if dimensions is None else json_hash({"vectors": fingerprint, "dimensions": dimensions})


def check_dimensions(dimensions: int | None, dim: int) -> None:
    """Check that vectors of ``dim`` numbers can be cut to ``dimensions``.

    Raises:
        ValueError: they cannot.
    """
    if dimensions is not None and not 1 <= dimensions <= dim:
        raise ValueError(f"dimensions must be from 1 to {dim}, the length of this model's vectors, got {dimensions}")


def warn_if_untrained(adapter: Path, dimensions: int | None) -> None:
    """Log a warning if an adapter was not trained for vectors of this length."""
    if dimensions is None:
        return
    record = read_json(adapter / TRAIN_CONFIG, remedy=DAMAGED) if (adapter / TRAIN_CONFIG).is_file() else {}
    if dimensions not in record.get("train", {}).get("dimensions", []):
        logger.warning(
            "the adapter %s was not trained for vectors of %d numbers, so cutting them costs more quality than it "
            "has to; train one with dimensions=[%d]",
            adapter.name,
            dimensions,
            dimensions,
        )
