"""The graph of a cross-encoder: a transformer that reads a query and a code as one text, and a head over its states."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov
from openvino import opset13 as op

from llamaindex_code_retrieval.models.graphs.build import IDS, LENGTHS, EncoderWeights
from llamaindex_code_retrieval.models.graphs.operations import Array, Node, Operations, Tokens, parameter
from llamaindex_code_retrieval.models.graphs.post_norm import parameters
from llamaindex_code_retrieval.models.graphs.unsupported import UnsupportedModelError, fitting_weights
from llamaindex_code_retrieval.models.reranker_config import Head
from llamaindex_code_retrieval.models.weights import Shapes

STARTS = "starts"
"""The position at which the code begins, for each pair: (pairs,)."""


_EPSILON = 1e-8  # of torch's cosine_similarity


def head_shapes(kind: Head, width: int) -> Shapes:
    """Return the shapes of the tensors of :class:`.MatchingHead`."""
    inputs = 2 * width if kind == "interaction" else width
    shapes: dict[str, tuple[int, ...]] = {
        "dense.weight": (width, inputs),
        "dense.bias": (width,),
        "out.weight": (1, width),
        "out.bias": (1,),
    }
    return shapes | ({"scale": ()} if kind == "interaction" else {})


def interaction_graph(weights: EncoderWeights, head: Mapping[str, Array]) -> ov.Model:
    """Return the graph of :class:`.MatchingHead` of the kind ``interaction``: pairs to log-odds, (pairs, 1).

    Raises:
        UnsupportedModelError: weights that do not fit.
    """
    ops = Operations()
    inputs, tokens, is_code = _inputs(ops)
    is_query = op.multiply(tokens.mask, op.subtract(ops.constant(1.0), is_code))
    with fitting_weights():
        hidden = weights.text_states(ops, tokens)
        u, v = _mean(ops, hidden, is_query), _mean(ops, hidden, op.multiply(tokens.mask, is_code))
        features = op.concat([op.multiply(u, v), op.absolute(op.subtract(u, v))], 1)
        correction = ops.linear(op.tanh(ops.linear(features, *parameters(head, "dense"))), *parameters(head, "out"))
        log_odds = op.add(ops.scaled(_cosine(ops, u, v), float(head["scale"])), correction)
    return ov.Model([log_odds], inputs, "cross-encoder")


def first_token_graph(
    weights: EncoderWeights, dense: tuple[Array, Array], out: tuple[Array, Array], *, has_types: bool = True
) -> ov.Model:
    """Return the graph of a classification head over the first token: pairs to log-odds, (pairs, 1).

    The head is two linear layers with a tanh between them. Two labels are one: the log-odds are the logit of label 1
    minus the logit of label 0. Without ``has_types`` query and code have the same token type.

    Raises:
        UnsupportedModelError: another number of labels than one or two, or weights that do not fit.
    """
    weight, bias = out
    if len(weight) not in (1, 2):
        raise UnsupportedModelError(f"a checkpoint with {len(weight)} labels")
    if len(weight) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    ops = Operations()
    inputs, tokens, _ = _inputs(ops)
    if not has_types:
        tokens = tokens._replace(is_second=None)
    with fitting_weights():
        first = ops.at(weights.text_states(ops, tokens._replace(first_is_enough=True)), 0, axis=1)
        log_odds = ops.linear(op.tanh(ops.linear(first, *dense)), weight, bias)
    return ov.Model([log_odds], inputs, "cross-encoder")


def _inputs(ops: Operations) -> tuple[list[Node], Tokens, Node]:
    """Return the inputs, the tokens, and 1.0 from the start of the code on, else 0.0: (pairs, tokens)."""
    ids, lengths, starts = parameter(IDS, (-1, -1)), parameter(LENGTHS, (-1,)), parameter(STARTS, (-1,))
    positions = ops.count_up(ops.token_count(ids))
    is_code = op.subtract(ops.constant(1.0), ops.is_before(positions, starts))
    tokens = Tokens(ids, ops.is_before(positions, lengths), is_second=op.convert(is_code, "i32"))
    return [ids, lengths, starts], tokens, is_code


def _mean(ops: Operations, hidden: Node, mask: Node) -> Node:
    """Return the mean of the hidden states at the tokens of a mask, (pairs, width); 0 without tokens."""
    total = op.reduce_sum(op.multiply(hidden, op.unsqueeze(mask, ops.integers(2))), ops.integers([1]))
    count = op.reduce_sum(mask, ops.integers([1]), True)
    return op.divide(total, op.maximum(count, ops.constant(1.0)))


def _cosine(ops: Operations, u: Node, v: Node) -> Node:
    """Return the cosine of each row, (pairs, 1)."""
    dot = op.reduce_sum(op.multiply(u, v), ops.integers([1]), True)
    return op.divide(dot, op.multiply(_length(ops, u), _length(ops, v)))


def _length(ops: Operations, vectors: Node) -> Node:
    squares = op.reduce_sum(op.multiply(vectors, vectors), ops.integers([1]), True)
    return op.maximum(op.sqrt(squares), op.constant(np.float32(_EPSILON)))
