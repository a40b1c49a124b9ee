"""Unit vectors by id on FAISS: add, remove, search, write and read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval.index.ivf import (
    EXACT_LIMIT,
    import_faiss,
    new_index,
    number_of_cells,
    sample_rows,
    search,
    train,
)

_FORMAT = 1
_UNIT_TOLERANCE = 1e-3  # vectors whose length is this close to 1 are stored unchanged


class VectorTable:
    """Vectors by id in a FAISS index, each with the id of its document and, if given, its metadata.

    The index is an inverted file (IVF), see :mod:`llamaindex_code_retrieval.index.ivf`: of one cell, so that a search
    compares every vector, up to ``exact_limit`` vectors, and of more above. The cells are trained again when the table
    has grown fourfold. IVF and not HNSW, because HNSW cannot delete.

    FAISS numbers the vectors. A number is never used twice, so that no number refers to another vector after a
    deletion. A table must not be changed during a search; :class:`FaissStore` prevents that.
    """

    def __init__(self, dim: int, *, exact_limit: int = EXACT_LIMIT) -> None:
        self.dim = dim
        self.exact_limit = exact_limit
        self.index: Any = _index_of(np.empty((0, dim), dtype=np.float32), [], exact_limit=exact_limit)
        self.documents: dict[str, str] = {}
        self.metadata: dict[str, Mapping[str, Any]] = {}
        self._numbers: dict[str, int] = {}
        self._ids: dict[int, str] = {}
        self._next_number = 0
        self._trained_on = 0  # number of vectors at the last training; 0: exact

    @property
    def is_exact(self) -> bool:
        """Whether every vector is compared."""
        return self._trained_on == 0

    @property
    def ids(self) -> Collection[str]:
        """The ids in the order in which they were added."""
        return self._numbers.keys()

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._numbers

    def copy(self) -> VectorTable:
        """Return a table of the same content that can be changed independently."""
        copy = VectorTable(self.dim, exact_limit=self.exact_limit)
        copy.index = import_faiss().clone_index(self.index)
        copy.documents, copy.metadata = dict(self.documents), dict(self.metadata)
        copy._numbers, copy._ids = dict(self._numbers), dict(self._ids)
        copy._next_number, copy._trained_on = self._next_number, self._trained_on
        return copy

    def check(self, ids: Sequence[str], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``vectors`` scaled to length 1 (zero stays zero).

        Raises:
            ValueError: the shape is not ``(ids, dim)``, a value is not finite, or an id occurs twice.
        """
        if vectors.shape != (len(ids), self.dim):
            raise ValueError(f"expected vectors of shape ({len(ids)}, {self.dim}), got {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("vectors hold NaN or infinity; the embedding model is broken")
        if len(set(ids)) != len(ids):
            raise ValueError("a node id occurs twice in one call")
        return _unit(vectors)

    def add(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        documents: Sequence[str],
        metadata: Sequence[Mapping[str, Any]] | None,
    ) -> None:
        """Add vectors that :meth:`check` returned; an id that is present is replaced."""
        if not ids:
            return
        self.remove(ids)
        numbers = np.arange(self._next_number, self._next_number + len(ids), dtype=np.int64)
        self._next_number += len(ids)
        self.index.add_with_ids(np.ascontiguousarray(vectors), numbers)
        for id_, number, document in zip(ids, numbers.tolist(), documents, strict=True):
            self._numbers[id_] = number
            self._ids[number] = id_
            self.documents[id_] = document
        if metadata is not None:
            self.metadata.update(zip(ids, metadata, strict=True))
        self._retrain_if_outgrown()

    def remove(self, ids: Collection[str]) -> None:
        """Remove vectors; ids that are not present are ignored."""
        present = [id_ for id_ in ids if id_ in self._numbers]
        if not present:
            return
        numbers = [self._numbers.pop(id_) for id_ in present]
        self.index.remove_ids(np.asarray(numbers, dtype=np.int64))
        for id_, number in zip(present, numbers, strict=True):
            del self._ids[number]
            del self.documents[id_]
            self.metadata.pop(id_, None)

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the stored vectors, shape ``(ids, dim)``; an unknown id is a KeyError."""
        rows: NDArray[np.float32] = np.empty((len(ids), self.dim), dtype=np.float32)
        for row, id_ in enumerate(ids):
            rows[row] = self.index.reconstruct(self._numbers[id_])
        return rows

    def search(self, query: Sequence[float], *, top_k: int, among: Collection[str] | None) -> list[tuple[str, float]]:
        """Return (id, cosine) of the ``top_k`` nearest vectors, of the ids ``among`` if given; ties by id.

        Raises:
            ValueError: the query has another dimension, or is not finite.
        """
        vector = np.asarray([query], dtype=np.float32)
        if vector.shape[1] != self.dim:
            raise ValueError(
                f"the query has {vector.shape[1]} dimensions, the store {self.dim}; embed it with the same model"
            )
        if not np.isfinite(vector).all():
            raise ValueError("the query vector holds NaN or infinity; the embedding model is broken")
        selector, matching = None, len(self)
        if among is not None:
            allowed = np.asarray([self._numbers[id_] for id_ in set(among) if id_ in self._numbers], dtype=np.int64)
            selector, matching = import_faiss().IDSelectorBatch(allowed), len(allowed)
        numbers, scores = search(self.index, _unit(vector)[0], top_k=top_k, selector=selector, matching=matching)
        hits = zip((self._ids[number] for number in numbers.tolist()), scores.tolist(), strict=True)
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:top_k]

    def _retrain_if_outgrown(self) -> None:
        if len(self) <= max(self.exact_limit, 4 * self._trained_on):
            return
        vectors = self.vectors(list(self._numbers))
        self.index = _index_of(vectors, list(self._numbers.values()), exact_limit=self.exact_limit)
        self._trained_on = len(vectors)

    def write(self, file: BinaryIO) -> None:
        """Write one line of JSON, then the FAISS index as FAISS writes it.

        Raises:
            TypeError: metadata that is not JSON.
        """
        faiss = import_faiss()
        header = {
            "format": _FORMAT,
            "dim": self.dim,
            "exact_limit": self.exact_limit,
            "next": self._next_number,
            "trained_on": self._trained_on,
            "nodes": [[id_, number, self.documents[id_]] for id_, number in self._numbers.items()],
            "metadata": self.metadata,
        }
        try:
            line = json.dumps(header)
        except TypeError as error:
            raise TypeError(
                f"the metadata of a node cannot be saved as JSON: {error}; store text or numbers"
            ) from error
        file.write(line.encode() + b"\n")
        faiss.write_index(_without_map(self.index), faiss.PyCallbackIOWriter(file.write))

    @classmethod
    def read(cls, file: BinaryIO, name: str, *, separate_header: bytes | None = None) -> VectorTable:
        """Read what :meth:`write` wrote; ``name`` is the file's, for messages.

        Older files hold the FAISS index alone; their header comes from a second file.

        Raises:
            ValueError: the file is damaged, or of a newer format.
        """
        faiss = import_faiss()
        try:
            header: dict[str, Any] = json.loads(file.readline() if separate_header is None else separate_header)
            if header.get("format", _FORMAT) != _FORMAT:
                raise ValueError(f"its format is {header['format']}, this version reads {_FORMAT}")
            table = cls(header["dim"], exact_limit=header["exact_limit"])
            table.index = faiss.read_index(faiss.PyCallbackIOReader(file.read))
            if isinstance(table.index, faiss.IndexIDMap2):  # of an older version, and exact
                numbers = faiss.vector_to_array(table.index.id_map)
                vectors = faiss.downcast_index(table.index.index).reconstruct_n(0, len(numbers))
                table.index = _index_of(vectors, numbers, exact_limit=len(numbers))
            table.index.set_direct_map_type(faiss.DirectMap.Hashtable)
            table._next_number, table._trained_on = header["next"], header["trained_on"]
            for id_, number, document in header["nodes"]:
                table._numbers[id_] = number
                table._ids[number] = id_
                table.documents[id_] = document
            table.metadata = header.get("metadata", {})
            if table.index.ntotal != len(table) or table.index.d != table.dim:
                raise ValueError("its vectors and its ids do not belong together")
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:  # RuntimeError: FAISS
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{name} is not a FAISS index, or damaged: {reason}; build the index again") from error
        return table


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scales = np.where((np.abs(lengths - 1) > _UNIT_TOLERANCE) & (lengths > 0), lengths, 1)
    return vectors if (scales == 1).all() else (vectors / scales).astype(np.float32)


def _index_of(vectors: NDArray[np.float32], numbers: Sequence[int], *, exact_limit: int) -> Any:
    """Return a FAISS index from which single vectors can be read and removed by their numbers."""
    cells = number_of_cells(len(vectors), exact_limit=exact_limit)
    index = new_index(vectors.shape[1], cells)
    if cells > 1:
        train(index, vectors[sample_rows(len(vectors), cells=cells)])
    index.set_direct_map_type(import_faiss().DirectMap.Hashtable)
    index.add_with_ids(vectors, np.asarray(numbers, dtype=np.int64))
    return index


def _without_map(index: Any) -> Any:
    """Return an index of the same vectors without the map of their places, which is written in no certain order."""
    bare = import_faiss().IndexIVFFlat(index.quantizer, index.d, index.nlist, index.metric_type)
    bare.replace_invlists(index.invlists)
    bare.ntotal, bare.is_trained = index.ntotal, index.is_trained
    return bare
