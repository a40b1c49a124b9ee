"""The bodies of encoders: loading them from checkpoints, and what is done to them before they compute.

All that differs from one architecture to the other is here, and in the table of ``models.py``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, GPT2Config, GPT2Model, T5Config, T5EncoderModel
from transformers.utils import logging as transformers_logging

from llamaindex_code_retrieval.checkpoints import SHARDS, WEIGHTS, read_json
from llamaindex_code_retrieval.models import Architecture
from llamaindex_code_retrieval.packing import let_pack


class _CodeT5pEmbedding(T5EncoderModel):  # type: ignore[misc]
    """The T5 encoder stack with the projection that CodeT5+ embedding checkpoints store as ``proj``."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.proj = nn.Linear(config.d_model, config.embed_dim)
        self.post_init()


class _CodeSage(GPT2Model):  # type: ignore[misc]
    """CodeSage is GPT-2's layers with every token seeing every other one."""

    def forward(self, *args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        if attention_mask is None or attention_mask.dim() != 2:
            raise ValueError("CodeSage needs a 2-d attention mask, (batch, tokens)")
        weight = self.wte.weight
        # A ready 4-d additive mask keeps transformers from putting its causal one in place.
        hidden = torch.zeros(attention_mask.shape, dtype=weight.dtype, device=weight.device)
        hidden = hidden.masked_fill(attention_mask == 0, torch.finfo(weight.dtype).min)
        length = attention_mask.shape[1]
        mask = hidden[:, None, None, :].expand(-1, 1, length, -1)
        return super().forward(*args, attention_mask=mask, use_cache=False, **kwargs)


def load_body(folder: Path, architecture: Architecture) -> nn.Module:
    """Load a checkpoint's encoder in fp32.

    Raises:
        ValueError: no weights in safetensors, or not those of such an encoder.
    """
    if not (folder / WEIGHTS).is_file() and not (folder / SHARDS).is_file():
        raise ValueError(
            f"{folder} holds no {WEIGHTS}; pickled weights (pytorch_model.bin) are never loaded: save the model once "
            "more with save_pretrained, or name a hub revision that holds safetensors as org/name@refs/pr/N"
        )
    settings = read_json(folder / "config.json")
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "local_files_only": True,
        "output_loading_info": True,
        "use_safetensors": True,
    }
    with quiet_transformers():
        if architecture in ("t5", "codet5p-embedding"):
            settings["model_type"] = "t5"
            cls = _CodeT5pEmbedding if architecture == "codet5p-embedding" else T5EncoderModel
            body, info = cls.from_pretrained(folder, config=T5Config.from_dict(settings), **options)
        elif architecture == "codesage":
            body, info = _CodeSage.from_pretrained(folder, config=_codesage_config(settings), **options)
        else:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            config.is_decoder = False  # UniXcoder is saved as a decoder; here each token sees all
            body, info = AutoModel.from_pretrained(folder, config=config, trust_remote_code=False, **options)
    missing = [key for key in info["missing_keys"] if not re.search(r"(^|\.)pooler\.|position_ids$", key)]
    if missing or info.get("mismatched_keys"):
        keys = ", ".join(sorted(map(str, missing or info["mismatched_keys"]))[:5])
        raise ValueError(
            f"{folder} lacks weights of a {architecture} encoder: {keys}; it is another kind of checkpoint"
        )
    let_pack(body)
    module: nn.Module = body
    return module


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


def load_tokenizer(folder: Path, architecture: Architecture) -> Any:
    """Load a checkpoint's fast tokenizer."""
    from transformers import GPT2TokenizerFast, RobertaTokenizerFast

    with quiet_transformers():
        # Their configs name classes that only remote code defines, so AutoTokenizer cannot read these two.
        if architecture == "codesage":
            return GPT2TokenizerFast.from_pretrained(folder, local_files_only=True)
        if architecture == "codet5p-embedding":
            return RobertaTokenizerFast.from_pretrained(folder, local_files_only=True)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def special_tokens(tokenizer: Any, architecture: Architecture) -> tuple[list[int], list[int]]:
    """Return the ids that stand before and after a text."""
    if architecture == "codesage":
        return [], [tokenizer.eos_token_id]
    body = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(body)] == body)
    prefix, suffix = whole[:start], whole[start + len(body) :]
    if architecture == "unixcoder":
        mode = tokenizer.convert_tokens_to_ids("<encoder-only>")
        if mode is None or mode == tokenizer.unk_token_id:
            raise ValueError("UniXcoder's tokenizer has no <encoder-only> token; use the tokenizer of its checkpoint")
        prefix = [tokenizer.cls_token_id, mode, tokenizer.sep_token_id]
    return list(prefix), list(suffix)


