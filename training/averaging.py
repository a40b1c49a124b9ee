"""Average the weights of several LoRA adapters of one base (model soups: Wortsman et al. 2022)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from llamaindex_code_retrieval._io import read_json, sha256, write_atomically
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DAMAGED, TRAIN_CONFIG
from llamaindex_code_retrieval.models.locate import locate_adapter
from llamaindex_code_retrieval.models.weights import check_finite, read_weights
from llamaindex_code_retrieval.training.model_card import average_card
from llamaindex_code_retrieval.training.run_record import free_folder, public_name

_PLAIN = {"bias": "none", "use_dora": False, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
"""Settings of LoRA under which its change of a weight is ``lora_alpha / r`` times the product of two matrices."""

_DOWN, _UP = "lora_A.weight", "lora_B.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Adapter:
    name: str
    config: dict[str, Any]
    base: dict[str, Any]
    """The base that the training recorded; empty for an adapter of another package."""
    changes: dict[str, tuple[Tensor, Tensor]]
    """``(out, rank)`` and ``(rank, in)`` of each module, whose product is the change of its weight."""
    sha256: str


def average_adapters(adapters: Sequence[str | Path], folder: str | Path, *, rank: int | None = None) -> dict[str, Any]:
    """Save the mean of the weight changes of LoRA adapters as a LoRA adapter in ``folder``; return its record.

    The mean of adapters of ranks r and s has rank r + s. It is reduced to ``rank``, by default the largest of the
    adapters', by the largest singular values of each module; the record says which share of the squared change is kept.
    With one adapter this only reduces its rank.

    Args:
        adapters: names, folders or hub names of adapters for the same modules of the same base.
        folder: a new folder.
        rank: rank of the result.

    Raises:
        ValueError: no adapter, a rank below 1, other adapters than plain LoRA, adapters of different bases or modules,
            or a folder in use.
    """
    if not adapters:
        raise ValueError("there is no adapter to average; name at least one")
    if rank is not None and rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    out = free_folder(folder, resume=False)
    loaded = [_load(adapter) for adapter in adapters]
    for other in loaded[1:]:
        _check_alike(loaded[0], other)
    rank = rank or max(adapter.config["r"] for adapter in loaded)
    tensors: dict[str, Tensor] = {}
    kept = total = 0.0
    for module in loaded[0].changes:
        up = torch.cat([adapter.changes[module][0] for adapter in loaded], dim=1) / len(loaded)
        down = torch.cat([adapter.changes[module][1] for adapter in loaded])
        tensors[module + _UP], tensors[module + _DOWN], energy = _reduced(up, down, rank)
        kept += float(energy[:rank].sum())
        total += float(energy.sum())
    record = {
        "base": loaded[0].base or {"name": loaded[0].config["base_model_name_or_path"]},
        "averaged": [{"name": adapter.name, "sha256": adapter.sha256} for adapter in loaded],
        "rank": rank,
        "kept": kept / total if total else 1.0,
    }
    _save(tensors, loaded[0].config | {"r": rank, "lora_alpha": rank}, record, out)
    return record


def _load(adapter: str | Path) -> _Adapter:
    folder = locate_adapter(adapter)
    config = read_json(folder / ADAPTER_CONFIG, remedy=DAMAGED, keys=("peft_type", "base_model_name_or_path"))
    settings = {name: (config.get(name, plain), plain) for name, plain in _PLAIN.items()}
    odd = [f"{name} {value!r}" for name, (value, plain) in settings.items() if value != plain]
    if config["peft_type"] != "LORA" or odd:
        raise ValueError(
            f"the adapter {public_name(adapter)} is {', '.join([config['peft_type'], *odd])}; only plain LoRA can be "
            "averaged"
        )
    path = folder / ADAPTER_WEIGHTS
    tensors = read_weights(path, remedy=DAMAGED)
    check_finite(tensors, source=path, remedy=DAMAGED)
    modules = [name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)]
    if {module + part for module in modules for part in (_UP, _DOWN)} != set(tensors):
        raise ValueError(f"{path} holds other weights than pairs of lora_A and lora_B; only plain LoRA can be averaged")
    scale = config["lora_alpha"] / config["r"]
    record = read_json(folder / TRAIN_CONFIG, remedy=DAMAGED) if (folder / TRAIN_CONFIG).is_file() else {}
    return _Adapter(
        name=public_name(adapter),
        config=config,
        base=record.get("base", {}),
        changes={m: (scale * tensors[m + _UP].float(), tensors[m + _DOWN].float()) for m in modules},
        sha256=sha256(path),
    )


def _check_alike(first: _Adapter, other: _Adapter) -> None:
    """Check that two adapters change the same modules of the same base.

    Raises:
        ValueError: they do not.
    """
    bases = [a.base.get("fingerprint") or a.config["base_model_name_or_path"] for a in (first, other)]
    if bases[0] != bases[1]:
        raise ValueError(
            f"{first.name} and {other.name} are adapters of different bases ({bases[0]} and {bases[1]}); average "
            "adapters of one base"
        )
    shapes = [{m: (len(up), down.shape[1]) for m, (up, down) in a.changes.items()} for a in (first, other)]
    if shapes[0] != shapes[1]:
        modules = {*shapes[0], *shapes[1]}
        module = next(m for m in sorted(modules) if shapes[0].get(m) != shapes[1].get(m))
        raise ValueError(
            f"{first.name} and {other.name} differ in {module.strip('.')}: {shapes[0].get(module)} and "
            f"{shapes[1].get(module)}; average adapters of the same modules"
        )


def _reduced(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best approximation of ``up @ down`` by matrices (out, rank) and (rank, in), and the energies.

    The energies are the squared singular values of the product, largest first. Where the product has a lower rank than
    ``rank``, the rest of the matrices is zero.
    """
    left, core_left = torch.linalg.qr(up)
    right, core_right = torch.linalg.qr(down.T)
    u, values, vt = torch.linalg.svd(core_left @ core_right.T)
    roots = values[:rank].sqrt()
    small_up, small_down = left @ u[:, :rank] * roots, roots[:, None] * (vt[:rank] @ right.T)
    missing = rank - len(roots)
    if missing > 0:
        small_up = torch.cat([small_up, up.new_zeros(len(up), missing)], dim=1)
        small_down = torch.cat([small_down, down.new_zeros(missing, down.shape[1])])
    return small_up.contiguous(), small_down.contiguous(), values.square()


def _save(tensors: Mapping[str, Tensor], config: Mapping[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """Write the adapter; its configuration, without which the folder is none, comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TRAIN_CONFIG, json.dumps(record, indent=2) + "\n")
    write_atomically(folder / "README.md", average_card(record))
    write_atomically(folder / ADAPTER_WEIGHTS, safetensors.torch.save(dict(tensors), metadata={"format": "pt"}))
    write_atomically(folder / ADAPTER_CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
