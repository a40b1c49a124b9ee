"""``GraphScorer``: the log-odds of pairs by OpenVINO on a CPU, without torch and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

from llamaindex_code_retrieval.models.batching import batch_budget, tight_batches
from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.graph_encoder import LENGTH_STEP, padded
from llamaindex_code_retrieval.models.graphs.compiled import Batch, CompiledGraph
from llamaindex_code_retrieval.models.graphs.pairs import STARTS
from llamaindex_code_retrieval.models.pair_layout import PairLayout, PairRow
from llamaindex_code_retrieval.models.tokenization import token_ids

_BATCH_TOKENS = 1024
"""Padding included. Larger batches do not fit a core's cache."""
_CALL = 64
"""The cost of a batch beside its tokens, in tokens."""


class PairGraph(NamedTuple):
    """A cross-encoder that is read and not yet compiled."""

    model: ov.Model
    tokenizer: Tokenizer
    layout: PairLayout
    max_tokens: int
    """Tokens of a pair, if the caller sets no other limit."""
    positions: int | None
    """The largest number of tokens that the model reads; ``None`` where it has no limit."""
    calibration: Calibration
    fingerprint: str


class GraphScorer:
    """A cross-encoder for inference on a CPU; several threads may use it at once.

    ``load_cross_encoder_graph`` and ``load_checkpoint_graph`` make one.
    """

    def __init__(self, pair_graph: PairGraph, precision: Literal["fp32", "bf16"]) -> None:
        """Compile the graph."""
        self.precision = precision
        self.max_tokens = pair_graph.max_tokens
        self.calibration = pair_graph.calibration
        self.fingerprint = pair_graph.fingerprint
        self._graph = CompiledGraph(pair_graph.model, precision)
        self._tokenizer = pair_graph.tokenizer
        self._layout = pair_graph.layout
        self._positions = pair_graph.positions

    def room(self, max_tokens: int) -> int:
        """Return how many tokens of a pair are left to query and code."""
        limit = max_tokens if self._positions is None else min(max_tokens, self._positions)
        return limit - self._layout.special_tokens

    def log_odds_of(self, query: str, codes: Sequence[str], *, max_tokens: int, token_budget: int) -> list[float]:
        """Return the log-odds of each code, in the order given."""
        query_ids, *code_ids = token_ids(self._tokenizer, [query, *codes])
        room = self.room(max_tokens)
        rows = [self._layout.row(query_ids, ids, room=room) for ids in code_ids]
        lengths = [-(-len(ids) // LENGTH_STEP) * LENGTH_STEP for ids, _ in rows]
        budget = batch_budget(min(token_budget, _BATCH_TOKENS), sum(lengths), workers=self._graph.streams)
        batches = tight_batches(lengths, budget, overhead=_CALL)
        log_odds = np.empty(len(rows), dtype=np.float32)
        with closing(self._graph.run(_inputs([rows[i] for i in batch]) for batch in batches)) as outputs:
            log_odds[list(chain.from_iterable(batches))] = np.concatenate(list(outputs))[:, 0]
        values: list[float] = log_odds.tolist()
        return values


def _inputs(rows: Sequence[PairRow]) -> Batch:
    return {**padded([ids for ids, _ in rows]), STARTS: np.array([start for _, start in rows], dtype=np.int32)}
