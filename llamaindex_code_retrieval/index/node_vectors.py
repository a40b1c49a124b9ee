"""Compute the vectors of nodes, and identify nodes that have the same vector."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval.embedding import node_language
from llamaindex_code_retrieval.index.embedders import Embedder
from llamaindex_code_retrieval.index.records import embedded_text
from llamaindex_code_retrieval.index.tables import NodeRow


class NodeVectors(NamedTuple):
    """Vectors that a model made of nodes."""

    vectors: NDArray[np.float32]
    """Unit vectors, shape ``(nodes, dim)``."""
    truncated: int
    """Number of nodes that are longer than the model reads."""


def embed_nodes(
    embedder: Embedder, rows: Sequence[NodeRow], *, on_batch: Callable[[int], object] | None = None
) -> NodeVectors:
    """Embed nodes; for ``on_batch`` see :meth:`.Embedder.embed_codes`.

    Raises:
        ValueError: the model returns a value that is not finite.
    """
    codes = [embedded_text(row) for row in rows]
    languages = [node_language(row.metadata) for row in rows]
    vectors = _unit(embedder.embed_codes(codes, languages, on_batch=on_batch))
    return NodeVectors(vectors, embedder.truncated_codes(codes))


def vector_key(row: NodeRow) -> bytes:
    """Return a key that is equal for nodes whose embedded text and model are equal."""
    text = embedded_text(row).encode("utf-8", "surrogatepass")
    return hashlib.sha256(row.model.encode() + b"\0" + text).digest()


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors scaled to length 1; zero stays zero.

    Raises:
        ValueError: a value is not finite.
    """
    if not np.isfinite(vectors).all():
        raise ValueError("vectors hold NaN or infinity; the embedding model is broken")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
