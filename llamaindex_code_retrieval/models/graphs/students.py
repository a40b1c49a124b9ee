"""Read the weights of a query encoder that is a backbone: layers of its teacher's base, or a small transformer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, CONFIG, QUERY_WEIGHTS
from llamaindex_code_retrieval.models.graphs.build import PROJECTION, EncoderWeights, states_of
from llamaindex_code_retrieval.models.graphs.codesage import transposed
from llamaindex_code_retrieval.models.graphs.operations import Array
from llamaindex_code_retrieval.models.query_encoder_config import REMEDY, QueryEncoderConfig
from llamaindex_code_retrieval.models.spec import EncoderSpec
from llamaindex_code_retrieval.models.weights import check_finite, read_arrays

_LAYER = re.compile(r"^(encoder\.layer|encoder\.block|transformer\.layer|h)\.(\d+)\.")
_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layers")


def read_student(base: Path, spec: EncoderSpec, folder: Path, config: QueryEncoderConfig) -> EncoderWeights:
    """Return the weights of the query encoder in ``folder``, a student of the base in the folder ``base``.

    Raises:
        UnsupportedModelError: a graph cannot express the student, or it lacks weights.
        ValueError: damaged files.
    """
    own = _own_weights(folder)
    if config.kind == "transformer":
        settings = read_json(folder / CONFIG, remedy=REMEDY) if (folder / CONFIG).is_file() else {}
        return EncoderWeights(states=states_of("bert", settings), config=settings, pooling=spec.pooling, arrays=own)
    teacher = EncoderWeights.read(base, spec)
    arrays = with_layers(teacher.arrays, config.layers)
    settings = {**teacher.config, **{key: len(config.layers) for key in _LAYER_COUNTS if key in teacher.config}}
    student = replace(teacher, config=settings, arrays=arrays)
    if not (folder / ADAPTER_CONFIG).is_file():  # all weights are its own
        return replace(student, arrays=transposed(own) if spec.architecture == "codesage" else own)
    if f"{PROJECTION}.weight" not in arrays:
        student = replace(student, arrays={**arrays, **{f"{PROJECTION}.{name}": array for name, array in own.items()}})
    return student.with_adapter(folder)


def with_layers(arrays: Mapping[str, Array], numbers: Sequence[int]) -> dict[str, Array]:
    """Return the weights of a model that has these layers only, numbered anew."""
    kept: dict[str, Array] = {}
    for name, array in arrays.items():
        match = _LAYER.match(name)
        if match is None or "relative_attention_bias" in name:  # T5's first layer has the biases of all
            kept[name] = array
        elif int(match[2]) in numbers:
            kept[f"{match[1]}.{numbers.index(int(match[2]))}.{name[match.end() :]}"] = array
    return kept


def _own_weights(folder: Path) -> dict[str, Array]:
    """Return the tensors that are saved beside ``query_encoder.json``; none where the projection is the base's."""
    path = folder / QUERY_WEIGHTS
    if not path.is_file():
        return {}
    arrays = read_arrays(path, remedy=REMEDY)
    check_finite(arrays, source=path, remedy=REMEDY)
    return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}
