"""Find which files of an index have changed: by the status of each file first, by its content where that differs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval.index.file_state import FileState, FileStatus, SourceCounts
from llamaindex_code_retrieval.index.listing import Listed, list_files
from llamaindex_code_retrieval.index.locate import restore_root
from llamaindex_code_retrieval.index.source_roots import SourceRoot, saved_roots
from llamaindex_code_retrieval.index.sources import FileReader
from llamaindex_code_retrieval.index.storage import Storage

_CLOCK_STEP = 256
"""Files between two looks at the clock."""
_LEAST_QUIET_SECONDS = 0.05
"""What git is given to list files, even if other roots have used up the time."""


class FileChange(NamedTuple):
    """A file that was read, because it is new or its status has changed."""

    state: FileState
    """To be remembered in place of ``known``."""
    text: str | None
    """``None`` for a file that is left out now, and for one whose content is unchanged, except with ``read_all``."""
    known: FileState | None
    """What the index remembers; ``None`` for a new file."""

    @property
    def is_touched(self) -> bool:
        """Whether only the status has changed: the text and language are the same, or it is left out as before."""
        return self.known is not None and self.known.has_content_of(self.state)


class Changes:
    """What :func:`find_changes` found. Iterating reads the files one by one, in path order, and is possible once.

    Stop at any file, and the next :func:`find_changes` with the states that were remembered goes on from there.
    """

    def __init__(
        self,
        to_read: Sequence[tuple[FileReader, str, FileState | None]],
        removed: list[str],
        unchanged: int,
        counts: SourceCounts,
        *,
        keep_texts: bool,
        on_progress: Progress,
    ) -> None:
        self.removed = removed
        """Paths that the index knows and that are no longer listed, sorted."""
        self.unchanged = unchanged
        """Files that need not be read."""
        self.counts = counts
        """Of all listed files, as a walk counts them; complete when all changes were read."""
        self._to_read = to_read
        self._keep_texts = keep_texts
        self._on_progress = on_progress

    def __len__(self) -> int:
        """Return the number of files to read."""
        return len(self._to_read)

    def __iter__(self) -> Iterator[FileChange]:
        for done, (reader, path, known) in enumerate(self._to_read, start=1):
            state, text = reader.read(path)
            self.counts.add(state)
            change = FileChange(state, text, known)
            yield change._replace(text=None) if change.is_touched and not self._keep_texts else change
            self._on_progress("read", done, len(self))


def find_changes(
    roots: Sequence[SourceRoot],
    known: Mapping[str, FileState],
    *,
    read_all: bool = False,
    on_progress: Progress = no_progress,
) -> Changes:
    """List the files of all roots and compare each with its ``known`` state by path.

    A file is unchanged if its size, times and inode are, and it was not written so shortly before it was read that a
    later write may have left the same times (:attr:`.FileState.is_racy`). All other files are read when the result is
    iterated. ``read_all`` reads every file and yields its text: where the rules of a root or the parser have changed.

    Raises:
        ValueError: a root is not a folder.
    """
    counts = SourceCounts()
    to_read: list[tuple[FileReader, str, FileState | None]] = []
    unseen = set(known)
    unchanged = 0
    for root in roots:
        reader = FileReader(root)
        for path, status in sorted(dict(list_files(root.folder, counts)).items()):
            state = known.get(root.prefix + path)
            unseen.discard(root.prefix + path)
            if state is None or read_all or state.is_racy or not state.matches(status):
                to_read.append((reader, path, state))
            else:
                counts.add(state)
                unchanged += 1
    return Changes(to_read, sorted(unseen), unchanged, counts, keep_texts=read_all, on_progress=on_progress)


@dataclass(frozen=True, slots=True)
class ChangeCounts:
    """Number of files that are not as the index knows them."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unread: int = 0
    """How many of the added and changed files were not read, so that they may be equal or left out."""
    is_complete: bool = True
    """Whether all files were compared within the time limit; if not, there may be more changes."""

    @property
    def total(self) -> int:
        """Number of files in which the index and the folders differ, as far as they were compared."""
        return self.added + self.changed + self.removed


