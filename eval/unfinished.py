"""The finished parts of a run, kept in files until all of it is done, so that an interrupted run can go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from llamaindex_code_retrieval._io import write_atomically

T = TypeVar("T")


class Unfinished:
    """Parts of a run as JSON files in a folder; with ``None`` for the folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def path(self, key: str) -> Path | None:
        """Return the file of a part, which need not exist."""
        return None if self.folder is None else self.folder / f"{key}.json"

    def load(self, key: str, read: Callable[[dict[str, Any]], T]) -> T | None:
        """Return what ``read`` makes of a part; ``None`` if there is no such part or its file is damaged."""
        path = self.path(key)
        if path is None:
            return None
        try:
            return read(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, key: str, part: Mapping[str, Any]) -> None:
        """Keep a part."""
        path = self.path(key)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(part))

    def delete(self) -> None:
        """Remove the folder with all parts."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
