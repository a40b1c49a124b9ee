"""Build the graph of an encoder from the files of its base and its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.models.catalog import Pooling
from llamaindex_code_retrieval.models.files import CONFIG, DAMAGED
from llamaindex_code_retrieval.models.graphs.arrays import merge_adapter, read_checkpoint
from llamaindex_code_retrieval.models.graphs.bert import MODEL_TYPES, Tokens, bert_states
from llamaindex_code_retrieval.models.graphs.operations import Node, Operations, parameter
from llamaindex_code_retrieval.models.graphs.unsupported import UnsupportedModelError
from llamaindex_code_retrieval.models.spec import EncoderSpec

VERSION = 1
"""Raise it when the same files start to give another graph: then graphs are checked against torch again."""

IDS, LENGTHS = "ids", "lengths"


class EncoderWeights:
    """The configuration and the weights of an encoder, with its adapter merged."""

    def __init__(self, folder: Path, spec: EncoderSpec, adapter: Path | None) -> None:
        """Read the files.

        Raises:
            UnsupportedModelError: a graph cannot express the base or the adapter.
            ValueError: damaged files.
        """
        self.config: dict[str, Any] = read_json(folder / CONFIG, remedy=DAMAGED)
        self.pooling: Pooling = spec.pooling
        model_type = self.config.get("model_type")
        if spec.architecture not in ("bert", "unixcoder") or model_type not in MODEL_TYPES:
            raise UnsupportedModelError(f"a model of the type {model_type!r}")
        arrays = read_checkpoint(folder)
        self.arrays = arrays if adapter is None else merge_adapter(arrays, adapter)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.config["hidden_size"])

    def graph(self) -> ov.Model:
        """Return the graph: token ids (texts, tokens) and lengths (texts,) to unit vectors (texts, dim).

        Raises:
            UnsupportedModelError: the configuration asks for operations that graphs lack.
        """
        ops = Operations()
        ids, lengths = parameter(IDS, (-1, -1)), parameter(LENGTHS, (-1,))
        mask = ops.is_before(ops.count_up(ops.token_count(ids)), lengths)
        try:
            hidden = bert_states(ops, self.arrays, self.config, Tokens(ids, mask))
        except KeyError as error:
            raise UnsupportedModelError(f"a checkpoint without {error}") from error
        return ov.Model([_unit(_pooled(ops, hidden, mask, self.pooling))], [ids, lengths], "encoder")


def _pooled(ops: Operations, hidden: Node, mask: Node, pooling: Pooling) -> Node:
    if pooling == "cls":
        return ops.at(hidden, 0, axis=1)
    # A mean and a sum have the same direction.
    return op.reduce_sum(op.multiply(hidden, op.unsqueeze(mask, ops.integers(2))), ops.integers([1]))


def _unit(vectors: Node) -> Node:
    """Return vectors of length 1."""
    squares = op.reduce_sum(op.multiply(vectors, vectors), op.constant(np.array([1])), True)
    return op.divide(vectors, op.maximum(op.sqrt(squares), op.constant(np.float32(1e-12))))
