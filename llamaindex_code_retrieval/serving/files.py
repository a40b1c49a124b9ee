"""Read the files of a repository: those that its index has or would take, and nothing outside its folders."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from llamaindex_code_retrieval.index.file_state import FileState, SourceCounts
from llamaindex_code_retrieval.index.listing import list_files
from llamaindex_code_retrieval.index.places import closest_paths
from llamaindex_code_retrieval.index.source_roots import SourceRoot, paths_of
from llamaindex_code_retrieval.index.sources import FileReader
from llamaindex_code_retrieval.index.tables import Reading

MAX_PATH = 1_000
"""Characters of the longest path that is looked for."""


def index_path(path: str, roots: Sequence[Path]) -> str:
    """Return the path in an index that ``path`` names: relative as in the index, or absolute below one of its roots.

    Slashes may go either way. The result is empty for the only root itself.

    Raises:
        ValueError: it is malformed, or leads outside the roots.
    """
    if "\0" in path:
        raise ValueError(f"the path {path!r} holds a NUL character; name a file as search results do")
    if len(path) > MAX_PATH:
        raise ValueError(f"the path has {len(path):,} characters and at most {MAX_PATH:,} are read; name one file")
    clean = path.strip().replace("\\", "/")
    if os.path.isabs(clean) or Path(path.strip()).is_absolute():
        below = paths_of(Path(os.path.abspath(clean)), roots)
        if not below:
            raise ValueError(_outside(path, roots))
        return "" if below[0] == "." else below[0]
    clean = posixpath.normpath(clean or ".")
    if clean == ".." or clean.startswith("../"):
        raise ValueError(_outside(path, roots))
    return "" if clean == "." else clean


def _outside(path: str, roots: Sequence[Path]) -> str:
    folders = ", ".join(map(str, roots))
    return f"{path!r} is outside the served folders ({folders}); name a file as search results do"


def read_file(path: str, roots: Sequence[SourceRoot], reading: Reading) -> tuple[FileState, str]:
    """Return the state and the text of the file at ``path`` in the index, as it is on disk now.

    Raises:
        ValueError: there is no such file, it is a link, is binary or too large, or the index would leave it out.
    """
    root = next((root for root in roots if path.startswith(root.prefix)), None)
    if root is None:
        raise ValueError(no_file(path, reading))
    relative = path.removeprefix(root.prefix)
    _check_inside(root.folder, relative, path)
    if reading.file(path) is None and not _is_listed(root.folder, relative):
        file = root.folder / relative
        if file.is_dir():
            raise ValueError(f"{path or 'the repository'} is a folder; its outline lists its files")
        if file.exists():
            raise ValueError(
                f"{path} is left out of the index: it is ignored, or in a folder that is; read another file"
            )
        raise ValueError(no_file(path, reading))
    state, text = FileReader(root).read(relative)
    if text is None:
        if state.left_out == "deleted":
            raise ValueError(no_file(path, reading))
        raise ValueError(f"{path} cannot be read here, because the index leaves it out: {_reason(state)}")
    return state, text


def _reason(state: FileState) -> str:
    if state.left_out == "too large":
        return f"it is too large ({state.size:,} bytes)"
    return state.left_out


def _check_inside(folder: Path, relative: str, path: str) -> None:
    """Check that no part of a path is a symbolic link, whose target may be anywhere: the index reads none either.

    Raises:
        ValueError: one is.
    """
    parts = relative.split("/")
    for end in range(1, len(parts) + 1):
        file = folder.joinpath(*parts[:end])
        if file.is_symlink():
            try:
                target = file.resolve()
            except (OSError, RuntimeError):  # a loop of links
                target = folder.parent
            inside = target.is_relative_to(folder.resolve())
            way = f"read {target.relative_to(folder.resolve())} instead" if inside else "its target is outside"
            raise ValueError(
                f"{path} is behind the symbolic link {'/'.join(parts[:end])}, which is not followed: {way}"
            )


def _is_listed(folder: Path, relative: str) -> bool:
    """Return whether a walk of the folder lists a file, which git or a rule may ignore."""
    if not (folder / relative).is_file():
        return False
    return any(path == relative for path, _ in list_files(folder, SourceCounts()))


def no_file(path: str, reading: Reading) -> str:
    """Return that the index has no such file, and which paths are like it."""
    closest = closest_paths(path, reading.paths())
    hint = f"did you mean {' or '.join(closest)}?" if closest else "name a file as search results do"
    return f"there is no file {path!r}; {hint}"
