"""Find the index of a repository, and keep it open while other processes update or replace it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llamaindex_code_retrieval.index.folder import open_storage, read_settings
from llamaindex_code_retrieval.index.locate import INDEX_NAME, find_index, is_index, restore_root
from llamaindex_code_retrieval.index.storage import DATABASE
from llamaindex_code_retrieval.index.view import IndexReader, View

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.code_index import CodeIndex


class IndexPlace(NamedTuple):
    """The folder of an index, which may not exist yet, and the folders with the code."""

    folder: Path
    roots: tuple[Path, ...]


def locate_index(path: str | Path) -> IndexPlace:
    """Return the index of a folder with code, found as ``search`` finds it; or where it is to be built.

    ``path`` may also be the folder of an index. An index in a folder above counts only if it holds ``path``.

    Raises:
        ValueError: ``path`` is not a folder; or its index is damaged, of another format, or not made of folders.
    """
    source = Path(path).expanduser().resolve()
    if not source.is_dir():
        kind = "a file" if source.exists() else "missing"
        raise ValueError(f"{path} is not a folder ({kind}); name a folder with source code, or that of an index")
    folder = source if is_index(source) else find_index(source)
    if folder is not None:
        roots = tuple(restore_root(root, folder) for root in read_settings(folder)["roots"])
        if not roots and folder in (source, source / INDEX_NAME):
            raise ValueError(
                f"the index in {folder} was not made of folders; build one with: code-retrieval index PATH"
            )
        if folder == source or any(source.is_relative_to(root) for root in roots):
            return IndexPlace(folder, roots)
    return IndexPlace(source / INDEX_NAME, (source,))


class OpenedIndex:
    """The index in a folder, opened with the first view; opened again if its database is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reader: IndexReader | None = None
        self._inode = 0
        self._lock = threading.Lock()
        self._code_index: CodeIndex[Any] | None = None
        self._code_index_inode = 0
        self._loading = threading.Lock()

    @contextmanager
    def view(self, *, words: bool = True) -> Iterator[View]:
        """Yield the current state; see :meth:`.IndexReader.view`.

        Raises:
            ValueError: there is no index any more, or it is damaged.
        """
        with self.reader().view(words=words) as view:
            yield view

    def settings(self) -> Mapping[str, Any]:
        """Return all settings."""
        with self.reader().storage.reading() as reading:
            return reading.settings()

    def reader(self) -> IndexReader:
        """Return the reader of the database that is in the folder now.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        with self._lock:
            inode = self._current_inode()
            if self._reader is None or inode != self._inode:
                if self._reader is not None:
                    self._reader.close()
                    self._reader = None
                self._reader, self._inode = IndexReader(open_storage(self.folder)), inode
            return self._reader

    def _current_inode(self) -> int:
        try:
            return os.stat(self.folder / DATABASE).st_ino
        except OSError:
            return 0

    def code_index(self, query_encoder: str | None) -> CodeIndex[Any]:
        """Return the index for LlamaIndex's engines, which is loaded with the first call.

        Raises:
            ValueError: there is none any more, it is damaged, or its model cannot be loaded.
        """
        from llamaindex_code_retrieval.index.code_index import CodeIndex

        with self._loading:
            inode = self._current_inode()
            if self._code_index is None or inode != self._code_index_inode:  # answers may still read the old one
                self._code_index = CodeIndex.open(self.folder, query_encoder=query_encoder)
                self._code_index_inode = inode
            return self._code_index

    def close(self) -> None:
        """Close the database."""
        with self._loading:
            if self._code_index is not None:
                self._code_index.close()
                self._code_index = None
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
