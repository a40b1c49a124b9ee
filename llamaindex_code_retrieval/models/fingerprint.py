"""The content of an encoder's fingerprint: settings, configuration, tokenizer and the SHA-256 of weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import read_json, sha256
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, DAMAGED
from llamaindex_code_retrieval.models.spec import EncoderSpec

_PREPROCESSING_VERSION = 1  # raise it when the same files start to give other vectors
_VOLATILE_CONFIG_KEYS = frozenset(
    "_name_or_path architectures auto_map dtype gradient_checkpointing torch_dtype transformers_version use_cache "
    "base_model_name_or_path inference_mode revision peft_version".split()
)


def base_metadata(folder: Path, spec: EncoderSpec) -> dict[str, Any]:
    """Return everything that decides a vector of the base in ``folder``."""
    metadata: dict[str, Any] = {
        "version": _PREPROCESSING_VERSION,
        "plan": {name: value for name, value in asdict(spec).items() if name != "positions"},  # config has these
        "config": _stable_json(folder / CONFIG),
        "weights": {file.name: sha256(file) for file in sorted(folder.glob("model*.safetensors"))},
    }
    if (folder / "tokenizer.json").is_file():
        tokenizer = _stable_json(folder / "tokenizer.json")
        metadata["tokenizer"] = {k: v for k, v in tokenizer.items() if k not in ("truncation", "padding")}
    else:
        names = ("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "added_tokens.json")
        metadata["tokenizer"] = {name: sha256(folder / name) for name in names if (folder / name).is_file()}
    return metadata


def without_token_limits(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a base without the token limits, which each use of the base may set."""
    limits = ("max_query_tokens", "max_code_tokens")
    return metadata | {"plan": {name: value for name, value in metadata["plan"].items() if name not in limits}}


def adapter_metadata(folder: Path) -> dict[str, Any]:
    """Return everything that decides what the adapter in ``folder`` adds to a base."""
    return {"config": _stable_json(folder / ADAPTER_CONFIG), "weights": sha256(folder / ADAPTER_WEIGHTS)}


def _stable_json(path: Path) -> dict[str, Any]:
    """Return a JSON file without the keys that change no vector."""
    return {key: value for key, value in read_json(path, remedy=DAMAGED).items() if key not in _VOLATILE_CONFIG_KEYS}
