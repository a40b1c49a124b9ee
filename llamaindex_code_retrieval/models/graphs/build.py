"""Build the graph of an encoder from the files of its base and its adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import openvino as ov
from openvino import opset13 as op

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.models.catalog import Architecture, Pooling
from llamaindex_code_retrieval.models.files import CONFIG, DAMAGED
from llamaindex_code_retrieval.models.graphs.arrays import merge_adapter, read_checkpoint, read_virtual_tokens
from llamaindex_code_retrieval.models.graphs.bert import MODEL_TYPES, bert_states
from llamaindex_code_retrieval.models.graphs.codesage import codesage_states, transposed
from llamaindex_code_retrieval.models.graphs.distilbert import distilbert_states
from llamaindex_code_retrieval.models.graphs.mpnet import mpnet_states
from llamaindex_code_retrieval.models.graphs.operations import Array, Node, Operations, Tokens, parameter
from llamaindex_code_retrieval.models.graphs.post_norm import parameters
from llamaindex_code_retrieval.models.graphs.t5 import t5_states
from llamaindex_code_retrieval.models.graphs.unsupported import UnsupportedModelError, fitting_weights
from llamaindex_code_retrieval.models.spec import EncoderSpec

VERSION = 2
"""Raise it when the same files start to give another graph: then graphs are checked against torch again."""

IDS, LENGTHS = "ids", "lengths"
PROJECTION = "proj"
"""The linear layer from pooled hidden states to vectors, where a model has one."""

States = Callable[[Operations, Mapping[str, Array], Mapping[str, Any], Tokens], Node]
"""Builds the last hidden states, (texts, tokens, width), from weights, configuration and tokens."""

_BY_ARCHITECTURE: dict[Architecture, States] = {
    "codesage": codesage_states,
    "codet5p-embedding": t5_states,
    "t5": t5_states,
}
_BY_MODEL_TYPE: dict[str, States] = {
    **dict.fromkeys(MODEL_TYPES, bert_states),
    "distilbert": distilbert_states,
    "mpnet": mpnet_states,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderWeights:
    """All that decides the vectors of token ids: the kind of graph, its settings and its weights."""

    states: States
    config: Mapping[str, Any]
    pooling: Pooling
    arrays: Mapping[str, Array]
    virtual: Array | None = None
    """Embedded tokens that prompt tuning puts before each text, (virtual tokens, width)."""

    @classmethod
    def read(cls, folder: Path, spec: EncoderSpec) -> Self:
        """Read the files of a base.

        Raises:
            UnsupportedModelError: a graph cannot express the base.
            ValueError: damaged files.
        """
        config = read_json(folder / CONFIG, remedy=DAMAGED)
        states = states_of(spec.architecture, config)
        arrays = read_checkpoint(folder)
        if spec.architecture == "codesage":
            arrays = transposed(arrays)
        if spec.architecture != "codet5p-embedding":  # others may have a layer of this name for another purpose
            arrays = {name: array for name, array in arrays.items() if not name.startswith(f"{PROJECTION}.")}
        return cls(states=states, config=config, pooling=spec.pooling, arrays=arrays)

    def with_adapter(self, folder: Path) -> Self:
        """Return the weights with the adapter in ``folder`` merged, or its virtual tokens.

        Raises:
            UnsupportedModelError: a graph cannot express the adapter.
            ValueError: damaged files.
        """
        virtual = read_virtual_tokens(folder)
        if virtual is not None:
            return replace(self, virtual=virtual)
        return replace(self, arrays=merge_adapter(self.arrays, folder))

    @property
    def width(self) -> int:
        """Length of a hidden state."""
        return next((int(self.config[name]) for name in ("hidden_size", "d_model", "dim") if name in self.config), 0)

    @property
    def virtual_tokens(self) -> int:
        """How many tokens prompt tuning puts before a text."""
        return 0 if self.virtual is None else len(self.virtual)

    def graph(self) -> ov.Model:
        """Return the graph: token ids (texts, tokens) and lengths (texts,) to unit vectors (texts, dim).

        Raises:
            UnsupportedModelError: the configuration asks for operations that graphs lack.
        """
        ops = Operations()
        ids, lengths = parameter(IDS, (-1, -1)), parameter(LENGTHS, (-1,))
        mask = ops.is_before(ops.count_up(ops.token_count(ids)), lengths)
        with fitting_weights():
            hidden = self.text_states(ops, Tokens(ids, mask))
            pooled = _pooled(ops, hidden, mask, self.pooling)
            if f"{PROJECTION}.weight" in self.arrays:
                pooled = ops.linear(pooled, *parameters(self.arrays, PROJECTION))
        return ov.Model([_unit(pooled)], [ids, lengths], "encoder")

    def text_states(self, ops: Operations, tokens: Tokens) -> Node:
        """Return the last hidden states of the text's own tokens, (texts, tokens, width)."""
        if self.virtual is None:
            return self.states(ops, self.arrays, self.config, tokens)
        count = len(self.virtual)
        bounds = ops.integers([0, count]), ops.integers([0, 0])
        ones = op.pad(tokens.mask, *bounds, "constant", op.constant(np.float32(1)))
        # PEFT ignores token types.
        hidden = self.states(ops, self.arrays, self.config, Tokens(tokens.ids, ones, virtual=self.virtual))
        start, stop, step, axis = (ops.integers([value]) for value in (count, np.iinfo(np.int32).max, 1, 1))
        return op.slice(hidden, start, stop, step, axis)


def states_of(architecture: Architecture, config: Mapping[str, Any]) -> States:
    """Return what builds the hidden states of an architecture.

    Raises:
        UnsupportedModelError: no graph is known for it.
    """
    model_type = str(config.get("model_type"))
    states = _BY_ARCHITECTURE.get(architecture) or _BY_MODEL_TYPE.get(model_type)
    if states is None:
        raise UnsupportedModelError(f"a model of the type {model_type!r}")
    return states


def dim_of(model: ov.Model) -> int:
    """Return the length of a graph's vectors."""
    dim: int = model.output(0).get_partial_shape()[1].get_length()
    return dim


def _pooled(ops: Operations, hidden: Node, mask: Node, pooling: Pooling) -> Node:
    if pooling == "cls":
        return ops.at(hidden, 0, axis=1)
    weights = op.unsqueeze(mask, ops.integers(2))
    total = op.reduce_sum(op.multiply(hidden, weights), ops.integers([1]))
    return op.divide(total, op.reduce_sum(weights, ops.integers([1])))


def _unit(vectors: Node) -> Node:
    """Return vectors of length 1."""
    squares = op.reduce_sum(op.multiply(vectors, vectors), op.constant(np.array([1])), True)
    return op.divide(vectors, op.maximum(op.sqrt(squares), op.constant(np.float32(1e-12))))
