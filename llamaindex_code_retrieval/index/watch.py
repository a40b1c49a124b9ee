"""Wait for edits in the folders of an index."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.git import run_git
from llamaindex_code_retrieval.index.listing import (
    NOT_OURS,
    IgnoreRules,
    is_ignored,
    is_in_checkout,
    list_files,
    with_ignore_file,
)
from llamaindex_code_retrieval.index.source_roots import SETTINGS_FILES, SourceRoot, source_roots
from llamaindex_code_retrieval.index.sources import FileReader

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.source_options import SourceOptions

_TIMEOUT_MS = 250
_LONGEST_DEBOUNCE = 10
"""How many times ``debounce`` edits may go on before they are yielded."""
_POLL_MS = 1_000
_MOST_PATHS = 500
"""Paths that git is asked about at once; of more, some are taken to be worth an update."""
_RULE_FILES = frozenset((".gitignore", *SETTINGS_FILES))
"""Files that decide which others are indexed, whether or not they are indexed themselves."""

_Batch = set[tuple[int, str]]
"""Edits: the kind of each and the absolute path."""


def watch(
    folders: Sequence[Path],
    options: SourceOptions,
    *,
    ignored: Collection[Path] = (),
    stop: threading.Event | None = None,
    debounce: float = 0.3,
    polling: bool | None = None,
) -> Iterator[frozenset[str]]:
    """Yield the absolute paths of files and folders that were edited, until ``stop`` is set.

    The first set is empty: the folders are watched from then on, so an update at that point misses nothing. Each
    further set has a path that may be indexed; others may be files that git ignores. What has changed is for
    :func:`.changes.find_changes` to find. Edits in ``ignored`` folders, such as that of the index, in ``.git``
    and in folders of packages and caches without a listed file are not yielded. So what only a command of git adds to
    the listing or removes from it is noticed with the next edit.

    Edits are yielded once there was no other for ``debounce`` seconds, and after ten times as long in any case. With
    ``polling``, all files are looked at each second: for network file systems, and folders that a container or virtual
    machine shares with its host, whose edits the system does not report. Polling notices no edit that leaves a file's
    time, in seconds, as it was or sets it back. By default watchfiles decides.

    Raises:
        ImportError: watchfiles is not installed.
        OSError: the system cannot watch so many folders.
        ValueError: a root is not a folder, or the settings of one are wrong.
    """
    watchfiles = _import_watchfiles()
    folders = [folder.resolve() for folder in folders]
    skipped = tuple(f"{folder.resolve()}{os.sep}" for folder in ignored)
    filters = [_Filter(root) for root in source_roots(folders, options)]
    batches = watchfiles.watch(
        *folders,
        watch_filter=None,
        step=round(1000 * debounce),
        debounce=round(1000 * debounce * _LONGEST_DEBOUNCE),
        stop_event=stop,
        rust_timeout=_TIMEOUT_MS,
        yield_on_timeout=True,  # the first one says that the folders are watched
        force_polling=polling,
        poll_delay_ms=_POLL_MS,
    )
    is_first = True
    for batch in _explain_limit(batches):
        if is_first:
            yield frozenset()
        is_first = False
        paths = {path for _, path in batch if not f"{path}{os.sep}".startswith(skipped)}
        edited = frozenset[str]().union(*(each.edited(paths) for each in filters))
        if any(os.path.basename(path) in SETTINGS_FILES for path in edited):
            with suppress(ValueError):  # wrong settings, which the update reports
                filters = [_Filter(root) for root in source_roots(folders, options)]
        if edited:
            yield edited


def _import_watchfiles() -> ModuleType:
    try:
        import watchfiles
    except ImportError as error:
        raise ImportError(
            f"watching folders needs watchfiles, which cannot be imported ({error}): pip install watchfiles"
        ) from error
    return watchfiles


def _explain_limit(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """Yield the batches.

    Raises:
        OSError: the system cannot watch the folders; the message says what to do.
    """
    try:
        yield from batches
    except OSError as error:
        raise OSError(
            f"the folders cannot be watched ({error}); raise the system's limit (on Linux fs.inotify.max_user_watches),"
            " or look for edits by polling"
        ) from error


class _Filter:
    """Tells the edits that may change what is indexed of one root from the others."""

    def __init__(self, root: SourceRoot) -> None:
        self._folder = os.fspath(root.folder)
        self._reader = FileReader(root)
        self._is_in_checkout = is_in_checkout(root.folder)
        listed = {part for path, _ in list_files(root.folder, SourceCounts()) for part in path.split("/")[:-1]}
        self._not_ours = NOT_OURS - listed  # a folder of such a name may be in git

    def edited(self, paths: Collection[str]) -> frozenset[str]:
        """Return the ``paths`` in this root that may be indexed; all of them, or none, where only git can tell."""
        start = f"{self._folder.rstrip(os.sep)}{os.sep}"
        below = {path.removeprefix(start): path for path in paths if path.startswith(start)}
        named = [path for path in below if self._may_be_indexed(path)]
        if self._is_in_checkout:
            kept = [] if self._git_ignores_all(named) else named
        else:
            kept = [path for path in named if not self._is_ignored(path)]
        return frozenset(below[path] for path in kept)

    def _may_be_indexed(self, path: str) -> bool:
        if not self._not_ours.isdisjoint(path.split(os.sep)):
            return False
        if os.path.basename(path) in _RULE_FILES or os.path.isdir(os.path.join(self._folder, path)):
            return True
        return not self._reader.left_out_by_name(path.replace(os.sep, "/"))

    def _git_ignores_all(self, paths: Sequence[str]) -> bool:
        """Return whether git ignores all paths; files that it tracks, it does not."""
        if not paths or len(paths) > _MOST_PATHS or not _RULE_FILES.isdisjoint(map(os.path.basename, paths)):
            return not paths
        done = run_git("check-ignore", "--", *paths, folder=self._folder)  # names those that are ignored, one a line
        return done.returncode == 0 and done.stdout.count(b"\n") == len(paths)

    def _is_ignored(self, path: str) -> bool:
        """Return what :func:`.listing.list_files` would make of a path outside git."""
        rules: IgnoreRules = with_ignore_file(self._folder, "", ())
        parts = path.split(os.sep)
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            if is_ignored(os.fsencode(folder), True, rules):
                return True
            if os.path.exists(os.path.join(self._folder, folder, ".git")):  # its own rules apply
                return False
            rules = with_ignore_file(self._folder, f"{folder}/", rules)
        is_folder = os.path.isdir(os.path.join(self._folder, path))
        return is_ignored(os.fsencode("/".join(parts)), is_folder, rules)
