"""Keep the index of a repository up to date with its files while it is searched, and say where it is not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from llamaindex_code_retrieval.index.changes import ChangeCounts, changes_since_update
from llamaindex_code_retrieval.index.locate import is_index
from llamaindex_code_retrieval.serving.opened import OpenedIndex
from llamaindex_code_retrieval.serving.updates import IndexUpdater

_LOOK_SECONDS = 0.3
"""How long changed files are looked for before an answer."""
_WAIT_SECONDS = 1.5
"""How long an answer waits for an update."""
_BUILD_SECONDS = 20.0
"""How long an answer waits for the words of an index that is being built."""
_STEP_SECONDS = 0.05
_REST = 10.0
"""Changes are looked for again after this many times what the last look took, in folders with very many files."""
_RETRY_SECONDS = 5.0
"""Between two updates of which the first failed."""


class Freshness:
    """Compares an index with its files at most once in ``refresh_seconds``, and updates it where ``updater`` is given.

    An update that takes a moment is waited for; during a longer one the index is searched as it is.
    """

    def __init__(
        self, opened: OpenedIndex, roots: Sequence[Path], updater: IndexUpdater | None, *, refresh_seconds: float
    ) -> None:
        self._opened = opened
        self._roots = roots
        self._updater = updater
        self._refresh_seconds = refresh_seconds
        self._lock = threading.Lock()
        self._due = 0.0
        self._changes = ChangeCounts()

    @property
    def state(self) -> str:
        """ "ready", "building", "updating", "failed", or "missing" where a folder of the repository is gone."""
        if self._gone():
            return "missing"
        if self._updater is not None and self._updater.is_running:
            return "updating" if self._was_built() else "building"
        return "ready" if is_index(self._opened.folder) and not self.problem else "failed"

    @property
    def problem(self) -> str:
        """Why the index could not be brought up to date; empty if it is, as far as is known."""
        try:
            if (self._is_searchable() and not self._changes.total) or self._updater is None:
                return ""
        except (OSError, ValueError) as error:  # a damaged index
            return str(error)
        return self._updater.problem

    def start(self) -> None:
        """Begin to build an index that is missing or not finished."""
        if self._updater is not None and not self._is_searchable():
            self._updater.start()

    def refresh(self) -> list[str]:
        """Bring the index up to date as far as that takes a moment; return what to know of its state, as sentences.

        Raises:
            ValueError: a folder of the repository is gone, or nothing can be searched yet; the message says why.
        """
        gone = self._gone()
        if gone is not None:
            raise ValueError(f"the folder {gone} is gone; restore it, or restart the server without it")
        with self._lock:
            if time.monotonic() >= self._due and not (self._updater and self._updater.is_running):
                self._look()
        self._wait()
        if not is_index(self._opened.folder):
            raise ValueError(self._why_missing())
        return self._notes()

    def close(self) -> None:
        """Stop the update under way."""
        if self._updater is not None:
            self._updater.close()

    def _look(self) -> None:
        start = time.monotonic()
        searchable = self._is_searchable()
        self._changes = self._count() if searchable else ChangeCounts()
        if self._updater is not None and (not searchable or self._changes.total or not self._changes.is_complete):
            self._updater.start()
        pause = max(self._refresh_seconds, _REST * (time.monotonic() - start))
        has_failed = self._updater is not None and self.problem and not self._updater.is_locked_out
        self._due = start + (max(pause, _RETRY_SECONDS) if has_failed else pause)

    def _count(self) -> ChangeCounts:
        try:
            return changes_since_update(self._opened.reader().storage, limit_seconds=_LOOK_SECONDS)
        except (OSError, ValueError):  # a folder vanishes under the look; the next one tells
            return ChangeCounts()

    def _wait(self) -> None:
        """Wait for a short update; of an index that is being built, until all its words can be searched."""
        updater = self._updater
        if updater is None or not updater.is_running:
            return
        if self._is_searchable():
            updater.wait(_WAIT_SECONDS)
            return
        deadline = time.monotonic() + _BUILD_SECONDS
        while time.monotonic() < deadline and not updater.wait(_STEP_SECONDS):
            if updater.progress is not None and updater.progress.has_read_all:
                return

    def _is_searchable(self) -> bool:
        """Return whether the index is there and its first update was finished."""
        if not is_index(self._opened.folder):
            return False
        settings = self._opened.settings()
        return bool(settings["updated"]) and settings.get("unembedded") is None

    def _was_built(self) -> bool:
        try:
            return self._is_searchable()
        except (OSError, ValueError):
            return False

    def _gone(self) -> Path | None:
        return next((root for root in self._roots if not root.is_dir()), None)

    def _why_missing(self) -> str:
        folder = self._opened.folder
        if self._updater is None:
            return f"there is no index in {folder} any more; build one with: code-retrieval index PATH --out {folder}"
        if self.problem:
            return f"the index in {folder} cannot be built: {self.problem}"
        return f"the index in {folder} is being built, and nothing can be searched yet; ask again in a few seconds"

    def _notes(self) -> list[str]:
        notes = []
        updater = self._updater
        progress = None if updater is None else updater.progress
        if updater is not None and updater.is_running:
            if progress is not None and not progress.has_read_all:
                notes.append(
                    f"{progress.done:,} of {progress.total:,} new or changed files have been indexed so far; what is "
                    "missing may be found in a few seconds"
                )
            elif self._changes.total:
                notes.append("changed files are being indexed; what has just changed may be shown as it was")
        elif self._changes.total and updater is None:
            notes.append(_stale(self._changes))
        with self._opened.view(words=False) as view:
            missing = len(view.reading.unembedded())
            if missing:
                nodes = view.reading.count("nodes")
                notes.append(f"{missing:,} of {nodes:,} pieces of code have no vector yet and are found by words alone")
        if self.problem and not (updater is not None and updater.is_running):
            notes.append(f"the index is not up to date: {self.problem}")
        return notes


def _stale(changes: ChangeCounts) -> str:
    files = "1 file has" if changes.total == 1 else f"{changes.total:,} files have"
    more = "" if changes.is_complete else "at least "
    return f"{more}{files} changed since the index was made, which is read-only here"


def can_write(folder: Path) -> bool:
    """Return whether an index can be written in a folder, or made there."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK)