def count_changes(
    roots: Sequence[SourceRoot], known: Mapping[str, FileState], *, limit_seconds: float = 0.5, max_reads: int = 100
) -> ChangeCounts:
    """Count the files that :func:`find_changes` would add to the index, change or remove, within a time limit.

    At most ``max_reads`` files whose status differs are read, so that files with equal content are not counted; the
    others are counted by their names and status and as ``unread``. After the time limit, files are neither listed nor
    read. It misses changes that leave the status of a file as it was, which only a write within two seconds of the
    time when the file was indexed can do; such files are read too, as far as ``max_reads`` and the time allow.

    Raises:
        ValueError: a root is not a folder.
    """
    deadline = time.monotonic() + limit_seconds
    differing: list[_Difference] = []
    racy: list[_Difference] = []
    unseen = set(known)
    try:
        for root in roots:
            reader = FileReader(root)
            for path, status in _list_until(deadline, root):
                state = known.get(root.prefix + path)
                unseen.discard(root.prefix + path)
                if state is None or not state.matches(status):
                    differing.append(_Difference(reader, path, status, state))
                elif state.is_racy:
                    racy.append(_Difference(reader, path, status, state))
    except TimeoutError:
        unseen.clear()
        is_complete = False
    else:
        is_complete = True
    kinds = Counter("removed" for path in unseen if known[path].digest)
    unread = 0
    for number, difference in enumerate(differing):
        may_read = number < max_reads and time.monotonic() < deadline
        kind = difference.by_content() if may_read else difference.by_status()
        kinds[kind] += 1
        unread += not may_read and kind in ("added", "changed")
    for difference in racy[: max(0, max_reads - len(differing))]:
        if time.monotonic() < deadline:
            kinds[difference.by_content()] += 1
    return ChangeCounts(kinds["added"], kinds["changed"], kinds["removed"], unread, is_complete)


_Kind = Literal["added", "changed", "removed", "equal"]


def changes_since_update(storage: Storage, *, limit_seconds: float) -> ChangeCounts:
    """Count the files that the next update of an index would find changed; see :func:`count_changes`."""
    with storage.reading() as reading:
        known, settings = reading.files(), reading.settings("roots", "rules")
    folders = [restore_root(root, storage.folder) for root in settings["roots"]]
    return count_changes(saved_roots(folders, settings["rules"]), known, limit_seconds=limit_seconds)


class _Difference(NamedTuple):
    """A listed file that may not be as the index knows it."""

    reader: FileReader
    path: str
    status: FileStatus | None
    known: FileState | None

    def by_content(self) -> _Kind:
        if self.reader.left_out_unread(self.path, self.status):
            return self.by_status()
        state, _ = self.reader.read(self.path)
        if self.known is None or not self.known.digest:
            return "added" if state.digest else "equal"
        if not state.digest:
            return "removed"
        return "equal" if state.digest == self.known.digest else "changed"

    def by_status(self) -> _Kind:
        """Return what has become of the file unless its content says otherwise.

        A file that was left out for its content is taken to be left out still.
        """
        if self.reader.left_out_unread(self.path, self.status):
            return "removed" if self.known is not None and self.known.digest else "equal"
        if self.known is None:
            return "added"
        return "changed" if self.known.digest else "equal"


def _list_until(deadline: float, root: SourceRoot) -> Iterator[Listed]:
    """Yield each file under a root once.

    Raises:
        TimeoutError: not all are listed at the deadline, in seconds of ``time.monotonic``.
    """
    quiet_seconds = max(_LEAST_QUIET_SECONDS, deadline - time.monotonic())
    paths: set[str] = set()
    for number, (path, status) in enumerate(list_files(root.folder, SourceCounts(), quiet_seconds=quiet_seconds)):
        if number % _CLOCK_STEP == 0 and time.monotonic() > deadline:
            raise TimeoutError(f"{root.folder} has too many files to list in time")
        if path not in paths:
            paths.add(path)
            yield path, status
