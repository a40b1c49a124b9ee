"""The graph of DistilBERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openvino import opset13 as op

from llamaindex_code_retrieval.models.graphs.operations import Array, Node, Operations, Tokens
from llamaindex_code_retrieval.models.graphs.post_norm import PostNormLayer, parameters
from llamaindex_code_retrieval.models.graphs.unsupported import activation_of


def distilbert_states(ops: Operations, arrays: Mapping[str, Array], config: Mapping[str, Any], tokens: Tokens) -> Node:
    """Return the last hidden states, (texts, tokens, width).

    Raises:
        UnsupportedModelError: the configuration asks for operations that this graph lacks.
    """
    layer = PostNormLayer(
        attention=[f"attention.{part}_lin" for part in ("q", "k", "v", "out")],
        attention_norm="sa_layer_norm",
        feedforward=("ffn.lin1", "ffn.lin2"),
        feedforward_norm="output_layer_norm",
        heads=int(config["n_heads"]),
        activation=activation_of(config["activation"]),
        epsilon=1e-12,
    )
    words = ops.embedded(arrays["embeddings.word_embeddings.weight"], tokens)
    hidden = op.add(words, ops.rows(arrays["embeddings.position_embeddings.weight"], ops.positions(tokens)))
    hidden = ops.layer_norm(hidden, *parameters(arrays, "embeddings.LayerNorm"), epsilon=layer.epsilon)
    mask = ops.attention_mask(tokens.mask)
    for number in range(int(config["n_layers"])):
        hidden = layer.states(ops, arrays, f"transformer.layer.{number}", hidden, mask)
    return hidden
