"""The layer that BERT, MPNet and DistilBERT share: it normalises after attention and after the feed-forward network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from openvino import opset13 as op

from llamaindex_code_retrieval.models.graphs.operations import Array, Node, Operations
from llamaindex_code_retrieval.models.graphs.unsupported import Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class PostNormLayer:
    """A kind of layer: the names of its modules, and its settings."""

    attention: Sequence[str]
    """Query, key, value and output."""
    attention_norm: str
    feedforward: tuple[str, str]
    feedforward_norm: str
    heads: int
    activation: Activation
    epsilon: float

    def states(
        self,
        ops: Operations,
        arrays: Mapping[str, Array],
        name: str,
        hidden: Node,
        mask: Node,
        *,
        first_only: bool = False,
    ) -> Node:
        """Return the hidden states after the layer ``name``, (texts, tokens, width); ``mask`` is added to scores.

        With ``first_only`` they are those of the first token, (texts, 1, width).
        """
        query, key, value, output = (parameters(arrays, f"{name}.{part}") for part in self.attention)
        if first_only:  # it attends to all tokens, so their keys and values are needed
            keys_and_values = ops.heads(_projected(ops, hidden, key, value), self.heads, parts=2)
            hidden = ops.first(hidden)
            parts = [*ops.heads(_projected(ops, hidden, query), self.heads, parts=1), *keys_and_values]
        else:
            parts = ops.heads(_projected(ops, hidden, query, key, value), self.heads, parts=3)
        attended = ops.linear(ops.attention(parts, mask), *output)
        norm = parameters(arrays, f"{name}.{self.attention_norm}")
        hidden = ops.layer_norm(op.add(attended, hidden), *norm, epsilon=self.epsilon)
        first, second = (parameters(arrays, f"{name}.{part}") for part in self.feedforward)
        outer = ops.linear(ops.activate(ops.linear(hidden, *first), self.activation), *second)
        norm = parameters(arrays, f"{name}.{self.feedforward_norm}")
        return ops.layer_norm(op.add(outer, hidden), *norm, epsilon=self.epsilon)


def _projected(ops: Operations, hidden: Node, *layers: tuple[Array, Array]) -> Node:
    """Return the outputs of linear layers side by side."""
    weights, biases = zip(*layers, strict=True)
    return ops.linear(hidden, np.concatenate(weights), np.concatenate(biases))


def parameters(arrays: Mapping[str, Array], name: str) -> tuple[Array, Array]:
    """Return the weight and the bias of a module."""
    return arrays[f"{name}.weight"], arrays[f"{name}.bias"]
