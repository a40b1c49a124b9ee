"""Find the index of the code base that a folder belongs to, and keep its roots valid when both are moved."""

from __future__ import annotations

import os
from pathlib import Path

INDEX_NAME = ".code-retrieval"
"""The default name of the folder of an index."""

_CONTENTS = ("index.sqlite", "manifest.json")
"""Files by which the folder of an index is recognised; the second one is that of versions before SQLite."""


def find_index(start: Path | None = None, *, name: str = INDEX_NAME) -> Path | None:
    """Return the folder ``name`` with an index in ``start`` (default: the working folder) or the nearest folder above.

    Returns ``None`` if there is no index up to the root of the file system.
    """
    start = (start or Path.cwd()).resolve()
    return next((above / name for above in (start, *start.parents) if is_index(above / name)), None)


def is_index(folder: Path) -> bool:
    """Return whether a folder has an index in it, of this version or an older one."""
    return any((folder / file).is_file() for file in _CONTENTS)


def store_root(root: Path, folder: Path) -> str:
    """Return how the index in ``folder`` stores the path of ``root``, so that both can be moved together.

    The path is relative to ``folder``, with forward slashes, if ``root`` contains ``folder``, or lies beside or in it.
    Otherwise it is absolute.

    >>> store_root(Path("/code/app"), Path("/code/app/.code-retrieval"))
    '..'
    >>> store_root(Path("/code/app/.code-retrieval/sources/lib"), Path("/code/app/.code-retrieval"))
    'sources/lib'
    >>> store_root(Path("/other"), Path("/code/app/.code-retrieval"))
    '/other'
    """
    root, folder = root.resolve(), folder.resolve()
    if folder.is_relative_to(root) or root.is_relative_to(folder.parent):
        return Path(os.path.relpath(root, folder)).as_posix()
    return str(root)


def restore_root(text: str, folder: Path) -> Path:
    """Return the absolute path of a root that :func:`store_root` returned for the index that is now in ``folder``."""
    return Path(os.path.normpath(folder.resolve() / text))