def attached(body: nn.Module, folder: Path) -> nn.Module:
    """Return the body with the adapter that PEFT saved in ``folder``.

    Raises:
        ValueError: it does not fit.
    """
    from peft import PeftConfig, PeftModel, TaskType

    config = PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning and config.task_type != TaskType.FEATURE_EXTRACTION:
        raise ValueError(
            f"{folder} holds virtual tokens for task {config.task_type!r}; an encoder needs FEATURE_EXTRACTION"
        )
    if getattr(config, "bias", "none") != "none":  # PEFT would load these biases into those that the encoders share
        for module in body.modules():
            _own(module, [name for name, _ in module.named_parameters(recurse=False) if name == "bias"])
    try:
        with quiet_transformers():
            adapted: nn.Module = PeftModel.from_pretrained(body, str(folder), is_trainable=False)
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"the adapter in {folder} does not fit this base: {str(error).splitlines()[0]}; "
            f"it was made for {config.base_model_name_or_path!r}"
        ) from error
    return adapted


def merged(body: Any) -> nn.Module:
    """Return the body with its adapter inside the weights where PEFT can do that, computed in fp32."""
    from peft import PeftType
    from peft.tuners.tuners_utils import BaseTunerLayer

    if body.active_peft_config.peft_type not in (PeftType.LORA, PeftType.ADALORA, PeftType.IA3):
        return body  # type: ignore[no-any-return]
    for module in body.modules():
        if isinstance(module, BaseTunerLayer):
            layer = module.get_base_layer()
            _own(layer, [name for name, _ in layer.named_parameters(recurse=False)])
    whole: nn.Module = body.merge_and_unload()
    return whole


def quantized(body: nn.Module) -> nn.Module:
    """Put the body's linear layers into int8, their inputs quantized as they come (dynamic quantization).

    Each row of a weight matrix has a scale of its own, or rows of small weights would lose their digits to large ones.
    These layers take and give fp32, so all between them is fp32 as well; of a body in bf16 the tables of embeddings
    stay as they are, as large as they are shared, and the rows read from them become fp32.

    Raises:
        ValueError: the body is not on a CPU, or has no linear layer.
    """
    if next(body.parameters()).device.type != "cpu":
        raise ValueError("precision 'int8' is for CPUs; use 'bf16' on this device")
    if not any(isinstance(module, nn.Linear) for module in body.modules()):
        raise ValueError(f"{type(body).__name__} has no linear layer that int8 could quantize; use 'fp32'")
    for module in body.modules():
        weights = [name for name, weight in module.named_parameters(recurse=False) if weight.dtype != torch.float32]
        if weights and isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda _module, _inputs, rows: rows.float())
        else:
            _own(module, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in torch for a package of its own
        quantization: Any = torch.ao.quantization
        by_rows = {nn.Linear: quantization.per_channel_dynamic_qconfig}
        quantization.quantize_dynamic(body, by_rows, dtype=torch.qint8, inplace=True)  # a copy would double the tables
    return body


def blocked(model: nn.Module) -> nn.Module:
    """Lay the weights of bf16 linear layers out as the CPU's matrix instructions take them, in place, for inference.

    torch does that at each call otherwise, which costs small batches more than their product. Where this processor or
    this torch cannot, the model stays as it is.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if supported is None or not supported():
        return model
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16 and module.weight.device.type == "cpu":
            model.set_submodule(name, _BlockedLinear(module))
    return model


class _BlockedLinear(nn.Module):
    """A linear layer without gradient that holds its weights in such a layout, and no others."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        made: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self.bias, "none", [], "")
        return made


def kept_layers(body: nn.Module, kept: Sequence[int]) -> nn.Module:
    """Leave only these of the body's layers, counted from 0, in place; their weights are shared with who has them.

    Raises:
        ValueError: a layer that the body lacks, one named twice or out of order, or none.
    """
    path, layers = _layers(body)
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= len(layers):
        raise ValueError(
            f"layers must be in rising order, of 0 to {len(layers) - 1} for this model, got {', '.join(map(str, kept))}"
        )
    first: Any = layers[kept[0]]
    if path.endswith(".block") and kept[0] > 0:  # T5's first layer holds the position biases of all
        bias: Any = layers[0]
        first.layer[0].SelfAttention.relative_attention_bias = bias.layer[0].SelfAttention.relative_attention_bias
        first.layer[0].SelfAttention.has_relative_attention_bias = True
    body.set_submodule(path, nn.ModuleList(layers[i] for i in kept))
    config: Any = body.config
    name = next(key for key in ("num_hidden_layers", "num_layers", "n_layer") if hasattr(config, key))
    setattr(config, name, len(kept))
    return body


def layer_count(body: nn.Module) -> int:
    """Return how many layers the body has."""
    return len(_layers(body)[1])


def _layers(body: nn.Module) -> tuple[str, nn.ModuleList]:
    for path in ("encoder.layer", "encoder.block", "transformer.layer", "h", "layers"):
        try:
            found = body.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList):
            return path, found
    raise ValueError(f"where {type(body).__name__} has its layers is not known here, so none can be left out")


def _own(module: nn.Module, names: Sequence[str]) -> None:
    """Give the module fp32 copies of these weights, which it shares with the base until then."""
    for name in names:
        copied = getattr(module, name).detach().to(torch.float32, copy=True)
        setattr(module, name, nn.Parameter(copied, requires_grad=False))


def virtual_tokens(body: nn.Module) -> int:
    """Return how many tokens prompt tuning puts before a text."""
    config = getattr(body, "active_peft_config", None)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep weight-loading bars, reports and PEFT's use of an old name off the user's terminal, and off it only here."""
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
