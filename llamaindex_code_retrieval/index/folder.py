"""The folder of an index: what it may hold, how to open it, and how to build it again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval.index.locate import is_index, restore_root
from llamaindex_code_retrieval.index.storage import DATABASE, FORMAT, Storage
from llamaindex_code_retrieval.models.catalog import EMBEDDED

_OLD_MANIFEST = "manifest.json"
_SETTINGS = (
    "generation next_number embedding fingerprint adapters dim probe parser vector_store roots sources rules "
    "unfinished updated"
).split()
"""Names of the settings that every index has."""
_OWN_FILES = re.compile(
    r"\.?index\.sqlite.*|vectors-[0-9a-f]{16}\.faiss|\.vectors-.*\.tmp|words-[0-9a-f]{16}"
    r"|data-[0-9a-f]{16}|\.?manifest\.json.*|\.lock|\.lock-holder\.json|\.gitignore|sources"
)
"""Matches the names of the files and folders that belong to an index, also of formats up to 3."""


def check_folder(folder: Path) -> None:
    """Refuse a file, and a folder that holds other things than an index."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the index")
    if folder.is_dir() and not is_index(folder):
        foreign = sorted(path.name for path in folder.iterdir() if not _OWN_FILES.fullmatch(path.name))
        if foreign:
            raise ValueError(
                f"{folder} holds other things than an index ({', '.join(foreign[:3])}); name a new or an empty folder"
            )


def ignore_by_git(folder: Path) -> None:
    """Keep a folder that lies inside a checkout out of its git status, and out of an index of that checkout."""
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")


def open_storage(folder: str | Path) -> Storage:
    """Open the database of the index in ``folder``.

    Raises:
        ValueError: there is no index, it is damaged, or of another format.
    """
    folder = Path(folder)
    try:
        storage = Storage(folder)
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
    with storage.reading() as reading:
        settings = reading.settings()
    missing = [name for name in _SETTINGS if name not in settings]
    if missing:
        storage.close()
        raise ValueError(
            f"the index in {folder} is damaged (it lacks the setting {missing[0]!r}); remove the folder and build the "
            "index again with `code-retrieval index`"
        )
    return storage


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


def describe(folder: Path) -> dict[str, Any]:
    """Return what an index says of itself: its format, model, folders, counts and size.

    Raises:
        ValueError: there is no index, it is damaged, or of another format.
    """
    storage = open_storage(folder)
    try:
        with storage.reading() as reading:
            settings = reading.settings()
            names = ("format", "fingerprint", "adapters", "dim", "embedding", "parser", "roots", "sources", "updated")
            known = {name: settings[name] for name in names}
            known["roots"] = [str(restore_root(root, folder)) for root in settings["roots"]]
            counts = {
                "files": reading.file_count(),
                "nodes": reading.count("nodes"),
                "missing_vectors": len(reading.unembedded()),
                "languages": reading.languages(),
            }
    finally:
        storage.close()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {**known, **counts, "bytes": size}


def remove_if_empty(folder: Path) -> None:
    """Remove the files of an index without files, and its folder if nothing else is in it."""
    if (folder / DATABASE).is_file():
        storage = open_storage(folder)
        try:
            with storage.reading() as reading:
                if reading.count("files"):
                    return
        finally:
            storage.close()
    if folder.is_dir():
        names = [path for path in folder.iterdir() if _OWN_FILES.fullmatch(path.name) and path.name != "sources"]
        for path in names:
            _remove(path)
        if not any(folder.iterdir()):
            folder.rmdir()


def remove_old_format(folder: Path) -> None:
    """Remove what versions up to format 3 kept beside a database of this format."""
    for path in folder.iterdir():
        if re.fullmatch(r"data-[0-9a-f]{16}|\.?manifest\.json.*", path.name):
            _remove(path)


def rebuild_command(folder: Path, settings: Mapping[str, Any]) -> str:
    """Return the command that builds the index again."""
    roots = [str(restore_root(root, folder)) for root in settings.get("roots") or []] or ["PATH"]
    options = [f"--{name.replace('_', '-')}={value}" for name, value in _assignments(settings.get("sources") or {})]
    embedding = settings.get("embedding") or {}
    is_chosen = embedding.get("class_name") == "CodeEmbedding" and embedding["model_name"] != EMBEDDED
    model = ["--model", embedding["model_name"]] if is_chosen else []
    return shlex.join(["code-retrieval", "index", *roots, *options, "--out", str(folder), *model])


def _assignments(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each option on the command line: lists and tables repeat their option."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from ((name, f"{key}={each}") for key, each in value.items())
        else:
            yield from ((name, str(each)) for each in (value if isinstance(value, list) else [value]))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _old_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / _OLD_MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {} if (folder / _OLD_MANIFEST).exists() else None
    return manifest if isinstance(manifest, dict) else {}
