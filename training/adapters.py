"""Attach adapters to encoders with PEFT, ready to be trained, and save them."""

from __future__ import annotations

import copy
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llamaindex_code_retrieval._io import read_json, write_atomically
from llamaindex_code_retrieval.models.adapter import load_adapter_weights
from llamaindex_code_retrieval.models.backbone import quiet_transformers
from llamaindex_code_retrieval.models.catalog import NO_ADAPTER, hub_name
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, DAMAGED, WEIGHTS
from llamaindex_code_retrieval.models.locate import locate_adapter
from llamaindex_code_retrieval.models.modify import layers_of
from llamaindex_code_retrieval.training.config import AdapterConfig
from llamaindex_code_retrieval.training.targets import adapter_targets

ADALORA_STEPS = 10
"""AdaLoRA keeps all ranks for a tenth of the steps, so it needs at least this many."""


def attach_adapter(
    encoder: Encoder,
    config: AdapterConfig,
    *,
    total_steps: int = 0,
    start: Path | None = None,
    seed: int = 0,
    prepare: Callable[[nn.Module], nn.Module] = lambda base: base,
) -> Encoder:
    """Return an encoder of the same base with a new adapter to be trained; ``encoder`` stays as it is.

    Adapters share the frozen weights of the base; ``full`` trains a copy of them.

    Args:
        encoder: an encoder without an adapter, in fp32.
        config: what is trained.
        total_steps: length of the training, which AdaLoRA needs: it keeps all ranks for a tenth of the steps, prunes
            for a half, and trains what is left.
        start: folder of an adapter of the same shape whose weights the training starts from.
        seed: of new weights.
        prepare: changes the base first, see :meth:`Encoder.with_backbone`.

    Raises:
        ValueError: targets that match no module, AdaLoRA over fewer than 10 steps, virtual tokens that do not fit the
            model's positions, a ``start`` of another method or shape.
    """
    if encoder.adapter is not None:
        raise ValueError(f"this encoder already has the adapter {encoder.adapter}; train from the bare base")
    if encoder.precision != "fp32":
        raise ValueError(
            "an adapter is trained on fp32 weights (the arithmetic may be bf16); load with precision='fp32'"
        )
    if start is not None:
        check_start(encoder, start, config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.method == "full":
            return encoder.with_backbone(lambda base: _unfrozen_copy(prepare(base)))
        adapted = encoder.with_backbone(lambda base: _wrap(prepare(base), config, total_steps))
    if start is not None:
        remedy = f"train with the settings of {start}, or start from the base (start 'none')"
        load_adapter_weights(adapted.backbone, start, remedy=remedy)
    return adapted


def check_start(encoder: Encoder, start: Path, config: AdapterConfig) -> None:
    """Check by the configuration of the adapter in ``start`` that a training with ``config`` can start from it.

    Raises:
        ValueError: the adapter is of another base, method, rank, scale or targets; the message names the way out.
    """
    if config.method == "full":
        raise ValueError("full training starts from a base: name its folder as the base, and leave start out")
    if config.method == "adalora":
        raise ValueError("AdaLoRA chooses its ranks anew, so it cannot start from an adapter; leave start out")
    encoder.check_adapter_base(start)
    trained = read_json(start / ADAPTER_CONFIG, remedy=DAMAGED)
    differences = [
        f"{name} is {trained.get(key)!r} there and {wanted!r} here"
        for name, key, wanted in _peft_settings(config, encoder.base)
        if trained.get(key) != wanted and not (name == "targets" and isinstance(trained.get(key), list))
    ]
    if differences:
        raise ValueError(
            f"the training cannot start from the adapter {start.name}: {', '.join(differences)}; train with the same "
            "settings, or start from the base (no --start, and --start none for `adapt`)"
        )


def _peft_settings(config: AdapterConfig, base: Any) -> list[tuple[str, str, Any]]:
    """Return the settings that decide the shape of an adapter: our name, PEFT's name, and PEFT's value."""
    method = ("method", "peft_type", {"prompt": "PROMPT_TUNING"}.get(config.method, config.method.upper()))
    if config.method == "prompt":
        return [method, ("virtual_tokens", "num_virtual_tokens", config.virtual_tokens)]
    if config.method == "ia3":
        return [method]
    return [
        method,
        ("rank", "r", config.rank),
        ("alpha", "lora_alpha", _alpha(config)),
        ("targets", "target_modules", _targets(config, base)),
    ]


def _alpha(config: AdapterConfig) -> float:
    return 2 * config.rank if config.alpha is None else config.alpha


def _targets(config: AdapterConfig, base: Any) -> str:
    """Return the targets of LoRA and AdaLoRA as a regular expression over module names."""
    targets = config.targets
    if targets in ("attention", "linear"):
        known = adapter_targets(base.config.model_type)
        targets = known.attention if targets == "attention" else known.linear
    if not config.first_layer:
        return targets
    path, layers = layers_of(base)
    if config.first_layer >= len(layers):
        raise ValueError(f"first_layer must be below {len(layers)}, the layers of this base, got {config.first_layer}")
    lower = "|".join(map(str, range(config.first_layer)))
    return rf"(?!{re.escape(path)}\.({lower})\.)(?:{targets})"


def _unfrozen_copy(backbone: nn.Module) -> nn.Module:
    unfrozen: nn.Module = copy.deepcopy(backbone)
    for name, parameter in unfrozen.named_parameters():
        parameter.requires_grad_("pooler." not in name)  # vectors do not depend on BERT's pooler
    return unfrozen


def _wrap(backbone: Any, config: AdapterConfig, total_steps: int) -> nn.Module:
    from peft import get_peft_model

    peft_config = _peft_config(backbone, config, total_steps)
    try:
        with quiet_transformers():
            wrapped: nn.Module = get_peft_model(backbone, peft_config)
    except ValueError as error:
        raise ValueError(f"no module of this base matches targets={config.targets!r}: {error}") from error
    if config.method == "adalora":
        # PEFT draws singular vectors of length 0.4 and less, so that the step of a singular value would change a weight
        # by a sixth of what it should. The penalty makes them orthonormal only later (Zhang et al. 2023, equation 4).
        for name, parameter in wrapped.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                nn.init.orthogonal_(parameter)
    return wrapped


def _peft_config(backbone: Any, config: AdapterConfig, total_steps: int) -> Any:
    from peft import AdaLoraConfig, IA3Config, LoraConfig, PromptTuningConfig, TaskType

    if config.method == "prompt":
        return PromptTuningConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            num_virtual_tokens=config.virtual_tokens,
            prompt_tuning_init="SAMPLE_VOCAB",  # random vectors lie far from those of all tokens
        )
    transposed = backbone.config.model_type == "gpt2"  # CodeSage: its weights are (in, out)
    if config.method == "ia3":
        known = adapter_targets(backbone.config.model_type)
        return IA3Config(target_modules=known.ia3, feedforward_modules=known.ia3_feedforward, fan_in_fan_out=transposed)
    shared = {
        "lora_alpha": _alpha(config),
        "lora_dropout": config.dropout,
        "target_modules": _targets(config, backbone),
        "fan_in_fan_out": transposed,
    }
    if config.method == "lora":
        return LoraConfig(r=config.rank, **shared)
    if total_steps < ADALORA_STEPS:
        raise ValueError(f"AdaLoRA needs at least {ADALORA_STEPS} steps to prune its ranks, got {total_steps}")
    return AdaLoraConfig(
        init_r=config.initial_rank,
        target_r=config.rank,
        tinit=total_steps // 10,
        tfinal=total_steps - total_steps // 10 - total_steps // 2,
        deltaT=max(1, total_steps // 100),
        total_step=total_steps,
        orth_reg_weight=config.orthogonality,
        **shared,
    )


def set_dropout(encoder: Encoder, on: bool) -> None:
    """Switch the adapter's own dropout on or off; the base's stays off."""
    for name, module in encoder.backbone.named_modules():
        if "lora_dropout" in name:
            module.train(on)


def locate_start(start: str | Path | None) -> Path | None:
    """Return the folder of the adapter that a training starts from, or ``None`` if it starts from the base.

    Raises:
        ValueError: there is no such adapter.
    """
    return None if start is None or start == NO_ADAPTER else locate_adapter(start)


def trained_share(encoder: Encoder) -> tuple[int, int]:
    """Return the number of trained parameters, and of the base's own (what an adapter adds is not counted)."""
    trained = sum(p.numel() for p in encoder.backbone.parameters() if p.requires_grad)
    base = sum(p.numel() for p in encoder.base.parameters())
    return trained, base


def mean_rank(encoder: Encoder) -> float:
    """Return the mean number of singular values per matrix that AdaLoRA has not pruned; 0.0 for other methods.

    A pruned singular value is exactly zero (PEFT's ``RankAllocator.mask_to_budget``).
    """
    values = [p for name, p in encoder.backbone.named_parameters() if "lora_E" in name]
    return sum(int((p != 0).sum()) for p in values) / len(values) if values else 0.0


def save_adapter(encoder: Encoder, folder: str | Path) -> None:
    """Write a trained encoder into ``folder``: an adapter in PEFT's format, or a whole base after ``full``.

    The configuration is moved in last, and without it the folder is neither: a kill leaves all of it or nothing. It
    names the base by its name on the Hugging Face hub, where it has one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".save-", dir=folder) as name:
        staged = Path(name)
        encoder.backbone.save_pretrained(staged, safe_serialization=True)
        if hasattr(encoder.backbone, "peft_config"):
            settings = read_json(staged / ADAPTER_CONFIG, remedy="report this")
            base, _, revision = encoder.name.partition("@")
            settings |= {"base_model_name_or_path": hub_name(base), "revision": revision or None}
            (staged / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
            order = [ADAPTER_WEIGHTS, ADAPTER_CONFIG]
        else:
            _complete_base(encoder, staged)
            order = [*(file.name for file in staged.iterdir() if file.name != CONFIG), CONFIG]
        for file in order:
            if (staged / file).is_dir():
                shutil.copytree(staged / file, folder / file, dirs_exist_ok=True)
            else:
                shutil.copymode(staged / order[-1], staged / file)  # safetensors keeps its files from other users
                (staged / file).replace(folder / file)


def _complete_base(encoder: Encoder, staged: Path) -> None:
    """Add to saved weights what else ``Encoder.from_pretrained`` reads: config, tokenizer, pooling, limits."""
    for file in encoder.folder.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt", ".model") and not file.name.startswith("model."):
            shutil.copyfile(file, staged / file.name)
    (staged / "1_Pooling").mkdir()
    write_atomically(
        staged / "1_Pooling" / "config.json",
        json.dumps(
            {f"pooling_mode_{name}": encoder.pooling == name.split("_")[0] for name in ("cls_token", "mean_tokens")}
        ),
    )
    write_atomically(staged / "sentence_bert_config.json", json.dumps({"max_seq_length": encoder.max_code_tokens}))
    if not (staged / WEIGHTS).is_file():
        raise OSError(f"{staged} holds no {WEIGHTS} after saving; a base of several shards is not supported here")
