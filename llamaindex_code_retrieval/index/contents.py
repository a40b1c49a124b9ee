"""What an index holds: its files, its nodes and their vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import NodeWithScore, TextNode
from numpy.typing import NDArray

from llamaindex_code_retrieval.index.changes import ChangeCounts, changes_since_update
from llamaindex_code_retrieval.index.locate import restore_root
from llamaindex_code_retrieval.index.places import Place, rows_at
from llamaindex_code_retrieval.index.records import annotated_node, to_node
from llamaindex_code_retrieval.index.related import find_related
from llamaindex_code_retrieval.index.restore import restore_source_options
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.source_roots import file_of
from llamaindex_code_retrieval.index.storage import Storage
from llamaindex_code_retrieval.index.view import IndexReader, View


class IndexContents:
    """The content of an index, which is read without its model."""

    _storage: Storage
    _reader: IndexReader

    @property
    def folder(self) -> Path:
        """Where the index is."""
        return self._storage.folder

    def __len__(self) -> int:
        with self._storage.reading() as reading:
            return reading.count("nodes")

    @property
    def files(self) -> int:
        """Number of files indexed."""
        with self._storage.reading() as reading:
            return reading.file_count()

    @property
    def missing_vectors(self) -> int:
        """Number of nodes whose vectors the first update has not made yet; a search finds these by words alone."""
        with self._storage.reading() as reading:
            return len(reading.unembedded())

    @property
    def languages(self) -> dict[str, int]:
        """Number of nodes by language."""
        with self._storage.reading() as reading:
            return reading.languages()

    @property
    def roots(self) -> list[str]:
        """The folders of the last :meth:`update`."""
        return [str(restore_root(root, self.folder)) for root in self._setting("roots")]

    @property
    def sources(self) -> SourceOptions:
        """Which files the last :meth:`update` read, and in which language."""
        return restore_source_options(self.folder, {"sources": self._setting("sources")})

    @property
    def updated(self) -> str:
        """Time of the last update, ISO 8601 in UTC; empty before the first one."""
        updated: str = self._setting("updated")
        return updated

    def _setting(self, name: str) -> Any:
        with self._storage.reading() as reading:
            return reading.settings(name)[name]

    def view(self, *, words: bool = True) -> AbstractContextManager[View]:
        """Return the current state of the index, for a ``with`` block; see :meth:`.IndexReader.view`."""
        return self._reader.view(words=words)

    def node(self, node_id: str) -> TextNode:
        """Return a copy of a node; an unknown id is a KeyError."""
        with self._storage.reading() as reading:
            number = reading.numbers_of([node_id])[node_id]
            return to_node(reading.rows([number])[number])

    def nodes(self) -> Iterator[TextNode]:
        """Yield all nodes by path and line."""
        with self._storage.reading() as reading:
            yield from map(to_node, reading.all_rows())

    def vectors(self, node_ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the nodes' vectors, shape ``(node_ids, dim)``, as saved in half precision.

        Raises:
            KeyError: an unknown id, or a node whose vector is in an external vector store or not made yet.
        """
        with self._storage.reading() as reading:
            numbers = reading.numbers_of(node_ids)
            vectors = reading.vectors(numbers.values())
            if not node_ids:
                return np.empty((0, reading.settings("dim")["dim"]), dtype=np.float32)
            return np.stack([vectors[numbers[node_id]] for node_id in node_ids])

    def related(self, place: str, *, top_k: int = 10) -> list[NodeWithScore]:
        """Return nodes that are related to a place in the code, best first; no model is needed.

        ``place`` is ``path:line``, ``path:first-last`` or ``path``. The path is that from the working folder, if this
        lies in an indexed folder, or else that in the index. The metadata ``related`` says why a node is related:
        "similar", "same scope", "calls it", "called by it" and others; see :func:`.find_related` for all of them and
        for the order. Where the index has no vectors, as with a ``vector_store``, nothing is "similar".

        Raises:
            ValueError: the place is malformed, the index has no such file, or no node there.
        """
        with self.view() as view:
            roots = [restore_root(root, self.folder) for root in view.settings["roots"]]
            hits = find_related(view, rows_at(view.reading, Place.parse(place), roots), top_k=top_k)
            rows = view.rows(number for hit, _ in hits for number in (hit.number, *hit.others))
            return [
                NodeWithScore(
                    node=annotated_node(rows[related.hit.number], related.metadata(rows)), score=related.hit.score
                )
                for related in hits
            ]

    def file_of(self, path: str) -> Path:
        """Return where the file of a node's ``path`` lies on this machine."""
        return file_of(path, [Path(root) for root in self.roots])

    def changes(self, *, limit_seconds: float = 0.5) -> ChangeCounts:
        """Count the files that the next :meth:`update` would find changed, within a time limit.

        Raises:
            ValueError: a root is not a folder.
        """
        return changes_since_update(self._storage, limit_seconds=limit_seconds)
