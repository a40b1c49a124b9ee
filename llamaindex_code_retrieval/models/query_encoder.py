"""``QueryEncoder``: a small encoder of queries whose vectors replace those of its teacher."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import read_json, sha256, short_hash
from llamaindex_code_retrieval.models.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    QUERY_WEIGHTS,
    TOKENIZER,
)
from llamaindex_code_retrieval.models.locate import locate_query_encoder
from llamaindex_code_retrieval.models.query_encoder_config import (
    AUTO,
    REMEDY,
    Kind,
    QueryEncoderConfig,
    find_query_encoder,
)
from llamaindex_code_retrieval.models.static_encoder import StaticEncoder, load_tokenizer, static_shapes
from llamaindex_code_retrieval.models.weights import check_weights, load_weights, read_arrays

if TYPE_CHECKING:  # a static query encoder works without torch, which is slow to import
    from torch import nn

    from llamaindex_code_retrieval.models.adapter_set import LazyAdapterSet
    from llamaindex_code_retrieval.models.encoder import Encoder
    from llamaindex_code_retrieval.models.text_encoder import TextEncoder


@dataclass(frozen=True, slots=True)
class QueryEncoder:
    """A student that embeds queries so that they retrieve from the vectors that its teacher made of the codes.

    Kind ``static`` looks tokens up in a table, ``layers`` is the teacher with fewer layers, and ``transformer`` a small
    model of its own. The vectors of codes, and so the index, stay as they are.
    """

    name: str
    kind: Kind
    teacher: str
    """Fingerprint of the teacher."""
    fingerprint: str
    """16 hex digits over all that decides the student's vectors."""
    encoder: TextEncoder | StaticEncoder

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(queries, dim)`` in the order given."""
        return self.encoder.encode_queries(queries)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.encoder.dim

    @classmethod
    def load(cls, name_or_path: str | Path, *, teacher: Encoder) -> Self:
        """Load a query encoder of ``teacher``; it shares the teacher's weights where it uses them.

        Raises:
            ValueError: no such query encoder, damaged files, or a student of another teacher.
        """
        folder = find_query_encoder(name_or_path, teacher=teacher.fingerprint)
        config = QueryEncoderConfig.read(folder)
        encoder = _load_static(folder, config) if config.kind == "static" else _load_student(folder, config, teacher)
        _check_dim(encoder.dim, teacher.dim, folder)
        return cls._build(name_or_path, folder, config, encoder)

    @classmethod
    def load_static(cls, name_or_path: str | Path, *, teacher: str) -> Self | None:
        """Load a static query encoder of the teacher with this fingerprint, without the teacher.

        Return ``None`` for any other query encoder, and where :meth:`load` raises a ValueError that says why.
        """
        try:
            folder = find_query_encoder(name_or_path, teacher=teacher)
        except ValueError:
            return None
        config = QueryEncoderConfig.read(folder)
        if config.kind != "static":
            return None
        return cls._build(name_or_path, folder, config, _load_static(folder, config))

    @classmethod
    def load_for(cls, name_or_path: str | Path, *, teachers: LazyAdapterSet) -> Self:
        """Load a query encoder of the default encoder of ``teachers``, which are loaded only if they are needed.

        A static student needs none of them if their settings say the fingerprint. The others run in the runtime of
        their teacher.

        Raises:
            ValueError: see :meth:`load`; a wrong name is refused before the teachers are loaded.
        """
        if str(name_or_path) != AUTO:
            QueryEncoderConfig.read(locate_query_encoder(name_or_path))
        fingerprint = teachers.settings.default_fingerprint or teachers.load().default.fingerprint
        student = cls.load_static(name_or_path, teacher=fingerprint)
        if student is not None:
            return student
        loaded = teachers.load()
        folder = find_query_encoder(name_or_path, teacher=loaded.default.fingerprint)
        config = QueryEncoderConfig.read(folder)
        encoder = loaded.base.student(folder, config, load_torch=partial(_load_student, folder))
        _check_dim(encoder.dim, loaded.default.dim, folder)
        return cls._build(name_or_path, folder, config, encoder)

    @classmethod
    def _build(
        cls, name_or_path: str | Path, folder: Path, config: QueryEncoderConfig, encoder: TextEncoder | StaticEncoder
    ) -> Self:
        return cls(
            name=folder.name if str(name_or_path) == AUTO else str(name_or_path),
            kind=config.kind,
            teacher=config.teacher_fingerprint,
            fingerprint=_fingerprint(folder, config, encoder),
            encoder=encoder,
        )


def _check_dim(dim: int, expected: int, folder: Path) -> None:
    if dim != expected:
        raise ValueError(
            f"the query encoder in {folder} makes vectors of {dim} numbers, its teacher vectors of {expected}; {REMEDY}"
        )


def _fingerprint(folder: Path, config: QueryEncoderConfig, encoder: TextEncoder | StaticEncoder) -> str:
    settings = {
        "kind": config.kind,
        "layers": list(config.layers),
        "buckets": config.buckets,
        "int8": config.int8,
        "max_tokens": config.max_tokens,
        "teacher": config.teacher_fingerprint,
        "adapter": getattr(encoder, "fingerprint", ""),  # covers the adapter's scale, which is in no weight
    }
    files = [folder / file for file in (QUERY_WEIGHTS, ADAPTER_WEIGHTS, CONFIG, TOKENIZER)]
    return short_hash([json.dumps(settings, sort_keys=True), *(sha256(file) for file in files if file.is_file())])


def _load_static(folder: Path, config: QueryEncoderConfig) -> StaticEncoder:
    tensors = read_arrays(folder / QUERY_WEIGHTS, remedy=REMEDY)
    tokenizer = load_tokenizer(folder / TOKENIZER, remedy=REMEDY)
    expected = static_shapes(tensors, rows=tokenizer.get_vocab_size() + config.buckets)
    check_weights(tensors, expected, source=folder / QUERY_WEIGHTS, remedy=REMEDY)
    return StaticEncoder(tokenizer, tensors, buckets=config.buckets, max_tokens=config.max_tokens)


def _load_student(folder: Path, config: QueryEncoderConfig, teacher: Encoder) -> Encoder:
    """Load a student that is a backbone: layers of the teacher's base, or a small transformer."""
    from llamaindex_code_retrieval.models.modify import add_projection, keep_layers

    def student_backbone(base: nn.Module) -> nn.Module:
        return keep_layers(base, config.layers) if config.kind == "layers" else _small_transformer(folder)

    def with_all_weights(base: nn.Module) -> nn.Module:
        backbone = copy.deepcopy(add_projection(student_backbone(base), teacher.dim))  # the teacher keeps its weights
        load_weights(backbone, folder / QUERY_WEIGHTS, remedy=REMEDY)
        return backbone

    def with_projection(base: nn.Module) -> nn.Module:
        return add_projection(student_backbone(base), teacher.dim, weights=folder / QUERY_WEIGHTS, remedy=REMEDY)

    int8 = config.int8 and teacher.device.type == "cpu"
    if (folder / ADAPTER_CONFIG).is_file():
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise ValueError(f"{folder} holds no {ADAPTER_WEIGHTS}; {REMEDY}")
        student = teacher.with_peft(folder, int8=int8, prepare=with_projection)
    else:
        student = teacher.with_backbone(with_all_weights, int8=int8)
    student.max_query_tokens = config.max_tokens
    return student


def _small_transformer(folder: Path) -> nn.Module:
    """Return the backbone that ``config.json`` describes, with random weights."""
    import torch
    from transformers import BertConfig, BertModel

    try:
        config = BertConfig.from_dict(read_json(folder / CONFIG, remedy=REMEDY))
    except OSError as error:
        raise ValueError(f"{folder / CONFIG} cannot be read ({error}); {REMEDY}") from error
    with torch.random.fork_rng():
        backbone: nn.Module = BertModel(config, add_pooling_layer=False)
    return backbone
