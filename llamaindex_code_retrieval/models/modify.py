"""Modify backbones for inference: attach and merge adapters, quantize, lay out weights, keep some layers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llamaindex_code_retrieval.models.backbone import quiet_transformers
from llamaindex_code_retrieval.models.files import ADAPTER_WEIGHTS
from llamaindex_code_retrieval.models.weights import check_weights, read_weights


def load_adapter(backbone: nn.Module, folder: Path) -> nn.Module:
    """Wrap the backbone, in place, with the adapter that PEFT saved in ``folder``, and return the wrapped model.

    Raises:
        ValueError: the adapter does not fit the backbone, see :func:`load_adapter_weights`.
    """
    from peft import PeftConfig, TaskType, get_peft_model

    config = PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning and config.task_type != TaskType.FEATURE_EXTRACTION:
        raise ValueError(
            f"{folder} holds virtual tokens for task {config.task_type!r}; an encoder needs FEATURE_EXTRACTION"
        )
    if getattr(config, "bias", "none") != "none":  # PEFT loads these biases into those that the encoders share
        for module in backbone.modules():
            _own(module, [name for name, _ in module.named_parameters(recurse=False) if name == "bias"])
    made_for, config.base_model_name_or_path = config.base_model_name_or_path, None
    config.inference_mode = True
    try:
        with quiet_transformers():
            adapted: nn.Module = get_peft_model(backbone, config)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the adapter in {folder} does not fit this base: {reason}; it was made for {made_for!r}"
        ) from error
    load_adapter_weights(adapted, folder, remedy=f"the adapter was made for {made_for!r}")
    return adapted.eval()


def load_adapter_weights(adapted: Any, folder: Path, *, remedy: str) -> None:
    """Load the weights in ``folder`` into the adapter of a model that PEFT has wrapped, in place.

    Raises:
        ValueError: a tensor of the adapter is missing, unexpected, of another shape or not finite; nothing is loaded.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    path = folder / ADAPTER_WEIGHTS
    weights = read_weights(path, remedy="the adapter is damaged, fetch or train it again")
    own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if len(weights) > len(own):
        # PEFT also saves the base's embeddings where an adapter changes them, and would load them into the weights
        # that all encoders share. They are left out if they are equal to this base's, else they are unexpected below.
        base = {name: tensor for name, tensor in adapted.state_dict().items() if name not in own}
        weights = {name: w for name, w in weights.items() if name not in base or not torch.equal(w, base[name])}
    check_weights(weights, {name: tensor.shape for name, tensor in own.items()}, source=path, remedy=remedy)
    set_peft_model_state_dict(adapted, weights)


def merge_adapter(backbone: Any) -> nn.Module:
    """Return the backbone with its adapter inside the weights where PEFT can do that, computed in fp32."""
    from peft import PeftType
    from peft.tuners.tuners_utils import BaseTunerLayer

    if backbone.active_peft_config.peft_type not in (PeftType.LORA, PeftType.ADALORA, PeftType.IA3):
        return backbone  # type: ignore[no-any-return]
    for module in backbone.modules():
        if isinstance(module, BaseTunerLayer):
            layer = module.get_base_layer()
            _own(layer, [name for name, _ in layer.named_parameters(recurse=False)])
    whole: nn.Module = backbone.merge_and_unload()
    return whole


def quantize(backbone: nn.Module) -> nn.Module:
    """Put the backbone's linear layers into int8, their inputs quantized as they come (dynamic quantization).

    Each row of a weight matrix has a scale of its own, or rows of small weights would lose their digits to large ones.
    These layers take and give fp32, so all between them is fp32 as well; of a backbone in bf16 the tables of embeddings
    stay as they are, as large as they are shared, and the rows read from them become fp32.

    Raises:
        ValueError: the backbone is not on a CPU, or has no linear layer.
    """
    if next(backbone.parameters()).device.type != "cpu":
        raise ValueError("precision 'int8' is for CPUs; use 'bf16' on this device")
    if not any(isinstance(module, nn.Linear) for module in backbone.modules()):
        raise ValueError(f"{type(backbone).__name__} has no linear layer that int8 could quantize; use 'fp32'")
    for module in backbone.modules():
        weights = [name for name, weight in module.named_parameters(recurse=False) if weight.dtype != torch.float32]
        if weights and isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda _module, _inputs, rows: rows.float())
        else:
            _own(module, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in torch for a package of its own
        quantization: Any = torch.ao.quantization
        by_rows = {nn.Linear: quantization.per_channel_dynamic_qconfig}
        quantization.quantize_dynamic(
            backbone, by_rows, dtype=torch.qint8, inplace=True
        )  # a copy would double the tables
    return backbone


def prepack_weights(model: nn.Module) -> nn.Module:
    """Lay the weights of bf16 linear layers out as the CPU's matrix instructions take them, in place, for inference.

    torch does that at each call otherwise, which costs small batches more than their product. Where this processor or
    this torch cannot, the model stays as it is.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if supported is None or not supported():
        return model
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16 and module.weight.device.type == "cpu":
            model.set_submodule(name, _PrepackedLinear(module))
    return model


class _PrepackedLinear(nn.Module):
    """A linear layer without gradient that holds its weights in such a layout, and no others."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        made: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self.bias, "none", [], "")
        return made


def keep_layers(backbone: nn.Module, kept: Sequence[int]) -> nn.Module:
    """Leave only these of the backbone's layers, counted from 0, in place; their weights are shared with who has them.

    Raises:
        ValueError: a layer that the backbone lacks, one named twice or out of order, or none.
    """
    path, layers = _layers(backbone)
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= len(layers):
        raise ValueError(
            f"layers must be in rising order, of 0 to {len(layers) - 1} for this model, got {', '.join(map(str, kept))}"
        )
    first: Any = layers[kept[0]]
    if path.endswith(".block") and kept[0] > 0:  # T5's first layer holds the position biases of all
        bias: Any = layers[0]
        first.layer[0].SelfAttention.relative_attention_bias = bias.layer[0].SelfAttention.relative_attention_bias
        first.layer[0].SelfAttention.has_relative_attention_bias = True
    backbone.set_submodule(path, nn.ModuleList(layers[i] for i in kept))
    config: Any = backbone.config
    name = next(key for key in ("num_hidden_layers", "num_layers", "n_layer") if hasattr(config, key))
    setattr(config, name, len(kept))
    return backbone


def layer_count(backbone: nn.Module) -> int:
    """Return how many layers the backbone has."""
    return len(_layers(backbone)[1])


def _layers(backbone: nn.Module) -> tuple[str, nn.ModuleList]:
    for path in ("encoder.layer", "encoder.block", "transformer.layer", "h", "layers"):
        try:
            found = backbone.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList):
            return path, found
    raise ValueError(f"where {type(backbone).__name__} has its layers is not known here, so none can be left out")


def _own(module: nn.Module, names: Sequence[str]) -> None:
    """Give the module fp32 copies of these weights, which it shares with the base until then."""
    for name in names:
        copied = getattr(module, name).detach().to(torch.float32, copy=True)
        setattr(module, name, nn.Parameter(copied, requires_grad=False))


def virtual_tokens(backbone: nn.Module) -> int:
    """Return how many tokens prompt tuning puts before a text."""
    config = getattr(backbone, "active_peft_config", None)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0
