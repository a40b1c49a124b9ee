"""Adapters: what is trained of an encoder, by PEFT, and how it is saved."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.models.adapter import load_adapter_weights
from llamaindex_code_retrieval.models.backbone import quiet_transformers
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import ADAPTER_WEIGHTS, WEIGHTS
from llamaindex_code_retrieval.training.config import AdapterConfig
from llamaindex_code_retrieval.training.targets import adapter_targets


def attach_adapter(
    encoder: Encoder,
    config: AdapterConfig,
    *,
    total_steps: int = 0,
    start: Path | None = None,
    seed: int = 0,
    prepare: Callable[[nn.Module], nn.Module] = lambda base: base,
) -> Encoder:
    """Return an encoder of the same base, ready to train what ``config`` says; ``encoder`` stays as it is.

    Adapters share the base's frozen weights; ``full`` trains a copy of them. AdaLoRA needs ``total_steps``, over which
    it shrinks its ranks: it keeps all for a tenth of them, prunes for a half, and trains what is left. ``start`` is the
    folder of an adapter of the same shape whose weights to go on from; ``prepare`` changes the base
    first, as :meth:`Encoder.with_backbone` says.

    Raises:
        ValueError: targets that match no module, AdaLoRA over fewer than 10 steps, virtual tokens that do not fit the
            model's positions, a ``start`` of another shape.
    """
    if encoder.adapter is not None:
        raise ValueError(f"this encoder already has the adapter {encoder.adapter}; train from the bare base")
    if encoder.precision != "fp32":
        raise ValueError(
            "an adapter is trained on fp32 weights (the arithmetic may be bf16); load with precision='fp32'"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.method == "full":
            if start is not None:
                raise ValueError("full training starts from a base: name it as the base, not as start")
            return encoder.with_backbone(lambda base: _unfrozen_copy(prepare(base)))
        adapted = encoder.with_backbone(lambda base: _wrap(prepare(base), config, total_steps))
    if start is not None:
        _load_start(adapted, start, config)
    return adapted


def _load_start(encoder: Encoder, folder: Path, config: AdapterConfig) -> None:
    if config.method == "adalora":
        raise ValueError("AdaLoRA chooses its ranks anew, so it cannot go on from an adapter; leave start out")
    encoder.check_adapter_base(folder)
    remedy = f"it is another kind than this {config.method}: train with its settings, see its train_config.json"
    load_adapter_weights(encoder.backbone, folder, remedy=remedy)


def _unfrozen_copy(backbone: nn.Module) -> nn.Module:
    own: nn.Module = copy.deepcopy(backbone)
    for name, parameter in own.named_parameters():
        parameter.requires_grad_("pooler." not in name)  # BERT's pooler is not on the way to a vector
    return own


def _wrap(backbone: Any, config: AdapterConfig, total_steps: int) -> nn.Module:
    from peft import AdaLoraConfig, IA3Config, LoraConfig, PromptTuningConfig, TaskType, get_peft_model

    if config.method == "prompt":
        peft_config: Any = PromptTuningConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            num_virtual_tokens=config.virtual_tokens,
            prompt_tuning_init="SAMPLE_VOCAB",  # of words: random numbers lie far from all of them
        )
    else:
        where = config.targets
        if where in ("attention", "linear") or config.method == "ia3":
            known = adapter_targets(backbone.config.model_type)
            where = {"attention": known.attention, "linear": known.linear}.get(where, where)
        transposed = backbone.config.model_type == "gpt2"  # CodeSage: its weights are (in, out)
        alpha = 2 * config.rank if config.alpha is None else config.alpha
        if config.method == "ia3":
            peft_config = IA3Config(
                target_modules=known.ia3, feedforward_modules=known.ia3_feedforward, fan_in_fan_out=transposed
            )
        elif config.method == "lora":
            peft_config = LoraConfig(
                r=config.rank,
                lora_alpha=alpha,
                lora_dropout=config.dropout,
                target_modules=where,
                fan_in_fan_out=transposed,
            )
        else:
            if total_steps < 10:
                raise ValueError(f"AdaLoRA needs at least 10 steps to prune its ranks, got {total_steps}")
            peft_config = AdaLoraConfig(
                init_r=config.initial_rank,
                target_r=config.rank,
                lora_alpha=alpha,
                lora_dropout=config.dropout,
                target_modules=where,
                tinit=total_steps // 10,
                tfinal=total_steps - total_steps // 10 - total_steps // 2,
                deltaT=max(1, total_steps // 100),
                total_step=total_steps,
                orth_reg_weight=config.orthogonality,
                fan_in_fan_out=transposed,
            )
    try:
        with quiet_transformers():
            wrapped: nn.Module = get_peft_model(backbone, peft_config)
    except ValueError as error:
        raise ValueError(f"no module of this base matches targets={config.targets!r}: {error}") from error
    if config.method == "adalora":
        # PEFT draws singular vectors of length 0.4 and less, so that a step of a singular value moves a weight by a
        # sixth of what it should; the penalty would make them orthonormal in time (Zhang et al. 2023, equation 4).
        for name, parameter in wrapped.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                nn.init.orthogonal_(parameter)
    return wrapped


def trained_share(encoder: Encoder) -> tuple[int, int]:
    """Return how many parameters are trained, and how many the base has (what an adapter adds not counted)."""
    trained = sum(p.numel() for p in encoder.backbone.parameters() if p.requires_grad)
    base = sum(p.numel() for p in encoder.base.parameters())
    return trained, base


def mean_rank(encoder: Encoder) -> float:
    """Return the mean number of singular values that AdaLoRA has left a matrix; 0.0 for other methods.

    A singular value that was pruned is exactly zero (peft's ``RankAllocator.mask_to_budget``).
    """
    values = [p for name, p in encoder.backbone.named_parameters() if "lora_E" in name]
    return sum(int((p != 0).sum()) for p in values) / len(values) if values else 0.0


def save_adapter(encoder: Encoder, folder: str | Path) -> None:
    """Write a trained encoder into ``folder``: an adapter in PEFT's format, or a whole base after ``full``.

    The configuration is moved in last, and without it the folder is neither: a kill leaves all of it or nothing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".save-", dir=folder) as name:
        staged = Path(name)
        encoder.backbone.save_pretrained(staged, safe_serialization=True)
        if not hasattr(encoder.backbone, "peft_config"):
            _complete_base(encoder, staged)
            order = [*(file.name for file in staged.iterdir() if file.name != "config.json"), "config.json"]
        else:
            settings = json.loads((staged / "adapter_config.json").read_text(encoding="utf-8"))
            settings["base_model_name_or_path"] = str(encoder.name)
            (staged / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
            order = [ADAPTER_WEIGHTS, "adapter_config.json"]
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
