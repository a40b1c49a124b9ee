"""Vectors of an index in a LlamaIndex vector store instead of the database."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery
from numpy.typing import NDArray

from llamaindex_code_retrieval.index.faiss_store import FaissStore
from llamaindex_code_retrieval.index.filters import Condition
from llamaindex_code_retrieval.index.folder import rebuild_command
from llamaindex_code_retrieval.index.tables import Reading
from llamaindex_code_retrieval.index.view import Hit, View

logger = logging.getLogger(__name__)


class ExternalVectors:
    """The vectors of an index's nodes in a store that may hold other nodes too and may not filter."""

    def __init__(self, store: BasePydanticVectorStore) -> None:
        self._store = store

    def put(self, nodes: Sequence[TextNode], vectors: NDArray[np.float32], *, replaced: Collection[str]) -> None:
        """Add the vectors of nodes, ``replaced`` of which are there already."""
        if replaced:
            self._store.delete_nodes(sorted(replaced))
        rows = zip(nodes, vectors.tolist(), strict=True)
        self._store.add([node.model_copy(update={"embedding": vector}) for node, vector in rows])

    def remove(self, node_ids: Collection[str]) -> None:
        """Remove nodes."""
        self._store.delete_nodes(sorted(node_ids))

    def nearest(
        self,
        view: View,
        query: Sequence[float],
        *,
        top_k: int,
        condition: Condition | None = None,
        model: str | None = None,
    ) -> list[Hit]:
        """Return the best hits of the store that are nodes of ``view``, as :meth:`.View.nearest` does.

        The number of requested hits grows until enough of them are wanted.
        """
        allowed = view.allowed(condition, model)
        total = view.reading.count("nodes") if allowed is None else len(allowed)
        depth = top_k
        while True:
            found, has_more = self._search(query, depth)
            hits = [hit for hit in view.hits_of(found) if allowed is None or _contains(allowed, hit.number)]
            if len(hits) >= min(top_k, total) or not has_more:
                return hits[:top_k]
            depth *= 4

    def missing(self, reading: Reading, dim: int) -> int:
        """Return how many nodes of the index the store does not hold."""
        total = reading.count("nodes")
        if not total:
            return 0
        any_query = np.full(dim, dim**-0.5).tolist()
        depth = total
        while True:
            found, has_more = self._search(any_query, depth)
            present = len(reading.numbers_of(found))
            if present == total or not has_more:
                return total - present
            depth *= 4

    def _search(self, query: Sequence[float], top_k: int) -> tuple[dict[str, float], bool]:
        """Return the scores of the best hits by id, and whether there may be more."""
        result = self._store.query(VectorStoreQuery(query_embedding=list(query), similarity_top_k=top_k))
        ids = result.ids if result.ids is not None else [node.node_id for node in result.nodes or []]
        # Without scores the order of the store stands.
        scores = result.similarities if result.similarities is not None else [-float(i) for i in range(len(ids))]
        return dict(zip(ids, map(float, scores), strict=True)), len(ids) >= top_k


def _contains(numbers: NDArray[np.int64], number: int) -> bool:
    place = int(np.searchsorted(numbers, number))
    return place < len(numbers) and int(numbers[place]) == number


def check_dim(vector_store: BasePydanticVectorStore | None, dim: int) -> None:
    """Refuse a ``FaissStore`` of another dimension."""
    if isinstance(vector_store, FaissStore) and vector_store.dim != dim:
        raise ValueError(
            f"the vector store has {vector_store.dim} dimensions, the embedding {dim}; pass FaissStore({dim}), or "
            "leave vector_store out"
        )


def check_store(
    folder: Path, settings: Mapping[str, Any], reading: Reading, vector_store: BasePydanticVectorStore | None
) -> None:
    """Check that a vector store is that of an index.

    Raises:
        ValueError: the index keeps its vectors itself, or in a store that is missing or holds none of its nodes.
    """
    if vector_store is None:
        if settings["vector_store"] is not None:
            raise ValueError(f"{folder} keeps its vectors in a {settings['vector_store']}; pass it as vector_store")
        return
    if settings["vector_store"] is None:
        raise ValueError(f"the index in {folder} keeps its vectors itself; leave vector_store out")
    check_dim(vector_store, settings["dim"])
    nodes = reading.count("nodes")
    missing = ExternalVectors(vector_store).missing(reading, settings["dim"])
    if nodes and missing == nodes:
        raise ValueError(
            f"the {vector_store.class_name()} holds none of the {nodes} nodes of the index in {folder}; pass the store "
            f"that was in use when the index was made, or rebuild it with: {rebuild_command(folder, settings)}"
        )
    if missing:
        logger.warning(
            "the %s lacks %d of the %d nodes of the index in %s; remove the index and build it again",
            *(vector_store.class_name(), missing, nodes, folder),
        )
