"""Update the index of a repository in a background thread, one update at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llamaindex_code_retrieval.index.folder import read_settings, remove_if_empty
from llamaindex_code_retrieval.index.locate import is_index
from llamaindex_code_retrieval.index.lock import update_lock
from llamaindex_code_retrieval.models.locate import is_static_model

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.code_index import CodeIndex

_CLOSE_SECONDS = 5.0
"""How long closing waits for the batch of nodes that is being embedded."""


class UpdateProgress(NamedTuple):
    """How far an update is."""

    stage: str
    """"read" or "embed"."""
    done: int
    total: int

    @property
    def has_read_all(self) -> bool:
        """Whether all files are read, so that they can be searched by words."""
        return self.stage != "read"


class _ClosedError(Exception):
    """The updater was closed during an update."""


class IndexUpdater:
    """Builds the index in ``folder`` of ``roots``, or brings it up to date, whenever :meth:`start` is called.

    LlamaIndex and the model are loaded with the first update, in its thread. Where another process is updating the
    index, nothing is done: its result is found as well.
    """

    def __init__(self, folder: Path, roots: Sequence[Path], *, model: str, cache_folder: Path | None) -> None:
        self._folder = folder
        self._roots = roots
        self._model = model
        self._cache_folder = cache_folder
        self._index: CodeIndex[Any] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._progress: UpdateProgress | None = None
        self._problem = ""
        self.is_locked_out = False
        """Whether another process was updating the index when the last update was to begin."""

    @property
    def is_running(self) -> bool:
        """Whether an update is under way."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def progress(self) -> UpdateProgress | None:
        """How far the update under way is; ``None`` before its first file is read."""
        return self._progress if self.is_running else None

    @property
    def problem(self) -> str:
        """Why the last update failed; empty if it did not."""
        return self._problem

    def start(self) -> None:
        """Start an update, unless one is under way or this is closed."""
        with self._lock:
            if not self.is_running and not self._is_closed.is_set():
                self._progress = None
                self._thread = threading.Thread(target=self._run, name=f"update {self._folder}", daemon=True)
                self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the update under way; return whether none is any more."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return not self.is_running

    def close(self) -> None:
        """Stop after the files or vectors that are being written; the next update goes on from there."""
        with self._lock:
            self._is_closed.set()
        if self.wait(_CLOSE_SECONDS) and self._index is not None:
            self._index.close()

    def _run(self) -> None:
        try:
            with update_lock(self._folder, seconds=0):
                index = self._open()
                index.update(None if index.roots else self._roots, on_progress=self._report)
            self._problem, self.is_locked_out = "", False
        except _ClosedError:
            return
        except TimeoutError:
            self.is_locked_out = True
            self._problem = "another process is updating the index"
        except Exception as error:  # whatever it is, searches go on with the index as it is
            self.is_locked_out = False
            self._problem = f"{error}" or type(error).__name__
            self._remove_if_empty()

    def _open(self) -> CodeIndex[Any]:
        from llamaindex_code_retrieval.embedding import CodeEmbedding
        from llamaindex_code_retrieval.index.code_index import CodeIndex

        if self._index is None:
            if is_index(self._folder):
                cache = self._cache_of(read_settings(self._folder)["embedding"].get("model_name", ""))
                self._index = CodeIndex.open(self._folder, cache_folder=cache)
            else:
                embedding = CodeEmbedding(self._model, cache_folder=self._cache_of(self._model))
                self._index = CodeIndex(embedding, self._folder)
        return self._index

    def _remove_if_empty(self) -> None:
        """Remove an index that was begun and holds nothing, so that nobody takes it for a finished one."""
        if self._index is not None and not self._index.files:
            self._index.close()
            self._index = None
            remove_if_empty(self._folder)

    def _cache_of(self, model: str) -> Path | None:
        """Return the folder of the embedding cache; ``None`` for a static model, which has no use for a cache."""
        return None if is_static_model(model) else self._cache_folder

    def _report(self, stage: str, done: int, total: int) -> None:
        if self._is_closed.is_set():
            raise _ClosedError
        self._progress = UpdateProgress(stage, done, total)
