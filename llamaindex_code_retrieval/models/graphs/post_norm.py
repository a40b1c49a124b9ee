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

    def states(self, ops: Operations, arrays: Mapping[str, Array], name: str, hidden: Node, mask: Node) -> Node:
        """Return the hidden states after the layer ``name``, (texts, tokens, width); ``mask`` is added to scores."""
        query, key, value, output = (f"{name}.{part}" for part in self.attention)
        weights, biases = zip(*(parameters(arrays, part) for part in (query, key, value)), strict=True)
        projected = ops.linear(hidden, np.concatenate(weights), np.concatenate(biases))
        attended = ops.attention(ops.heads(projected, self.heads, parts=3), mask)
        attended = ops.linear(attended, *parameters(arrays, output))
        norm = parameters(arrays, f"{name}.{self.attention_norm}")
        hidden = ops.layer_norm(op.add(attended, hidden), *norm, epsilon=self.epsilon)
        first, second = (parameters(arrays, f"{name}.{part}") for part in self.feedforward)
        outer = ops.linear(ops.activate(ops.linear(hidden, *first), self.activation), *second)
        norm = parameters(arrays, f"{name}.{self.feedforward_norm}")
        return ops.layer_norm(op.add(outer, hidden), *norm, epsilon=self.epsilon)


def parameters(arrays: Mapping[str, Array], name: str) -> tuple[Array, Array]:
    """Return the weight and the bias of a module."""
    return arrays[f"{name}.weight"], arrays[f"{name}.bias"]
