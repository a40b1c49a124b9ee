"""The folder of an index: what it may hold, how to open it, and how to build it again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval.index.storage import DATABASE, FORMAT, Storage

_OLD_MANIFEST = "manifest.json"
_OWN_FILES = re.compile(
    r"\.?index\.sqlite.*|vectors-[0-9a-f]{16}\.faiss|\.vectors-.*\.tmp|words-[0-9a-f]{16}"
    r"|data-[0-9a-f]{16}|\.?manifest\.json.*|\.lock|\.lock-holder\.json|\.gitignore|sources"
)
"""Matches the names of the files and folders that belong to an index, also of formats up to 3."""


def has_index(folder: Path) -> bool:
    """Return whether a folder holds an index of any format."""
    return (folder / DATABASE).is_file() or (folder / _OLD_MANIFEST).is_file()


def check_folder(folder: Path) -> None:
    """Refuse a file, and a folder that holds other things than an index."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the index")
    if folder.is_dir() and not has_index(folder):
        foreign = sorted(path.name for path in folder.iterdir() if not _OWN_FILES.fullmatch(path.name))
        if foreign:
            raise ValueError(
                f"{folder} holds other things than an index ({', '.join(foreign[:3])}); name a new or an empty folder"
            )


def open_storage(folder: str | Path) -> Storage:
    """Open the database of the index in ``folder``.

    Raises:
        ValueError: there is no index, it is damaged, or of another format.
    """
    folder = Path(folder)
    try:
        return Storage(folder)
    except (FileNotFoundError, NotADirectoryError):
        old = _old_manifest(folder)
        if old is None:
            raise ValueError(
                f"there is no index in {folder}; build one with: code-retrieval index PATH --out {folder}"
            ) from None
        raise ValueError(
            f"{folder} holds an index of format {old.get('format')}, this version reads format {FORMAT}; "
            f"build it again with: {rebuild_command(folder, old)}"
        ) from None


def read_settings(folder: str | Path) -> dict[str, Any]:
    """Return the settings of the index in ``folder``.

    Raises:
        ValueError: there is no index, it is damaged, or of another format.
    """
    storage = open_storage(folder)
    try:
        with storage.reading() as reading:
            return reading.settings()
    finally:
        storage.close()


def rebuild_command(folder: Path, settings: Mapping[str, Any]) -> str:
    """Return the command that builds the index again."""
    roots = settings.get("roots") or ["PATH"]
    options = [f"--{name.replace('_', '-')}={value}" for name, value in _assignments(settings.get("sources") or {})]
    return shlex.join(["code-retrieval", "index", *map(str, roots), *options, "--out", str(folder)])


def _assignments(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each option on the command line: lists and tables repeat their option."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from ((name, f"{key}={each}") for key, each in value.items())
        else:
            yield from ((name, str(each)) for each in (value if isinstance(value, list) else [value]))


def _old_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / _OLD_MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {} if (folder / _OLD_MANIFEST).exists() else None
    return manifest if isinstance(manifest, dict) else {}
