"""Pack bases for a machine without a network, and take over what was trained on them there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from llamaindex_code_retrieval._io import read_json, write_atomically
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.catalog import NO_ADAPTER, hub_name
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    DAMAGED,
    QUERY_CONFIG,
    RERANKER_CONFIG,
    TRAIN_CONFIG,
    WEIGHTS,
)
from llamaindex_code_retrieval.models.locate import locate
from llamaindex_code_retrieval.models.weights import check_finite, read_weights
from llamaindex_code_retrieval.training.model_card import model_card, query_card, reranker_card

_COPIED = (".json", ".txt", ".model")


def pack_base(name: str, folder: str | Path) -> None:
    """Write a base into ``folder`` with its weights in bf16, half of their size.

    Raises:
        ValueError: no such base, or one whose weights are in several files.
    """
    source, folder = locate(name), Path(folder)
    if not (source / WEIGHTS).is_file():
        raise ValueError(f"{source} holds no {WEIGHTS}; a base of several shards is not supported here")
    weights = read_weights(source / WEIGHTS, remedy=DAMAGED)
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*source.iterdir(), *source.glob("1_Pooling/*")):
        if path.is_file() and path.suffix in _COPIED:
            target = folder / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    halved = {key: w.to(torch.bfloat16) if w.dtype == torch.float32 else w for key, w in weights.items()}
    write_atomically(folder / WEIGHTS, safetensors.torch.save(halved, metadata={"format": "pt"}))


def adopt(folder: str | Path, base: str, *, teacher: str | Path | None = None) -> None:
    """Change weights and records of what was trained on a packed base so that they fit ``base`` itself, in place.

    Rounding the base to bf16 changes its vectors by less than inference in bf16 does. An adapter is stored in fp16.

    Args:
        folder: of an adapter, a reranker or a query encoder.
        base: name or folder of the base that was packed.
        teacher: for a query encoder the adapter of its teacher, for a reranker that of its first stage, already
            adopted; ``None`` is the bare base.
    """
    folder = Path(folder)
    bare = CodeEmbedding(base, adapter=NO_ADAPTER, precision="fp32")
    named = {"name": base, "fingerprint": bare.encoder.base_fingerprint}
    record = _update(folder / TRAIN_CONFIG, {"base": named})
    if (folder / ADAPTER_CONFIG).is_file():
        _update(folder / ADAPTER_CONFIG, {"base_model_name_or_path": hub_name(base)})
        _halve(folder / ADAPTER_WEIGHTS)
    card: Callable[[Mapping[str, Any]], str] = model_card
    if (folder / RERANKER_CONFIG).is_file() or (folder / QUERY_CONFIG).is_file():
        adapter = NO_ADAPTER if teacher is None else str(teacher)
        taught_by = CodeEmbedding(base, adapter=adapter, precision="fp32")
        name, fingerprint = Path(adapter).name, taught_by.fingerprint
        if (folder / RERANKER_CONFIG).is_file():
            _update(folder / RERANKER_CONFIG, {"base": named})
            encoder = bare.torch_encoder
            own = {
                "fingerprint": CrossEncoder.load(folder, encoder=encoder, precision="fp32").fingerprint,
                "retriever": {"name": f"{base}, {name}", "fingerprint": fingerprint},
            }
            card = reranker_card
        else:
            own = {"teacher": {"name": base, "adapter": name, "fingerprint": fingerprint}}
            _update(folder / QUERY_CONFIG, own)
            card = query_card
    else:
        limits = {name: record[name] for name in ("max_query_tokens", "max_code_tokens")}
        own = {"fingerprint": CodeEmbedding(base, adapter=str(folder), precision="fp32", **limits).fingerprint}
    write_atomically(folder / "README.md", card(_update(folder / TRAIN_CONFIG, own)))


def _halve(path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in read_weights(path, remedy=DAMAGED).items()}
    check_finite(tensors, source=path, remedy=DAMAGED)
    write_atomically(path, safetensors.torch.save(tensors, metadata={"format": "pt"}))


def _update(path: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Change values in a JSON file and return its content; those in objects that both have are merged."""
    content: dict[str, Any] = read_json(path, remedy=DAMAGED)
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    write_atomically(path, json.dumps(content, indent=2) + "\n")
    return content
