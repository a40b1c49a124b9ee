"""How a checkpoint is read: pooling, token limits, precision, device, fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from llamaindex_code_retrieval._io import json_hash, read_json, sha256
from llamaindex_code_retrieval.models.catalog import (
    BASES,
    PRECISIONS,
    Architecture,
    Pooling,
    Precision,
    architecture_of,
)
from llamaindex_code_retrieval.models.files import ADAPTER_WEIGHTS, DAMAGED, TRAIN_CONFIG
from llamaindex_code_retrieval.models.modify import virtual_tokens

_PREPROCESSING_VERSION = 1  # part of the fingerprint: raise it when equal files start to give other vectors
_VOLATILE_CONFIG_KEYS = frozenset(
    "_name_or_path architectures auto_map dtype gradient_checkpointing torch_dtype transformers_version use_cache "
    "base_model_name_or_path inference_mode revision peft_version".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """What a checkpoint's files say about how to turn its hidden states into vectors."""

    architecture: Architecture
    pooling: Pooling
    max_query_tokens: int
    max_code_tokens: int
    positions: int | None  # None: no limit
    query_prompt: str = ""
    code_prompt: str = ""


def _plan(
    folder: Path,
    *,
    name: str,
    pooling: Pooling | None,
    max_query_tokens: int | None,
    max_code_tokens: int | None,
) -> EncoderSpec:
    config = read_json(folder / "config.json", remedy=DAMAGED)
    known = BASES.get(name.partition("@")[0])
    architecture: Architecture
    if known is not None:
        architecture = known.architecture
    elif (folder / TRAIN_CONFIG).is_file():  # a base that we trained
        architecture = read_json(folder / TRAIN_CONFIG, remedy=DAMAGED)["base"]["architecture"]
    else:
        architecture = architecture_of(config.get("model_type", ""), folder_name=Path(name).name)
    positions: int | None = None  # T5's are relative, so it knows no limit
    if architecture not in ("t5", "codet5p-embedding"):
        positions = int(config.get("max_position_embeddings") or config.get("n_positions") or 512)
        if config.get("model_type") in ("roberta", "camembert", "mpnet", "xlm-roberta"):
            positions -= 2  # these count positions from the padding index on
    st_limit, st_pooling, prompts = _sentence_transformers_settings(folder)
    default = min(st_limit or 512, positions or 512)
    queries = max_query_tokens or (known.max_query_tokens if known else default)
    codes = max_code_tokens or (known.max_code_tokens if known else default)
    for field, value in (("max_query_tokens", queries), ("max_code_tokens", codes)):
        if value < 8 or (positions is not None and value > positions):
            limit = "" if positions is None else f" and at most the model's {positions} positions"
            raise ValueError(f"{field} must be at least 8{limit}, got {value}")
    if pooling not in (None, "cls", "mean"):
        raise ValueError(f"pooling must be 'cls' or 'mean', got {pooling!r}")
    by_architecture: Pooling = "cls" if architecture == "codet5p-embedding" else "mean"
    return EncoderSpec(
        architecture=architecture,
        pooling=pooling or (known.pooling if known else st_pooling or by_architecture),
        max_query_tokens=queries,
        max_code_tokens=codes,
        positions=positions,
        query_prompt=prompts.get("query", ""),
        code_prompt=prompts.get("document", prompts.get("passage", "")),
    )


def _sentence_transformers_settings(folder: Path) -> tuple[int | None, Pooling | None, dict[str, str]]:
    """Return token limit, pooling and prompts that a sentence-transformers folder sets; ``None`` where it is silent."""
    modules = (
        read_json(folder / "modules.json", remedy=DAMAGED, kind=list) if (folder / "modules.json").is_file() else []
    )
    for module in modules:
        if module["type"].rsplit(".", 1)[-1] not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(
                f"{folder} has a sentence-transformers module {module['type']}, which this package does not apply; "
                "its vectors would differ from the published ones, so it is refused"
            )
    limit: int | None = None
    pooling: Pooling | None = None
    prompts: dict[str, str] = {}
    if (folder / "sentence_bert_config.json").is_file():
        limit = read_json(folder / "sentence_bert_config.json", remedy=DAMAGED).get("max_seq_length")
    if (folder / "1_Pooling" / "config.json").is_file():
        modes = read_json(folder / "1_Pooling" / "config.json", remedy=DAMAGED)
        if modes.get("pooling_mode_cls_token") or modes.get("pooling_mode") == "cls":
            pooling = "cls"
        elif modes.get("pooling_mode_mean_tokens") or modes.get("pooling_mode") == "mean":
            pooling = "mean"
        else:
            raise ValueError(f"{folder}/1_Pooling/config.json asks for a pooling other than cls or mean: {modes}")
    if (folder / "config_sentence_transformers.json").is_file():
        prompts = read_json(folder / "config_sentence_transformers.json", remedy=DAMAGED).get("prompts") or {}
    return limit, pooling, prompts


def _check_room(backbone: Any, plan: EncoderSpec) -> None:
    """Refuse virtual tokens that would push a full-length text beyond the last position."""
    limit, virtual = max(plan.max_query_tokens, plan.max_code_tokens), virtual_tokens(backbone)
    positions = plan.positions
    if positions is not None and limit + virtual > positions:
        raise ValueError(
            f"{limit} tokens and the adapter's {virtual} virtual ones do not fit the model's {positions} positions; "
            "lower max_query_tokens and max_code_tokens"
        )


def resolve_device(device: str | None) -> torch.device:
    """Return the device by name, CUDA for ``None`` where there is one.

    Raises:
        ValueError: this machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        raise ValueError(f"this machine has no device {device!r}; use 'cpu', or leave device out") from error
    return resolved


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision meant by ``auto``: bf16 where the device computes it natively, fp32 elsewhere."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'auto', 'fp32' or 'bf16', got {precision!r}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if native else "fp32"


def _facts(folder: Path, plan: EncoderSpec) -> dict[str, Any]:
    """Return all that decides a vector of the base."""
    facts: dict[str, Any] = {
        "version": _PREPROCESSING_VERSION,
        "plan": {name: getattr(plan, name) for name in plan.__slots__ if name != "positions"},  # that is in config
        "config": _stable_json(folder / "config.json"),
        "weights": {file.name: sha256(file) for file in sorted(folder.glob("model*.safetensors"))},
    }
    tokenizer = _stable_json(folder / "tokenizer.json") if (folder / "tokenizer.json").is_file() else None
    if tokenizer is not None:
        facts["tokenizer"] = {k: v for k, v in tokenizer.items() if k not in ("truncation", "padding")}
    else:
        names = ("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "added_tokens.json")
        facts["tokenizer"] = {name: sha256(folder / name) for name in names if (folder / name).is_file()}
    return facts


def _adapter_facts(adapter: Path) -> dict[str, Any]:
    return {
        "config": _stable_json(adapter / "adapter_config.json"),
        "weights": sha256(adapter / ADAPTER_WEIGHTS),
    }


def _hash(facts: dict[str, Any]) -> str:
    return json_hash(facts)


def _stable_json(path: Path) -> dict[str, Any]:
    return {key: value for key, value in read_json(path, remedy=DAMAGED).items() if key not in _VOLATILE_CONFIG_KEYS}
