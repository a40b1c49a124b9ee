"""Keep the caches of an index, its file of vectors and its words, in step with the database."""

from __future__ import annotations

import logging
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval.index.filters import Condition
from llamaindex_code_retrieval.index.locate import restore_root, store_root
from llamaindex_code_retrieval.index.storage import Storage
from llamaindex_code_retrieval.index.tables import Reading
from llamaindex_code_retrieval.index.vector_file import VectorFile
from llamaindex_code_retrieval.index.view import open_words, vector_path, word_document, words_path
from llamaindex_code_retrieval.index.words import WordDocument, WordIndex, WordWriter

logger = logging.getLogger(__name__)

_FEW_VECTORS = 5_000
"""Up to so many vectors there is no file: they are read from the database and compared one by one."""
_FEW_NODES = 3_000
"""Up to so many nodes the words are made anew whenever one is removed, so that an updated index ranks as a new one."""
_CHANGED = 20
"""Above, they are made anew when one in so many of the nodes was removed, and the file of vectors when one in so many
was added or removed."""
_CACHE_NAME = re.compile(r"(vectors|words)-(?P<token>[0-9a-f]{16})(\.faiss)?")


class Caches:
    """Writes the caches of an index. The caller holds the lock of the index."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._token = ""
        self._writer: WordWriter | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer = None
        self._stack.close()

    def _open_writer(self) -> WordWriter:
        """Open the words that the database names, or make them anew if they are missing, damaged or too old."""
        if self._writer is not None:
            return self._writer
        with self._storage.reading() as reading:
            saved = reading.settings("words").get("words")
            words = self._saved_words(saved)
            if saved is not None and words is not None:
                self._token = saved["token"]
                self._writer = self._stack.enter_context(words.writer())
                return self._writer
            return self._fill_words(reading)

    def _saved_words(self, saved: Mapping[str, Any] | None) -> WordIndex | None:
        if saved is None:
            return None
        try:
            return open_words(self._storage.folder, saved)
        except (OSError, ValueError) as error:
            logger.warning("%s; the words are made anew", error)
            return None

    def _fill_words(self, reading: Reading) -> WordWriter:
        self._token = secrets.token_hex(8)
        words = WordIndex.create(words_path(self._storage.folder, self._token), token=self._token)
        self._writer = self._stack.enter_context(words.writer())
        self._writer.add(map(word_document, reading.all_rows()))
        return self._writer

    def check_words(self) -> None:
        """Make the words anew if they are missing, damaged or too old, and find those that :meth:`purge` must remove.

        After a kill between a commit of the words and the transaction that follows they hold documents that the
        database never got. These were added last, so their numbers are above all others.
        """
        with self._storage.reading() as reading:
            saved = reading.settings("words").get("words")
            words = self._saved_words(saved)
            newest = reading.numbers(Condition("n.number = (SELECT max(number) FROM nodes)"))
        if saved is None or words is None:
            self._renew_words()
        elif words.opstamp() != saved["opstamp"]:
            with self._storage.writing() as writing:
                writing.remove_nodes(words.searcher().numbers_above(max(newest.tolist(), default=0)))

    def add_words(self, documents: Iterable[WordDocument]) -> dict[str, Any] | None:
        """Add documents, before the database has them; return the setting that names this state, if there are any."""
        documents = list(documents)
        if not documents:
            return None
        self._open_writer().add(documents)
        return self._commit()

    def _commit(self) -> dict[str, Any]:
        assert self._writer is not None
        return {"token": self._token, "opstamp": self._writer.commit()}

    def purge(self) -> None:
        """Remove from the words what the database does not have any more.

        Documents that were removed count in the frequencies of words until all are made anew without them.
        """
        with self._storage.reading() as reading:
            removed = reading.removed("removed_words")
            total = reading.settings("words_removed").get("words_removed", 0) + len(removed)
            nodes = reading.count("nodes")
        if total > (0 if nodes <= _FEW_NODES else nodes // _CHANGED):
            self._renew_words()
        elif len(removed):
            # A search that has opened the database before and the words after their commit would miss nodes. By this
            # transaction it notices that it must begin again.
            with self._storage.writing():
                pass
            self._open_writer().remove(removed.tolist())
            state = self._commit()
            with self._storage.writing() as writing:
                writing.clear("removed_words")
                writing.put_settings({"words": state, "words_removed": total})

    def _renew_words(self) -> None:
        """Make the words anew from the database."""
        self._stack.close()
        self._writer = None
        with self._storage.reading() as reading:
            self._fill_words(reading)
        state = self._commit()
        with self._storage.writing() as writing:
            writing.clear("removed_words")
            writing.put_settings({"words": state, "words_removed": 0})

    def renew_vectors(self, progress: Progress, *, grown_only: bool = False) -> None:
        """Write the file of vectors anew if a twentieth has changed, or with ``grown_only`` if they have doubled."""
        with self._storage.reading() as reading:
            settings = reading.settings("vectors", "dim")
            saved = settings.get("vectors") or {"count": 0, "highest": 0, "token": ""}
            highest = reading.highest_vector()
            added = reading.count_vectors(above=saved["highest"], up_to=highest)
            removed = reading.count("removed")
            if grown_only:
                if added <= max(10 * _FEW_VECTORS, saved["count"]):
                    return
            elif added + removed <= max(_FEW_VECTORS, saved["count"] // _CHANGED):
                path = vector_path(self._storage.folder, saved["token"])
                if not saved["token"] or VectorFile.is_whole(path, dim=settings["dim"], token=saved["token"]):
                    return
            count = reading.count_vectors(up_to=highest)
            token = secrets.token_hex(8)
            if count > _FEW_VECTORS:
                VectorFile.build(
                    vector_path(self._storage.folder, token),
                    partial(reading.vector_batches, up_to=highest),
                    dim=settings["dim"],
                    count=count,
                    token=token,
                    on_progress=progress,
                )
        with self._storage.writing() as writing:
            named = {"token": token, "count": count, "highest": highest} if count > _FEW_VECTORS else None
            writing.put_settings({"vectors": named})
            writing.clear("removed")
        if saved["token"]:
            with suppress(OSError):  # where a file in use cannot be removed, the end of an update tries again
                vector_path(self._storage.folder, saved["token"]).unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove caches that the database does not name, and move the write-ahead log into the database."""
        with self._storage.reading() as reading:
            settings = reading.settings("vectors", "words")
        current = {state["token"] for state in settings.values() if state}
        for path in self._storage.folder.iterdir():
            match = _CACHE_NAME.fullmatch(path.name)
            if path.name.endswith((".tmp", ".tmp-journal")) or (match and match["token"] not in current):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        self._storage.shrink()


def copy_index(storage: Storage, folder: Path) -> None:
    """Copy an index to another folder, which is made.

    Raises:
        OSError: the copy cannot be written; then ``folder`` holds no index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    storage.copy_to(folder)
    copied = Storage(folder)
    try:
        with copied.writing() as writing:
            roots = [restore_root(root, storage.folder) for root in writing.settings("roots")["roots"]]
            writing.put_settings({"roots": [store_root(root, folder) for root in roots]})
        make_caches(copied)
    finally:
        copied.close()


def make_caches(storage: Storage) -> None:
    """Make the caches of a database that has none."""
    with Caches(storage) as caches:
        caches.check_words()
        caches.renew_vectors(no_progress)
