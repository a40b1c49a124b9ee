"""Load transformer backbones and their tokenizers from safetensors, without remote code."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, GPT2Config, GPT2Model, T5Config, T5EncoderModel
from transformers.utils import logging as transformers_logging

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.models.catalog import Architecture
from llamaindex_code_retrieval.models.files import DAMAGED, SHARDS, WEIGHTS
from llamaindex_code_retrieval.models.packed_attention import enable_packed_attention
from llamaindex_code_retrieval.models.weights import check_finite, name_some


class _CodeT5pEmbedding(T5EncoderModel):  # type: ignore[misc]
    """The T5 encoder stack with the projection that CodeT5+ embedding checkpoints store as ``proj``."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.proj = nn.Linear(config.d_model, config.embed_dim)
        self.post_init()


class _CodeSage(GPT2Model):  # type: ignore[misc]
    """GPT-2's layers with bidirectional attention."""

    def forward(self, *args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        if attention_mask is None or attention_mask.dim() != 2:
            raise ValueError("CodeSage needs a 2-d attention mask, (batch, tokens)")
        weight = self.wte.weight
        # transformers uses a 4-d additive mask as it is, without its causal mask.
        hidden = torch.zeros(attention_mask.shape, dtype=weight.dtype, device=weight.device)
        hidden = hidden.masked_fill(attention_mask == 0, torch.finfo(weight.dtype).min)
        length = attention_mask.shape[1]
        mask = hidden[:, None, None, :].expand(-1, 1, length, -1)
        return super().forward(*args, attention_mask=mask, use_cache=False, **kwargs)


def load_backbone(folder: Path, architecture: Architecture) -> nn.Module:
    """Load the encoder of a checkpoint in fp32, from safetensors.

    Raises:
        ValueError: no safetensors, or weights that do not fit the architecture and ``config.json``.
    """
    if not (folder / WEIGHTS).is_file() and not (folder / SHARDS).is_file():
        raise ValueError(
            f"{folder} holds no {WEIGHTS}; pickled weights (pytorch_model.bin) are never loaded: save the model again "
            "with save_pretrained, or name a hub revision that holds safetensors as org/name@refs/pr/N"
        )
    settings = read_json(folder / "config.json", remedy=DAMAGED)
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "local_files_only": True,
        "ignore_mismatched_sizes": True,  # they are listed in the loading info, and refused
        "output_loading_info": True,
        "use_safetensors": True,
    }
    with quiet_transformers():
        if architecture in ("t5", "codet5p-embedding"):
            settings["model_type"] = "t5"
            cls = _CodeT5pEmbedding if architecture == "codet5p-embedding" else T5EncoderModel
            backbone, info = cls.from_pretrained(folder, config=T5Config.from_dict(settings), **options)
        elif architecture == "codesage":
            backbone, info = _CodeSage.from_pretrained(folder, config=_codesage_config(settings), **options)
        else:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            config.is_decoder = False  # UniXcoder is saved as a decoder but used as an encoder
            backbone, info = AutoModel.from_pretrained(folder, config=config, trust_remote_code=False, **options)
    remedy = "it is another kind of checkpoint, or damaged"
    check_loading(backbone, info, folder, remedy=remedy, optional=r"(^|\.)pooler\.|position_ids$")
    enable_packed_attention(backbone)
    module: nn.Module = backbone
    return module


def check_loading(model: Any, info: dict[str, Any], folder: Path, *, remedy: str, optional: str = "$^") -> None:
    """Check that ``from_pretrained`` has taken all weights of ``model`` from the checkpoint in ``folder``.

    ``info`` is its loading info; a missing tensor whose name matches the regular expression ``optional`` is allowed.
    Tensors beside the model, such as another head or T5's decoder, are ignored. Tensors of layers that the model lacks
    are refused.

    Raises:
        ValueError: missing or mismatched tensors, which transformers fills at random, unexpected or non-finite ones.
    """
    if missing := {key for key in info["missing_keys"] if not re.search(optional, key)}:
        raise ValueError(f"{folder} lacks weights of a {model.config.model_type} model: {name_some(missing)}; {remedy}")
    if mismatched := {f"{key} is {tuple(got)}, expected {tuple(want)}" for key, got, want in info["mismatched_keys"]}:
        raise ValueError(f"weights in {folder} do not fit its config.json: {name_some(mismatched)}; {remedy}")
    inside = re.compile(rf"({re.escape(model.base_model_prefix)}\.)?({'|'.join(dict(model.named_children()))})\.")
    ignored = re.compile(
        r"(^|\.)pooler\.|(position_ids|token_type_ids|inv_freq|attn\.bias|attn\.masked_bias)$"
    )  # buffers
    if unexpected := {key for key in info["unexpected_keys"] if inside.match(key) and not ignored.search(key)}:
        raise ValueError(
            f"{folder} holds weights of the model that its config.json does not describe: {name_some(unexpected)}; "
            f"{remedy}"
        )
    check_finite(dict(model.named_parameters()), source=folder, remedy=remedy)


def _codesage_config(settings: dict[str, Any]) -> Any:
    return GPT2Config(
        vocab_size=settings["vocab_size"],
        n_positions=settings["max_position_embeddings"],
        n_embd=settings["hidden_size"],
        n_layer=settings["num_hidden_layers"],
        n_head=settings["num_attention_heads"],
        n_inner=settings.get("intermediate_size"),
        activation_function=settings.get("activation_function", "gelu_new"),
        layer_norm_epsilon=settings.get("layer_norm_epsilon", 1e-5),
        resid_pdrop=settings.get("residual_dropout_prob", 0.1),
        embd_pdrop=settings.get("embedding_dropout_prob", 0.1),
        attn_pdrop=settings.get("attention_dropout_prob", 0.1),
        bos_token_id=settings.get("bos_token_id", 0),
        eos_token_id=settings.get("eos_token_id", 0),
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars, loading reports and one of PEFT's warnings within the block."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
