"""The graph of BERT and of RoBERTa's kind of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openvino import opset13 as op

from llamaindex_code_retrieval.models.graphs.operations import Array, Node, Operations, Tokens
from llamaindex_code_retrieval.models.graphs.post_norm import PostNormLayer, parameters
from llamaindex_code_retrieval.models.graphs.unsupported import UnsupportedModelError, activation_of

PADDED_POSITIONS = frozenset(("camembert", "roberta", "xlm-roberta"))
"""Model types whose positions count from the padding token's id on."""
MODEL_TYPES = PADDED_POSITIONS | {"bert"}


def bert_states(ops: Operations, arrays: Mapping[str, Array], config: Mapping[str, Any], tokens: Tokens) -> Node:
    """Return the last hidden states, (texts, tokens, width), or those of the first token if they are enough.

    Raises:
        UnsupportedModelError: the configuration asks for operations that this graph lacks.
    """
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModelError(f"positions of the kind {config['position_embedding_type']!r}")
    layer = PostNormLayer(
        attention=[*(f"attention.self.{part}" for part in ("query", "key", "value")), "attention.output.dense"],
        attention_norm="attention.output.LayerNorm",
        feedforward=("intermediate.dense", "output.dense"),
        feedforward_norm="output.LayerNorm",
        heads=int(config["num_attention_heads"]),
        activation=activation_of(config["hidden_act"]),
        epsilon=float(config["layer_norm_eps"]),
    )
    hidden = _embedded(ops, arrays, config, tokens)
    hidden = ops.layer_norm(hidden, *parameters(arrays, "embeddings.LayerNorm"), epsilon=layer.epsilon)
    mask = ops.attention_mask(tokens.mask)
    last = int(config["num_hidden_layers"]) - 1
    for number in range(last + 1):
        first_only = tokens.first_is_enough and number == last
        hidden = layer.states(ops, arrays, f"encoder.layer.{number}", hidden, mask, first_only=first_only)
    return hidden


def _embedded(ops: Operations, arrays: Mapping[str, Array], config: Mapping[str, Any], tokens: Tokens) -> Node:
    words = ops.embedded(arrays["embeddings.word_embeddings.weight"], tokens)
    if config["model_type"] in PADDED_POSITIONS:
        positions = ops.positions_from_padding(tokens, int(config["pad_token_id"]))
    else:
        positions = ops.positions(tokens)
    table = arrays["embeddings.position_embeddings.weight"]
    positions = op.minimum(positions, ops.integers(len(table) - 1))  # padding may lie behind the last position
    embedded = op.add(words, ops.rows(table, positions))
    types = arrays["embeddings.token_type_embeddings.weight"]
    if tokens.is_second is None or len(types) == 1:
        return op.add(embedded, ops.constant(types[0]))
    return op.add(embedded, ops.rows(types, tokens.is_second))
