"""``FaissStore``: a LlamaIndex vector store on FAISS with deletion, metadata filters and concurrent searches."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.simple import DEFAULT_VECTOR_STORE, NAMESPACE_SEP
from llama_index.core.vector_stores.types import (
    DEFAULT_PERSIST_DIR,
    DEFAULT_PERSIST_FNAME,
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import check_is_list, open_atomically
from llamaindex_code_retrieval._settings import PlainErrors
from llamaindex_code_retrieval.index.ivf import EXACT_LIMIT
from llamaindex_code_retrieval.index.metadata_filters import matcher_of
from llamaindex_code_retrieval.index.vectors import VectorTable


class FaissStore(PlainErrors, BasePydanticVectorStore):
    """Unit vectors by node id; the score of a hit is the cosine. Vectors are scaled to length 1.

    The search is exact up to ``exact_limit`` vectors and approximate above: see :class:`VectorTable`.

    LlamaIndex's own ``FaissMapVectorStore`` numbers a new vector by the count of vectors, so that after a deletion two
    vectors have one number and hits point to the wrong node; here a number is never used twice.

    Searches may run in several threads while another one adds or deletes: a search sees the store before or after a
    change. Copies (``copy``, ``deepcopy``) share the vectors until one of them changes.

    Metadata is stored, for ``MetadataFilters``. Texts are not: use a docstore, or ``CodeIndex``.
    """

    stores_text: bool = False
    is_embedding_query: bool = True
    dim: int = Field(ge=1, frozen=True, description="Length of a vector.")
    exact_limit: int = Field(ge=1, frozen=True, description="Number of vectors up to which the search is exact.")

    _table: VectorTable = PrivateAttr()
    _searches: int = PrivateAttr(default=0)  # under way in the table
    _is_shared: bool = PrivateAttr(default=False)  # a copy has the same table
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def __init__(self, dim: int, *, exact_limit: int = EXACT_LIMIT) -> None:
        """Make an empty store of ``dim``-dimensional vectors.

        Raises:
            ImportError: FAISS is not installed; the message names both packages that provide it.
            ValueError: ``dim`` or ``exact_limit`` is not positive.
        """
        super().__init__(dim=dim, exact_limit=exact_limit)
        self._table = VectorTable(self.dim, exact_limit=self.exact_limit)

    @classmethod
    def _of(cls, table: VectorTable) -> FaissStore:
        store = cls(table.dim, exact_limit=table.exact_limit)
        store._table = table
        return store

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "FaissStore"

    @property
    def client(self) -> Any:
        """The FAISS index."""
        return self._table.index

    @property
    def is_exact(self) -> bool:
        """Whether every vector is compared."""
        return self._table.is_exact

    def __bool__(self) -> bool:
        return True  # LlamaIndex's `vector_store or SimpleVectorStore()` would drop an empty store

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._table

    @contextmanager
    def _reading(self) -> Iterator[VectorTable]:
        """Yield the table. It is not changed inside the block."""
        with self._lock:
            table = self._table
            self._searches += 1
        try:
            yield table
        finally:
            with self._lock:
                self._searches -= table is self._table

    @contextmanager
    def _writing(self) -> Iterator[VectorTable]:
        """Yield the table for a change, or a copy that replaces it if it is shared or being searched."""
        with self._lock:
            if not (self._searches or self._is_shared):
                yield self._table
                return
            table = self._table.copy()
            yield table
            self._table, self._searches, self._is_shared = table, 0, False

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        """Add nodes that carry embeddings; one whose id is present already is replaced. Return the ids."""
        if not nodes:
            return []
        vectors = np.asarray([node.get_embedding() for node in nodes], dtype=np.float32)
        documents = [node.ref_doc_id or node.node_id for node in nodes]
        metadata = [dict(node.metadata) for node in nodes]
        return self.add_vectors([node.node_id for node in nodes], vectors, documents, metadata=metadata)

    def add_vectors(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        documents: Sequence[str],
        *,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        delete: Collection[str] = (),
    ) -> list[str]:
        """Add ``vectors``, shape ``(ids, dim)``, and name the document that each comes from. Return the ids.

        A node that is present already is replaced. The nodes ``delete`` are deleted in the same step: a search sees
        both changes or neither. Without ``metadata`` the store refuses to filter.

        Raises:
            ValueError: vectors of another shape or not finite, or an id that occurs twice; nothing is changed.
        """
        vectors = self._table.check(ids, vectors)
        if len(documents) != len(ids) or (metadata is not None and len(metadata) != len(ids)):
            raise ValueError(f"there must be one document, and one metadata if any, for each of the {len(ids)} ids")
        with self._writing() as table:
            table.remove(delete)
            table.add(ids, vectors, documents, metadata)
        return list(ids)

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the stored vectors, shape ``(ids, dim)``; an unknown id is a KeyError."""
        with self._reading() as table:
            return table.vectors(ids)

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a document."""
        with self._writing() as table:
            table.remove([node_id for node_id, document in table.documents.items() if document == ref_doc_id])

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes of these ids, or that match the filters, or both; ids that are not present are ignored."""
        check_is_list(node_ids, "node_ids")
        if node_ids is None and filters is None:
            return
        with self._writing() as table:
            table.remove(_matching(table, node_ids, filters))

    def clear(self) -> None:
        """Delete all nodes."""
        with self._writing() as table:
            table.remove(list(table.ids))

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the ``similarity_top_k`` nodes of highest cosine, ties by node id.

        Raises:
            ValueError: a mode other than "default", no vector or one of another dimension, or metadata filters on nodes
                that were added without metadata.
        """
        if query.mode != VectorStoreQueryMode.DEFAULT:
            raise ValueError(f"FaissStore answers query mode 'default' only, got {query.mode.value!r}")
        if query.query_embedding is None:
            raise ValueError("FaissStore needs query.query_embedding")
        with self._reading() as table:
            among = None
            if query.node_ids is not None or query.doc_ids is not None or query.filters is not None:
                among = _matching(table, query.node_ids, query.filters, query.doc_ids)
            hits = table.search(query.query_embedding, top_k=query.similarity_top_k, among=among)
        return VectorStoreQueryResult(similarities=[score for _, score in hits], ids=[node_id for node_id, _ in hits])

    # --- copies and files --------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> FaissStore:
        with self._lock:
            store = self._of(self._table)
            store._is_shared = self._is_shared = True
        return store

    def __copy__(self) -> FaissStore:
        return self.__deepcopy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_bytes, (self._to_bytes(),)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the settings and, as base64 in ``content``, all vectors."""
        return super().to_dict(**kwargs) | {"content": base64.b64encode(self._to_bytes()).decode()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> FaissStore:
        """Return the store that :meth:`to_dict` was called on; without ``content`` it is empty."""
        data = data | kwargs
        if "content" in data:
            return _from_bytes(base64.b64decode(data["content"]))
        dim: Any = data.get("dim")  # checked in __init__
        return cls(dim, exact_limit=data.get("exact_limit", EXACT_LIMIT))

    def _to_bytes(self) -> bytes:
        file = io.BytesIO()
        with self._reading() as table:
            table.write(file)
        return file.getvalue()

    def persist(
        self,
        persist_path: str
        | Path = f"{DEFAULT_PERSIST_DIR}/{DEFAULT_VECTOR_STORE}{NAMESPACE_SEP}{DEFAULT_PERSIST_FNAME}",
        fs: fsspec.AbstractFileSystem | None = None,
    ) -> None:
        """Write the store to one file, with an fsspec file system if given.

        On a local disk a kill leaves the old file or the new one.

        Raises:
            TypeError: a node's metadata is not JSON.
        """
        with self._reading() as table, _open_for_writing(str(persist_path), fs) as file:
            table.write(file)

    @classmethod
    def from_persist_path(cls, persist_path: str | Path, fs: fsspec.AbstractFileSystem | None = None) -> FaissStore:
        """Read what :meth:`persist` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged.
        """
        path = str(persist_path)
        fs = fs or LocalFileSystem()
        with fs.open(path, "rb") as file:
            is_whole = file.read(1) == b"{"
            file.seek(0)
            # Older versions wrote the ids to a second file.
            header = None if is_whole or not fs.exists(f"{path}.ids.json") else fs.cat_file(f"{path}.ids.json")
            return cls._of(VectorTable.read(file, path, separate_header=header))

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str | Path = DEFAULT_PERSIST_DIR,
        namespace: str = DEFAULT_VECTOR_STORE,
        fs: fsspec.AbstractFileSystem | None = None,
    ) -> FaissStore:
        """Read the store that ``StorageContext.persist(persist_dir)`` wrote.

        Pass it to ``StorageContext.from_defaults(vector_store=…, persist_dir=persist_dir)``, which reads the rest.
        """
        return cls.from_persist_path(f"{persist_dir}/{namespace}{NAMESPACE_SEP}{DEFAULT_PERSIST_FNAME}", fs)


