"""``Operations``: the layers of a transformer as OpenVINO operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from llamaindex_code_retrieval.models.graphs.unsupported import Activation

Array = NDArray[Any]
Node = Any
"""An operation of the graph, or one of its outputs."""

_MASKED = -1e4
"""Added to the attention score of a padding token: exp(-1e4) is 0 in every precision."""


class Tokens(NamedTuple):
    """The texts of a batch as inputs of a graph."""

    ids: Node
    """(texts, tokens)"""
    mask: Node
    """(texts, tokens): 1.0 at the tokens of a text, 0.0 at the padding behind them; virtual tokens are tokens too."""
    is_second: Node | None = None
    """(texts, tokens): 1 from the start of the second text of a pair on."""
    virtual: Array | None = None
    """(virtual tokens, width): embedded tokens that prompt tuning puts before each text."""
    first_is_enough: bool = False
    """Whether the last layer may leave out the hidden states of all tokens but the first, (texts, 1, width)."""


class Operations:
    """Builds operations and constants in fp32; the precision of the graph is chosen when it is compiled."""

    # --- values ------------------------------------------------------------------------------------------------------

    def constant(self, values: Array | float) -> Node:
        """Return a constant in fp32."""
        return op.constant(np.ascontiguousarray(values, dtype=np.float32))

    def integers(self, values: Sequence[int] | int) -> Node:
        """Return a constant of integers."""
        return op.constant(np.asarray(values, dtype=np.int32))

    def rows(self, table: Array, indices: Node) -> Node:
        """Return the rows of a table at ``indices``, the shape of which gains an axis."""
        return op.gather(self.constant(table), indices, self.integers(0))

    def at(self, tensor: Node, index: int, *, axis: int) -> Node:
        """Return the part of a tensor at an index of an axis, which goes away."""
        return op.gather(tensor, self.integers(index), self.integers(axis))

    def first(self, tensor: Node) -> Node:
        """Return the part of a tensor at the first index of its second axis, which stays."""
        return op.gather(tensor, self.integers([0]), self.integers(1))

    # --- tokens ------------------------------------------------------------------------------------------------------

    def token_count(self, ids: Node) -> Node:
        """Return the length of the rows, padding included, of ``ids`` (texts, tokens)."""
        return self.at(op.shape_of(ids, "i32"), 1, axis=0)

    def count_up(self, count: Node) -> Node:
        """Return 0, 1, … up to ``count`` exclusive."""
        return op.range(self.integers(0), count, self.integers(1), "i32")

    def is_before(self, positions: Node, ends: Node) -> Node:
        """Return 1.0 where a position (tokens,) is before the end of its row (texts,), else 0.0: (texts, tokens)."""
        return op.convert(op.less(positions, op.unsqueeze(ends, self.integers(1))), "f32")

    def embedded(self, table: Array, tokens: Tokens) -> Node:
        """Return the embedded tokens, virtual ones first, (texts, tokens, width)."""
        embedded = self.rows(table, tokens.ids)
        if tokens.virtual is None:
            return embedded
        texts = self.at(op.shape_of(tokens.ids, "i32"), 0, axis=0)
        shape = op.concat([op.unsqueeze(texts, self.integers(0)), self.integers(tokens.virtual.shape)], 0)
        return op.concat([op.broadcast(self.constant(tokens.virtual), shape), embedded], 1)

    def positions(self, tokens: Tokens) -> Node:
        """Return the position of each token, (tokens,)."""
        return self.count_up(self.token_count(tokens.mask))

    def positions_from_padding(self, tokens: Tokens, padding: int) -> Node:
        """Return positions that count from the padding token's id on, (texts, tokens) or (tokens,)."""
        if tokens.virtual is not None:  # transformers then does not see which tokens are padding
            return op.add(self.positions(tokens), self.integers(padding + 1))
        # A padding token within a text has no position of its own.
        counted = op.convert(op.not_equal(tokens.ids, self.integers(padding)), "i32")
        return op.add(op.multiply(op.cum_sum(counted, self.integers(1)), counted), self.integers(padding))

    def relative_bias(self, by_distance: Array, positions: Node) -> Node:
        """Return what is added to the attention scores by the distance of two tokens, (heads, tokens, tokens).

        ``by_distance`` has the shape (heads, 2 * limit + 1), from the distance -limit to limit; larger distances count
        as the limit.
        """
        limit = by_distance.shape[1] // 2
        distances = op.subtract(op.unsqueeze(positions, self.integers(0)), op.unsqueeze(positions, self.integers(1)))
        columns = op.add(op.clamp(distances, -limit, limit), self.integers(limit))
        return op.gather(self.constant(by_distance), columns, self.integers(1))

    def attention_mask(self, mask: Node) -> Node:
        """Return what is added to attention scores, (texts, 1, 1, tokens), from 1.0 at the tokens of the text."""
        return self.scaled(op.subtract(op.unsqueeze(mask, self.integers([1, 2])), self.constant(1.0)), -_MASKED)

    # --- layers ------------------------------------------------------------------------------------------------------

    def scaled(self, tensor: Node, factor: float) -> Node:
        """Multiply a tensor by a number."""
        return op.multiply(tensor, self.constant(factor))

    def linear(self, inputs: Node, weight: Array, bias: Array | None = None) -> Node:
        """Return ``inputs @ weight.T + bias``; ``weight`` has the shape (outputs, inputs), as torch's has."""
        product = op.matmul(inputs, self.constant(weight), False, True)
        return product if bias is None else op.add(product, self.constant(bias))

    def layer_norm(self, inputs: Node, weight: Array, bias: Array, *, epsilon: float) -> Node:
        """Return the layer normalisation over the last axis."""
        normed = op.mvn(inputs, self.integers([-1]), True, epsilon, "inside_sqrt")
        return op.add(op.multiply(normed, self.constant(weight)), self.constant(bias))

    def rms_norm(self, inputs: Node, weight: Array, *, epsilon: float) -> Node:
        """Return the inputs divided by their root mean square over the last axis, as T5 does."""
        squares = op.reduce_mean(op.multiply(inputs, inputs), self.integers([-1]), True)
        root = op.sqrt(op.add(squares, self.constant(epsilon)))
        return op.multiply(op.divide(inputs, root), self.constant(weight))

    def activate(self, inputs: Node, activation: Activation) -> Node:
        """Return the activation of each value."""
        if activation == "relu":
            return op.relu(inputs)
        return op.gelu(inputs, "tanh" if activation == "gelu_tanh" else "erf")

    def heads(self, projected: Node, count: int, *, parts: int) -> list[Node]:
        """Split (texts, tokens, parts * width) into ``parts`` tensors (texts, heads, tokens, width of a head)."""
        width = _length(projected, 2) // (parts * count)
        split = op.reshape(projected, self.integers([0, 0, parts, count, width]), True)
        ordered = op.transpose(split, self.integers([2, 0, 3, 1, 4]))
        return [self.at(ordered, part, axis=0) for part in range(parts)]

    def attention(self, parts: Sequence[Node], mask: Node, *, scale: float | None = None) -> Node:
        """Return the attention of all heads side by side, (texts, tokens, width).

        ``parts`` are query, key and value, (texts, heads, tokens, width of a head); ``mask`` is added to the scores.
        """
        query, key, value = parts
        width = _length(query, 1) * _length(query, 3)
        scales = [] if scale is None else [self.constant(scale)]
        attended = op.scaled_dot_product_attention(query, key, value, mask, *scales)
        return op.reshape(op.transpose(attended, self.integers([0, 2, 1, 3])), self.integers([0, 0, width]), True)


def parameter(name: str, shape: Sequence[int]) -> Node:
    """Return an input of the graph, of integers; -1 stands for an axis of any length."""
    return op.parameter(list(shape), ov.Type.i32, name=name)


def _length(tensor: Node, axis: int) -> int:
    length: int = tensor.get_output_partial_shape(0)[axis].get_length()
    return length
