"""``FaissStore``: a LlamaIndex vector store over FAISS that can delete, and says how it searches."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from numpy.typing import NDArray

EXACT_LIMIT = 100_000
"""Up to so many vectors the search is exact; above, an inverted file (IVF) over about 4·√n cells is searched."""


class FaissStore(BasePydanticVectorStore):
    """Unit vectors by node id; the score of a hit is the cosine.

    The rule: up to ``exact_limit`` vectors every one is compared (``IndexFlatIP``). Above it ``IndexIVFFlat`` with
    4·√n cells is trained, of which a sixteenth, at least 8, is searched; it is trained anew when the store has grown
    fourfold. IVF and not HNSW, because HNSW cannot delete and an index over code is updated all day.

    LlamaIndex's own ``FaissMapVectorStore`` numbers a new vector by the count of vectors, so that after a deletion a
    number is given twice and hits point to the wrong node; here numbers are never used again.

    Texts are not stored: pair it with a docstore, or use ``CodeIndex``.
    """

    stores_text: bool = False
    is_embedding_query: bool = True
    dim: int
    exact_limit: int = EXACT_LIMIT

    _index: Any = PrivateAttr()
    _numbers: dict[str, int] = PrivateAttr(default_factory=dict)
    _ids: dict[int, str] = PrivateAttr(default_factory=dict)
    _documents: dict[str, str] = PrivateAttr(default_factory=dict)
    _next: int = PrivateAttr(default=0)
    _trained_on: int = PrivateAttr(default=0)  # 0: exact

    def __init__(self, dim: int, *, exact_limit: int = EXACT_LIMIT) -> None:
        """Make an empty store of ``dim``-dimensional vectors.

        Raises:
            ImportError: FAISS is not installed; the message names both packages that provide it.
            ValueError: ``dim`` or ``exact_limit`` is not positive.
        """
        if dim < 1 or exact_limit < 1:
            raise ValueError(f"dim and exact_limit must be at least 1, got {dim} and {exact_limit}")
        super().__init__(dim=dim, exact_limit=exact_limit)  # type: ignore[call-arg]  # mypy sees the base's fields only
        faiss = _faiss()
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "FaissStore"

    @property
    def client(self) -> Any:
        """The FAISS index."""
        return self._index

    @property
    def is_exact(self) -> bool:
        """Whether every vector is compared."""
        return self._trained_on == 0

    def __bool__(self) -> bool:
        return True  # else an empty store is falsy, and LlamaIndex's `vector_store or SimpleVectorStore()` drops it

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._numbers

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        """Add nodes that carry embeddings; one whose id is present already is replaced. Return the ids."""
        if not nodes:
            return []
        vectors = np.asarray([node.get_embedding() for node in nodes], dtype=np.float32)
        documents = [node.ref_doc_id or node.node_id for node in nodes]
        return self.add_vectors([node.node_id for node in nodes], vectors, documents)

    def add_vectors(self, ids: Sequence[str], vectors: NDArray[np.float32], documents: Sequence[str]) -> list[str]:
        """Add ``vectors``, shape ``(ids, dim)``, and name the document that each comes from."""
        if vectors.shape != (len(ids), self.dim):
            raise ValueError(f"expected vectors of shape ({len(ids)}, {self.dim}), got {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("vectors hold NaN or infinity; the embedding model is broken")
        if len(set(ids)) != len(ids):
            raise ValueError("a node id occurs twice in one call")
        if not ids:
            return []
        self.delete_nodes([node_id for node_id in ids if node_id in self._numbers])
        numbers = np.arange(self._next, self._next + len(ids), dtype=np.int64)
        self._next += len(ids)
        self._index.add_with_ids(np.ascontiguousarray(vectors), numbers)
        for node_id, number, document in zip(ids, numbers.tolist(), documents, strict=True):
            self._numbers[node_id] = number
            self._ids[number] = node_id
            self._documents[node_id] = document
        self._retrain_if_outgrown()
        return list(ids)

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the stored vectors, shape ``(ids, dim)``; an unknown id is a KeyError."""
        numbers = np.asarray([self._numbers[node_id] for node_id in ids], dtype=np.int64)
        found: NDArray[np.float32] = np.empty((len(ids), self.dim), dtype=np.float32)
        for row, number in enumerate(numbers.tolist()):
            found[row] = self._index.reconstruct(number)
        return found

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a document."""
        self.delete_nodes([node_id for node_id, document in self._documents.items() if document == ref_doc_id])

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id; ids that are not present are ignored."""
        if filters is not None:
            raise ValueError("FaissStore keeps no metadata, so it cannot delete by metadata filters; pass node_ids")
        present = [node_id for node_id in node_ids or [] if node_id in self._numbers]
        if not present:
            return
        numbers = [self._numbers.pop(node_id) for node_id in present]
        self._index.remove_ids(np.asarray(numbers, dtype=np.int64))
        for node_id, number in zip(present, numbers, strict=True):
            del self._ids[number]
            del self._documents[node_id]

    def clear(self) -> None:
        """Delete all nodes."""
        self.delete_nodes(list(self._numbers))

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the ``similarity_top_k`` nodes of highest cosine, ties by node id."""
        if query.filters is not None and query.filters.filters:
            raise ValueError("FaissStore keeps no metadata, so it cannot filter by it; pass node_ids or doc_ids")
        if query.mode != VectorStoreQueryMode.DEFAULT:
            raise ValueError(f"FaissStore answers query mode 'default' only, got {query.mode.value!r}")
        if query.query_embedding is None:
            raise ValueError("FaissStore needs query.query_embedding")
        vector = np.asarray([query.query_embedding], dtype=np.float32)
        if vector.shape[1] != self.dim:
            raise ValueError(
                f"the query has {vector.shape[1]} dimensions, the store {self.dim}; embed it with the same model"
            )
        allowed = self._allowed(query)
        top_k = min(query.similarity_top_k, len(self) if allowed is None else len(allowed))
        if top_k < 1:
            return VectorStoreQueryResult(nodes=None, similarities=[], ids=[])
        scores, numbers = self._index.search(vector, top_k, params=self._search_parameters(allowed))
        hits = [(float(s), self._ids[n]) for s, n in zip(scores[0], numbers[0].tolist(), strict=True) if n >= 0]
        hits.sort(key=lambda hit: (-hit[0], hit[1]))
        return VectorStoreQueryResult(similarities=[score for score, _ in hits], ids=[node_id for _, node_id in hits])

    def _allowed(self, query: VectorStoreQuery) -> list[int] | None:
        if query.node_ids is None and query.doc_ids is None:
            return None
        documents = None if query.doc_ids is None else set(query.doc_ids)
        wanted = self._numbers if query.node_ids is None else query.node_ids
        return [
            self._numbers[node_id]
            for node_id in wanted
            if node_id in self._numbers and (documents is None or self._documents[node_id] in documents)
        ]

    def _search_parameters(self, allowed: list[int] | None) -> Any:
        faiss = _faiss()
        selector = None if allowed is None else faiss.IDSelectorBatch(np.asarray(allowed, dtype=np.int64))
        if not self.is_exact:
            return faiss.SearchParametersIVF(nprobe=max(8, self._index.nlist // 16), sel=selector)
        return None if selector is None else faiss.SearchParameters(sel=selector)

    def _retrain_if_outgrown(self) -> None:
        if len(self) <= max(self.exact_limit, 4 * self._trained_on):
            return
        faiss = _faiss()
        ids = list(self._numbers)
        vectors = self.vectors(ids)
        cells = 4 * round(math.sqrt(len(ids)))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(self.dim), self.dim, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = 0
        index.train(vectors)
        index.set_direct_map_type(faiss.DirectMap.Hashtable)  # lets single vectors be read and removed by number
        index.add_with_ids(vectors, np.asarray([self._numbers[node_id] for node_id in ids], dtype=np.int64))
        self._index, self._trained_on = index, len(ids)

    def persist(self, persist_path: str, fs: fsspec.AbstractFileSystem | None = None) -> None:
        """Write ``persist_path`` and ``persist_path`` + ``.ids.json``, each atomically; local folders only."""
        if fs is not None:
            raise ValueError("FAISS writes to local folders only; leave fs out")
        path = Path(persist_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = {
            "dim": self.dim,
            "exact_limit": self.exact_limit,
            "next": self._next,
            "trained_on": self._trained_on,
            "nodes": [[node_id, number, self._documents[node_id]] for node_id, number in self._numbers.items()],
        }
        temporary = path.with_name(path.name + ".tmp")
        _faiss().write_index(self._index, str(temporary))
        os.replace(temporary, path)
        names = _names_path(path)
        temporary = names.with_name(names.name + ".tmp")
        temporary.write_text(json.dumps(settings), encoding="utf-8")
        os.replace(temporary, names)

    @classmethod
    def from_persist_path(cls, persist_path: str | Path) -> FaissStore:
        """Read what :meth:`persist` wrote."""
        path = Path(persist_path)
        faiss = _faiss()
        settings = json.loads(_names_path(path).read_text(encoding="utf-8"))
        store = cls(settings["dim"], exact_limit=settings["exact_limit"])
        try:
            store._index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise ValueError(f"{path} is not a FAISS index, or damaged: {str(error).splitlines()[0]}") from error
        store._next, store._trained_on = settings["next"], settings["trained_on"]
        for node_id, number, document in settings["nodes"]:
            store._numbers[node_id] = number
            store._ids[number] = node_id
            store._documents[node_id] = document
        if store._index.ntotal != len(store) or store._index.d != store.dim:
            raise ValueError(f"{path} and {_names_path(path)} do not belong together; build the index anew")
        return store


def _names_path(path: Path) -> Path:
    return path.with_name(path.name + ".ids.json")


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "FAISS is not installed; run: pip install faiss-cpu (or faiss-gpu on a machine with CUDA), "
            "or pass another LlamaIndex vector store"
        ) from error
    return faiss
