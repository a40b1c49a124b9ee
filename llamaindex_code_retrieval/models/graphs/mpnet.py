"""The graph of MPNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openvino import opset13 as op

from llamaindex_code_retrieval.models.graphs.operations import Array, Node, Operations, Tokens
from llamaindex_code_retrieval.models.graphs.post_norm import PostNormLayer, parameters
from llamaindex_code_retrieval.models.graphs.relative import bias_by_distance
from llamaindex_code_retrieval.models.graphs.unsupported import activation_of

_PADDING = 1
"""transformers counts positions from this id on, whatever the padding token is."""
_MAX_DISTANCE = 128


def mpnet_states(ops: Operations, arrays: Mapping[str, Array], config: Mapping[str, Any], tokens: Tokens) -> Node:
    """Return the last hidden states, (texts, tokens, width).

    Raises:
        UnsupportedModelError: the configuration asks for operations that this graph lacks.
    """
    layer = PostNormLayer(
        attention=[f"attention.attn.{part}" for part in "qkvo"],
        attention_norm="attention.LayerNorm",
        feedforward=("intermediate.dense", "output.dense"),
        feedforward_norm="output.LayerNorm",
        heads=int(config["num_attention_heads"]),
        activation=activation_of(config["hidden_act"]),
        epsilon=float(config["layer_norm_eps"]),
    )
    words = ops.embedded(arrays["embeddings.word_embeddings.weight"], tokens)
    positions = ops.positions_from_padding(tokens, _PADDING)
    hidden = op.add(words, ops.rows(arrays["embeddings.position_embeddings.weight"], positions))
    hidden = ops.layer_norm(hidden, *parameters(arrays, "embeddings.LayerNorm"), epsilon=layer.epsilon)
    by_distance = bias_by_distance(arrays["encoder.relative_attention_bias.weight"], max_distance=_MAX_DISTANCE)
    mask = op.add(ops.attention_mask(tokens.mask), ops.relative_bias(by_distance, ops.positions(tokens)))
    for number in range(int(config["num_hidden_layers"])):
        hidden = layer.states(ops, arrays, f"encoder.layer.{number}", hidden, mask)
    return hidden
