"""The graph of T5's encoder, which CodeT5 and CodeT5+ have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from openvino import opset13 as op

from llamaindex_code_retrieval.models.graphs.operations import Array, Node, Operations, Tokens
from llamaindex_code_retrieval.models.graphs.relative import bias_by_distance
from llamaindex_code_retrieval.models.graphs.unsupported import activation_of

_RELATIVE_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
"""The first layer has the position biases of all layers."""


def t5_states(ops: Operations, arrays: Mapping[str, Array], config: Mapping[str, Any], tokens: Tokens) -> Node:
    """Return the last hidden states, (texts, tokens, width).

    Raises:
        UnsupportedModelError: the configuration asks for operations that this graph lacks.
    """
    epsilon, heads = float(config.get("layer_norm_epsilon", 1e-6)), int(config["num_heads"])
    max_distance = int(config.get("relative_attention_max_distance", 128))
    by_distance = bias_by_distance(arrays[_RELATIVE_BIAS], max_distance=max_distance)
    mask = op.add(ops.attention_mask(tokens.mask), ops.relative_bias(by_distance, ops.positions(tokens)))
    # The encoder's embeddings are the shared ones; a file holds either name.
    table = arrays["shared.weight" if "shared.weight" in arrays else "encoder.embed_tokens.weight"]
    hidden = ops.embedded(table, tokens)
    for number in range(int(config["num_layers"])):
        first, second = (f"encoder.block.{number}.layer.{part}" for part in (0, 1))
        normed = ops.rms_norm(hidden, arrays[f"{first}.layer_norm.weight"], epsilon=epsilon)
        weights = [arrays[f"{first}.SelfAttention.{part}.weight"] for part in "qkv"]
        projected = ops.linear(normed, np.concatenate(weights))
        attended = ops.attention(ops.heads(projected, heads, parts=3), mask, scale=1.0)
        hidden = op.add(hidden, ops.linear(attended, arrays[f"{first}.SelfAttention.o.weight"]))
        normed = ops.rms_norm(hidden, arrays[f"{second}.layer_norm.weight"], epsilon=epsilon)
        hidden = op.add(hidden, _feedforward(ops, arrays, f"{second}.DenseReluDense", config, normed))
    return ops.rms_norm(hidden, arrays["encoder.final_layer_norm.weight"], epsilon=epsilon)


def _feedforward(
    ops: Operations, arrays: Mapping[str, Array], name: str, config: Mapping[str, Any], inputs: Node
) -> Node:
    gate, _, kind = str(config.get("feed_forward_proj", "relu")).rpartition("-")
    if not gate:
        inner = ops.activate(ops.linear(inputs, arrays[f"{name}.wi.weight"]), activation_of(kind))
    else:
        # transformers reads "gated-gelu" as the tanh form of GELU.
        gated = ops.linear(inputs, arrays[f"{name}.wi_0.weight"])
        gated = ops.activate(gated, "gelu_tanh" if kind == "gelu" else activation_of(kind))
        inner = op.multiply(gated, ops.linear(inputs, arrays[f"{name}.wi_1.weight"]))
    return ops.linear(inner, arrays[f"{name}.wo.weight"])
