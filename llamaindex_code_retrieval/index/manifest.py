"""The manifest of an index, and what else its folder may hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval._io import read_json

if TYPE_CHECKING:  # imports pydantic, which no search needs
    from llamaindex_code_retrieval.index.source_options import SourceOptions

FORMAT = 3
_READABLE_FORMATS = (2, 3)  # format 2 kept less of a node
MANIFEST = "manifest.json"
_MANIFEST_KEYS: Mapping[str, type] = {
    "generation": str,
    "fingerprint": str,
    "adapters": dict,
    "dim": int,
    "embedding": dict,
    "parser": dict,
    "vector_store": str,
    "roots": list,
    "files": int,
    "nodes": int,
    "updated": str,
    "contents": dict,
}
OWN_FILES = re.compile(
    r"data-[0-9a-f]{16}|manifest\.json|\.?manifest\.json(\.[0-9a-f]{8})?\.tmp"
    r"|\.lock|\.lock-holder\.json|\.gitignore|sources"
)
"""Matches the names of the files and folders that belong to an index."""


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of the index in ``folder``: format, fingerprint, dim, counts, roots, model, contents.

    Raises:
        ValueError: there is no index, it is damaged, or of another format.
    """
    path = Path(folder) / MANIFEST
    remedy = "build the index again with `code-retrieval index`"
    try:
        manifest: dict[str, Any] = read_json(path, remedy=remedy, keys=["format"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"there is no index in {folder}; build one with: code-retrieval index PATH --out {folder}"
        ) from error
    except ValueError as error:
        raise ValueError(f"the index in {folder} is damaged: {error}") from error
    if manifest["format"] not in _READABLE_FORMATS:
        raise ValueError(
            f"{folder} holds an index of format {manifest['format']}, this version reads the formats "
            f"{' and '.join(map(str, _READABLE_FORMATS))}; {remedy}"
        )
    for key, kind in _MANIFEST_KEYS.items():
        if not isinstance(manifest.get(key), kind):
            raise ValueError(f"the index in {folder} is damaged: {path} has no valid {key!r}; {remedy}")
    return manifest


def check_folder(folder: Path) -> None:
    """Refuse a file, and a folder that holds other things than an index."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the index")
    if folder.is_dir() and not (folder / MANIFEST).exists():
        foreign = sorted(path.name for path in folder.iterdir() if not OWN_FILES.fullmatch(path.name))
        if foreign:
            raise ValueError(
                f"{folder} holds other things than an index ({', '.join(foreign[:3])}); name a new or an empty folder"
            )


def rebuild_command(folder: Path, manifest: dict[str, Any]) -> str:
    """Return the command that builds the index again."""
    roots = manifest["roots"] or ["PATH"]
    options = [f"--{name.replace('_', '-')}={value}" for name, value in _assignments(manifest.get("sources", {}))]
    return shlex.join(["code-retrieval", "index", *roots, *options, "--out", str(folder)])


def _assignments(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each option on the command line: lists and tables repeat their option."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from ((name, f"{key}={each}") for key, each in value.items())
        else:
            yield from ((name, str(each)) for each in (value if isinstance(value, list) else [value]))


def saved_source_options(folder: Path, manifest: Mapping[str, Any]) -> SourceOptions:
    """Return the options of the sources that the manifest has; older ones have none.

    Raises:
        ValueError: they are damaged, or name a language that this version does not know.
    """
    from llamaindex_code_retrieval.index.source_options import SourceOptions

    try:
        return SourceOptions(**manifest.get("sources", {}))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the source options of the index in {folder} cannot be used: {error}; build the index again with "
            "`code-retrieval index`"
        ) from error


def damaged(folder: Path, manifest: dict[str, Any], what: str) -> str:
    """Return the message about an index with a damaged file."""
    command = rebuild_command(folder, manifest)
    return f"the index in {folder} is damaged or half copied: {what}; rebuild it with: {command}"
