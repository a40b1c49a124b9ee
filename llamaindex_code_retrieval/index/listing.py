"""List the files of a folder: those that git lists, or else those that no ``.gitignore`` excludes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from llamaindex_code_retrieval.index.file_state import FileStatus, SourceCounts
from llamaindex_code_retrieval.index.git import run_git
from llamaindex_code_retrieval.index.ignore import IgnoreFile

NOT_OURS = frozenset(
    ".git .hg .svn .tox .nox .venv __pycache__ __pypackages__ node_modules bower_components site-packages .mypy_cache "
    ".pytest_cache .ruff_cache .cache .gradle .idea .eggs .ipynb_checkpoints .terraform .next .nuxt .svelte-kit".split()
)
"""Folders outside git that hold what others wrote or what tools keep there."""

Listed = tuple[str, FileStatus | None]
"""The path of a file relative to the root, and its status; ``None`` if that cannot be read, as of a deleted file."""
IgnoreRules = tuple[tuple[int, IgnoreFile], ...]
"""The ``.gitignore`` files above a path, and how many bytes of the path each leaves out."""


def list_files(root: Path, counts: SourceCounts, *, quiet_seconds: float | None = None) -> Iterator[Listed]:
    """Yield the files under ``root`` in no order, some twice; folders that are left out are counted in ``counts``.

    Inside a git checkout these are the files that git tracks or would track. Elsewhere ``.gitignore`` files are obeyed
    as git does, and the folders ``NOT_OURS`` are left out. In checkouts inside the folder, submodules among them, their
    own rules apply. Folders behind symbolic links are not listed; the links are.

    Raises:
        ValueError: ``root`` is not a folder.
        TimeoutError: git has written nothing for ``quiet_seconds``; see :func:`.git.run_git`.
    """
    if not root.is_dir():
        kind = "a file" if root.exists() else "missing"
        raise ValueError(f"{root} is not a folder ({kind}); name a folder with source code, or a git URL")
    yield from _list(os.fspath(root), "", counts, quiet_seconds)


def _list(root: str, prefix: str, counts: SourceCounts, quiet_seconds: float | None) -> Iterator[Listed]:
    """Yield the files under ``root``, each path after ``prefix``."""
    listed = _git_files(root, quiet_seconds)
    if listed is None:
        yield from _walk_files(root, prefix, counts, quiet_seconds)
        return
    for path in listed:
        status = _status(os.path.join(root, path))
        if status is not None and stat.S_ISDIR(status.mode):  # git lists files, and folders of checkouts
            folder = os.path.join(root, path.rstrip("/"))
            yield from _list_checkout(folder, f"{prefix}{path.rstrip('/')}/", counts, quiet_seconds)
        else:
            yield prefix + path, status


def _list_checkout(folder: str, prefix: str, counts: SourceCounts, quiet_seconds: float | None) -> Iterator[Listed]:
    if os.path.exists(os.path.join(folder, ".git")):
        yield from _list(folder, prefix, counts, quiet_seconds)
        return
    files = list(_walk_files(folder, prefix, counts, quiet_seconds))
    if not files:
        counts.leave_out("submodule that is not checked out", "")
    yield from files


def _git_files(root: str, quiet_seconds: float | None) -> list[str] | None:
    """Return what git tracks or would track under ``root``; ``None`` outside a work tree or where git ignores it."""
    arguments = "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"
    if not is_in_checkout(root, quiet_seconds=quiet_seconds):
        return None
    listing = run_git(*arguments, folder=root, quiet_seconds=quiet_seconds)
    if listing.returncode != 0:
        return None
    return [os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]


def is_in_checkout(folder: str | Path, *, quiet_seconds: float | None = None) -> bool:
    """Return whether a folder is in the work tree of a git checkout that does not ignore the folder itself."""
    try:
        ignored = run_git("check-ignore", "-q", ".", folder=folder, quiet_seconds=quiet_seconds)
    except FileNotFoundError:  # no git on this machine
        return False
    return ignored.returncode == 1  # 0: the folder is ignored, 128: no work tree


def _walk_files(root: str, prefix: str, counts: SourceCounts, quiet_seconds: float | None) -> Iterator[Listed]:
    """Yield what :func:`_list` yields for a folder outside git; a file below an excluded folder is not re-included."""
    folders: list[tuple[str, IgnoreRules]] = [("", ())]
    while folders:
        path, rules = folders.pop()
        try:
            with os.scandir(os.path.join(root, path)) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            counts.leave_out(f"unreadable folder ({error.strerror})", "")
            continue
        rules = with_ignore_file(root, path, rules)
        for entry in entries:
            below, is_folder = path + entry.name, entry.is_dir(follow_symlinks=False)
            if entry.name == ".git" or is_ignored(os.fsencode(below), is_folder, rules):
                continue
            if not is_folder:
                yield prefix + below, _status(entry.path)
            elif entry.name in NOT_OURS or os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                counts.leave_out("package or cache folder", entry.name)
            elif os.path.exists(os.path.join(entry.path, ".git")):
                yield from _list(entry.path, f"{prefix}{below}/", counts, quiet_seconds)
            else:
                folders.append((below + "/", rules))


def _status(path: str) -> FileStatus | None:
    try:
        return FileStatus.of(path)
    except OSError:  # deleted or unreadable: the reader finds out
        return None


def with_ignore_file(root: str, path: str, rules: IgnoreRules) -> IgnoreRules:
    """Return the rules above ``path``, a folder with a slash at its end, with those of its own ``.gitignore``."""
    file = os.path.join(root, path, ".gitignore")
    try:
        if not stat.S_ISREG(os.lstat(file).st_mode):  # git follows no link here
            return rules
        with open(file, "rb") as content:
            return (*rules, (len(os.fsencode(path)), IgnoreFile.parse(content.read())))
    except OSError:  # missing, or unreadable, which is counted like any other file
        return rules


def is_ignored(path: bytes, is_folder: bool, rules: IgnoreRules) -> bool:
    """Return whether the rules ignore ``path``; the folders above it are not considered."""
    for start, file in reversed(rules):  # the deepest file decides
        verdict = file.verdict(path[start:], is_folder=is_folder)
        if verdict is not None:
            return verdict
    return False
