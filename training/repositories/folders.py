"""The folders that training data are made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def check_folders(roots: Sequence[str | Path]) -> list[Path]:
    """Return the folders as paths.

    Raises:
        FileNotFoundError: a folder does not exist.
        NotADirectoryError: it is a file.
    """
    folders = [Path(root).expanduser() for root in roots]
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist; name a folder with source code")
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder; name a folder with source code")
    return folders