def _from_bytes(content: bytes) -> FaissStore:
    return FaissStore._of(VectorTable.read(io.BytesIO(content), "the content"))


def _matching(
    table: VectorTable,
    node_ids: Collection[str] | None,
    filters: MetadataFilters | None,
    doc_ids: Collection[str] | None = None,
) -> list[str]:
    """Return the ids of the nodes in the table that meet all conditions."""
    ids = [node_id for node_id in (table.ids if node_ids is None else node_ids) if node_id in table]
    if doc_ids is not None:
        documents = set(doc_ids)
        ids = [node_id for node_id in ids if table.documents[node_id] in documents]
    if filters is None or not filters.filters:
        return ids
    for node_id in ids:
        if node_id not in table.metadata:
            raise ValueError(
                f"FaissStore has no metadata of node {node_id!r}, so it cannot filter: the node was added as a bare "
                "vector or read from an older file; add the nodes again, or pass node_ids or doc_ids"
            )
    matches = matcher_of(table.metadata.__getitem__, filters)
    return [node_id for node_id in ids if matches(node_id)]


@contextmanager
def _open_for_writing(path: str, fs: fsspec.AbstractFileSystem | None) -> Iterator[BinaryIO]:
    if fs is None or isinstance(fs, LocalFileSystem):
        local = Path(LocalFileSystem._strip_protocol(path))
        local.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(local) as file:
            yield file
        local.with_name(f"{local.name}.ids.json").unlink(missing_ok=True)  # an older version's second file
    else:
        fs.makedirs(fs._parent(path), exist_ok=True)
        with fs.open(path, "wb") as file:
            yield file
