"""The graph of BERT and of RoBERTa's kind of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from openvino import opset13 as op

from llamaindex_code_retrieval.models.graphs.operations import Array, Node, Operations
from llamaindex_code_retrieval.models.graphs.unsupported import UnsupportedModelError, activation_of

PADDED_POSITIONS = frozenset(("camembert", "roberta", "xlm-roberta"))
"""Model types whose positions count from the padding token's id on."""
MODEL_TYPES = PADDED_POSITIONS | {"bert"}


class Tokens(NamedTuple):
    """The texts of a batch as inputs of a graph."""

    ids: Node
    """(texts, tokens)"""
    mask: Node
    """(texts, tokens): 1.0 at the tokens of a text, 0.0 at the padding behind them."""
    is_second: Node | None = None
    """(texts, tokens): 1 from the start of the second text of a pair on."""


def bert_states(ops: Operations, arrays: Mapping[str, Array], config: Mapping[str, Any], tokens: Tokens) -> Node:
    """Return the last hidden states, (texts, tokens, width).

    Raises:
        UnsupportedModelError: the configuration asks for operations that this graph lacks.
    """
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModelError(f"positions of the kind {config['position_embedding_type']!r}")
    activation = activation_of(config["hidden_act"])
    epsilon, count = float(config["layer_norm_eps"]), int(config["num_attention_heads"])
    hidden = _embedded(ops, arrays, config, tokens)
    hidden = ops.layer_norm(hidden, *_pair(arrays, "embeddings.LayerNorm"), epsilon=epsilon)
    mask = ops.attention_mask(tokens.mask)
    for number in range(int(config["num_hidden_layers"])):
        name = f"encoder.layer.{number}"
        weights, biases = zip(
            *(_pair(arrays, f"{name}.attention.self.{part}") for part in ("query", "key", "value")), strict=True
        )
        projected = ops.linear(hidden, np.concatenate(weights), np.concatenate(biases))
        attended = ops.attention(ops.heads(projected, count, parts=3), mask)
        output = f"{name}.attention.output"
        attended = ops.linear(attended, *_pair(arrays, f"{output}.dense"))
        hidden = ops.layer_norm(op.add(attended, hidden), *_pair(arrays, f"{output}.LayerNorm"), epsilon=epsilon)
        inner = ops.linear(hidden, *_pair(arrays, f"{name}.intermediate.dense"))
        outer = ops.linear(ops.activate(inner, activation), *_pair(arrays, f"{name}.output.dense"))
        hidden = ops.layer_norm(op.add(outer, hidden), *_pair(arrays, f"{name}.output.LayerNorm"), epsilon=epsilon)
    return hidden


def _embedded(ops: Operations, arrays: Mapping[str, Array], config: Mapping[str, Any], tokens: Tokens) -> Node:
    words = ops.rows(arrays["embeddings.word_embeddings.weight"], tokens.ids)
    table = arrays["embeddings.position_embeddings.weight"]
    if config["model_type"] in PADDED_POSITIONS:
        padding = int(config["pad_token_id"])
        # A padding token within a text has no position of its own.
        counted = op.convert(op.not_equal(tokens.ids, ops.integers(padding)), "i32")
        positions = op.multiply(op.cum_sum(counted, ops.integers(1)), counted)
        embedded = op.add(words, ops.rows(table, op.add(positions, ops.integers(padding))))
    else:
        embedded = op.add(words, ops.rows(table, ops.count_up(ops.token_count(tokens.ids))))
    types = arrays["embeddings.token_type_embeddings.weight"]
    if tokens.is_second is None or len(types) == 1:
        return op.add(embedded, ops.constant(types[0]))
    return op.add(embedded, ops.rows(types, tokens.is_second))


def _pair(arrays: Mapping[str, Array], name: str) -> tuple[Array, Array]:
    return arrays[f"{name}.weight"], arrays[f"{name}.bias"]
