"""The graph of CodeSage: GPT-2's layers, in which each token attends to all of its text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from openvino import opset13 as op

from llamaindex_code_retrieval.models.graphs.operations import Array, Node, Operations, Tokens
from llamaindex_code_retrieval.models.graphs.post_norm import parameters
from llamaindex_code_retrieval.models.graphs.unsupported import activation_of

_MATRIX = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


def codesage_states(ops: Operations, arrays: Mapping[str, Array], config: Mapping[str, Any], tokens: Tokens) -> Node:
    """Return the last hidden states, (texts, tokens, width).

    Raises:
        UnsupportedModelError: the configuration asks for operations that this graph lacks.
    """
    activation = activation_of(config.get("activation_function", "gelu_new"))
    epsilon, heads = float(config.get("layer_norm_epsilon", 1e-5)), int(config["num_attention_heads"])
    mask = ops.attention_mask(tokens.mask)
    hidden = op.add(ops.embedded(arrays["wte.weight"], tokens), ops.rows(arrays["wpe.weight"], ops.positions(tokens)))
    for number in range(int(config["num_hidden_layers"])):
        name = f"h.{number}"
        normed = ops.layer_norm(hidden, *parameters(arrays, f"{name}.ln_1"), epsilon=epsilon)
        projected = ops.linear(normed, *parameters(arrays, f"{name}.attn.c_attn"))
        attended = ops.attention(ops.heads(projected, heads, parts=3), mask)
        hidden = op.add(hidden, ops.linear(attended, *parameters(arrays, f"{name}.attn.c_proj")))
        normed = ops.layer_norm(hidden, *parameters(arrays, f"{name}.ln_2"), epsilon=epsilon)
        inner = ops.activate(ops.linear(normed, *parameters(arrays, f"{name}.mlp.c_fc")), activation)
        hidden = op.add(hidden, ops.linear(inner, *parameters(arrays, f"{name}.mlp.c_proj")))
    return ops.layer_norm(hidden, *parameters(arrays, "ln_f"), epsilon=epsilon)


def transposed(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the weights with GPT-2's matrices, (inputs, outputs), as those of linear layers."""
    return {name: array.T if _MATRIX.search(name) else array for name, array in arrays.items()}
