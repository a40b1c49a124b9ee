"""``GraphEncoder``: texts to unit vectors by OpenVINO on a CPU, without torch and transformers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov

from llamaindex_code_retrieval.models.batching import batch_budget, token_budget_batches
from llamaindex_code_retrieval.models.graphs.build import IDS, LENGTHS, dim_of
from llamaindex_code_retrieval.models.graphs.compiled import Batch, CompiledGraph
from llamaindex_code_retrieval.models.spec import EncoderSpec
from llamaindex_code_retrieval.models.text_encoder import EncodedBatch, TextEncoder
from llamaindex_code_retrieval.models.tokenization import Tokenization

_BATCH_TOKENS = 1024
"""Padding included. Larger batches do not fit a core's cache; smaller ones wait for each call."""
LENGTH_STEP = 8
"""Rows are padded to a multiple of it, because a batch of a new shape takes longer than the padding."""


class GraphEncoder(TextEncoder):
    """A bi-encoder like :class:`.Encoder`, for inference on a CPU; ``load_graph_encoder`` makes one."""

    runtime = "openvino"

    def __init__(
        self,
        model: ov.Model,
        tokenization: Tokenization,
        spec: EncoderSpec,
        *,
        metadata: dict[str, Any],
        precision: Literal["fp32", "bf16"],
        name: str,
        adapter: Path | None = None,
    ) -> None:
        self.describe(tokenization, spec, metadata, name=name, adapter=adapter)
        self.precision = precision
        self.dim = dim_of(model)
        self._graph = CompiledGraph(model, precision)

    def _encode_rows(
        self, rows: Sequence[Sequence[int]], token_budget: int | None
    ) -> Generator[EncodedBatch, None, None]:
        lengths = [-(-len(row) // LENGTH_STEP) * LENGTH_STEP for row in rows]
        budget = batch_budget(token_budget or _BATCH_TOKENS, sum(lengths), workers=self._graph.streams)
        batches = list(token_budget_batches(lengths, budget))
        with closing(self._graph.run(padded([rows[i] for i in batch]) for batch in batches)) as outputs:
            yield from zip(batches, outputs, strict=True)


def padded(rows: Sequence[Sequence[int]]) -> Batch:
    """Return the inputs of a graph for token rows, padded to a common length."""
    longest = -(-max(map(len, rows)) // LENGTH_STEP) * LENGTH_STEP
    ids = np.zeros((len(rows), longest), dtype=np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return {IDS: ids, LENGTHS: np.array([len(row) for row in rows], dtype=np.int32)}
