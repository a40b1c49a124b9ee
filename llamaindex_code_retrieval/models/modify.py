"""Modify backbones for inference, in place: quantize, lay out weights, remove layers, add a projection."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llamaindex_code_retrieval.models.weights import load_weights


def copy_parameters(module: nn.Module, names: Sequence[str]) -> None:
    """Replace these parameters of the module, which it shares with the base, by fp32 copies of its own."""
    for name in names:
        copied = getattr(module, name).detach().to(torch.float32, copy=True)
        setattr(module, name, nn.Parameter(copied, requires_grad=False))


def quantize(backbone: nn.Module) -> nn.Module:
    """Quantize the linear layers of a backbone to int8, in place (dynamic quantization); return the backbone.

    Each row of a weight matrix has its own scale, because one scale would round small rows to zero. Inputs and outputs
    of these layers are fp32, and so is everything between them. The embedding tables of a bf16 backbone stay in bf16,
    shared with the base, and the rows that are read from them become fp32.

    Raises:
        ValueError: the backbone is not on a CPU, or has no linear layer.
    """
    if next(backbone.parameters()).device.type != "cpu":
        raise ValueError("precision 'int8' runs on CPUs only; use 'bf16' on this device")
    if not any(isinstance(module, nn.Linear) for module in backbone.modules()):
        raise ValueError(f"{type(backbone).__name__} has no linear layers to quantize to int8; use 'fp32'")
    for module in backbone.modules():
        weights = [name for name, weight in module.named_parameters(recurse=False) if weight.dtype != torch.float32]
        if weights and isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda _module, _inputs, rows: rows.float())
        else:
            copy_parameters(module, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves this function to a package of its own
        quantization: Any = torch.ao.quantization
        by_rows = {nn.Linear: quantization.per_channel_dynamic_qconfig}
        # In place, because a copy would double the embedding tables.
        quantization.quantize_dynamic(backbone, by_rows, dtype=torch.qint8, inplace=True)
    return backbone


def prepack_weights(model: nn.Module) -> nn.Module:
    """Prepack the weights of bf16 linear layers for the CPU's matrix instructions, in place; return the model.

    torch would do so at each call, which takes longer than the product of a small batch. The model is for inference
    only. It stays as it is if the processor or this version of torch lacks the operation.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if supported is None or not supported():
        return model
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16 and module.weight.device.type == "cpu":
            model.set_submodule(name, _PrepackedLinear(module))
    return model


class _PrepackedLinear(nn.Module):
    """A linear layer with prepacked weights and without gradient."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self.bias, "none", [], "")
        return product


def keep_layers(backbone: nn.Module, numbers: Sequence[int]) -> nn.Module:
    """Remove all layers of a backbone except ``numbers`` (from 0, in rising order), in place; return the backbone.

    Raises:
        ValueError: no layers, a layer that the backbone lacks, or layers that are repeated or out of order.
    """
    path, layers = layers_of(backbone)
    if not numbers or list(numbers) != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] >= len(layers):
        raise ValueError(
            f"layers must be numbers in rising order from 0 to {len(layers) - 1} for this model, got "
            f"{', '.join(map(str, numbers))}"
        )
    first: Any = layers[numbers[0]]
    if path.endswith(".block") and numbers[0] > 0:  # T5 keeps the position biases of all layers in the first one
        bias: Any = layers[0]
        first.layer[0].SelfAttention.relative_attention_bias = bias.layer[0].SelfAttention.relative_attention_bias
        first.layer[0].SelfAttention.has_relative_attention_bias = True
    backbone.set_submodule(path, nn.ModuleList(layers[i] for i in numbers))
    config: Any = backbone.config
    name = next(key for key in ("num_hidden_layers", "num_layers", "n_layer") if hasattr(config, key))
    setattr(config, name, len(numbers))
    return backbone


def layer_count(backbone: nn.Module) -> int:
    """Return the number of layers of a backbone."""
    return len(layers_of(backbone)[1])


def layers_of(backbone: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of the backbone's layers.

    Raises:
        ValueError: a backbone of an unknown kind.
    """
    for path in ("encoder.layer", "encoder.block", "transformer.layer", "h", "layers"):
        try:
            layers = backbone.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(layers, nn.ModuleList):
            return path, layers
    raise ValueError(f"this package does not know where {type(backbone).__name__} has its layers; use all of them")


def add_projection(backbone: Any, dim: int, *, weights: Path | None = None, remedy: str = "") -> nn.Module:
    """Add a linear layer ``proj`` from hidden states to ``dim`` numbers, in place, and return the backbone.

    It has the weights of a safetensors file, or new ones: the identity if both widths are equal, else random numbers.
    A backbone that has such a layer keeps it.

    Raises:
        ValueError: the weights do not fit; the message ends with ``remedy``.
    """
    module: nn.Module = backbone
    if hasattr(backbone, "proj"):
        return module
    layer = nn.Linear(backbone.config.hidden_size, dim)
    if weights is not None:
        load_weights(layer, weights, remedy=remedy)
    else:
        nn.init.zeros_(layer.bias)
        if layer.in_features == dim:
            nn.init.eye_(layer.weight)
    module.add_module("proj", layer)
    return module
