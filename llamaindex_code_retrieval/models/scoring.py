"""Score pairs of query and code in batches, with a cross-encoder of this package or a Hugging Face checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch

from llamaindex_code_retrieval.models.batching import batch_budget, even_batches, tight_batches
from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.checkpoint_scorer import CheckpointScorer
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.device import resolve_device
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import RERANKER_CONFIG, WEIGHTS
from llamaindex_code_retrieval.models.locate import locate_reranker
from llamaindex_code_retrieval.models.pair_layout import PreparedPairs
from llamaindex_code_retrieval.models.parallel import in_threads, workers_on
from llamaindex_code_retrieval.models.reranker_config import PRECISIONS, RerankerConfig, RerankPrecision


class PairScorer(Protocol):
    """A model that scores pairs: a :class:`CrossEncoder` or a :class:`CheckpointScorer`."""

    calibration: Calibration
    max_tokens: int
    """Tokens of a pair, if the caller sets no other limit."""

    @property
    def fingerprint(self) -> str:
        """Hash over all that decides a score."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    @property
    def packs(self) -> bool:
        """Whether a batch is computed without padding."""

    def room(self, max_tokens: int) -> int:
        """Return how many tokens are left to query and code."""

    def prepare(self, query: str, codes: Sequence[str], max_tokens: int) -> PreparedPairs:
        """Tokenize the query with each code."""


def score_pairs(
    scorer: PairScorer, query: str, codes: Sequence[str], *, max_tokens: int, token_budget: int = 4096
) -> list[float]:
    """Return the log-odds of each code, in the order given; equal codes have equal log-odds.

    Raises:
        FloatingPointError: they are not finite.
    """
    distinct = list(dict.fromkeys(codes))  # equal codes in unequal batches would tie only up to rounding
    if not distinct:
        return []
    lengths, log_odds_of = scorer.prepare(query, distinct, max_tokens)
    workers = workers_on(scorer.device)
    if scorer.packs:
        batches = even_batches(lengths, token_budget, workers=workers)
    else:
        overhead = 64 if scorer.device.type == "cpu" else 4096  # of a call, in the time of tokens
        budget = batch_budget(token_budget, sum(lengths), workers=workers)
        batches = tight_batches(lengths, budget, overhead=overhead)
    values = torch.cat(list(in_threads(log_odds_of, batches, scorer.device))).tolist()
    if not all(map(math.isfinite, values)):
        raise FloatingPointError("gives logits that are not finite numbers")
    by_code = {distinct[i]: value for i, value in zip(chain.from_iterable(batches), values, strict=True)}
    return [by_code[code] for code in codes]


def shares_base(name: str | Path, encoder: Encoder, *, precision: RerankPrecision = "auto") -> bool:
    """Return whether a reranker can use the base weights of ``encoder`` in this precision.

    It can if this package trained it on the same base, and if the encoder's weights are in the precision; int8 copies
    those that it quantizes.
    """
    if precision not in ("auto", "int8", encoder.precision):
        return False
    folder = locate_reranker(name)
    if not (folder / RERANKER_CONFIG).is_file():
        return False
    return RerankerConfig.read(folder).base_fingerprint == encoder.base_fingerprint


def calibration_of(name: str | Path) -> Calibration:
    """Return a reranker's calibration without loading its weights; a checkpoint has the identity."""
    folder = locate_reranker(name)
    return RerankerConfig.read(folder).calibration if (folder / RERANKER_CONFIG).is_file() else Calibration()


def load_scorer(
    name: str,
    *,
    encoder: Encoder | None,
    device: str | None,
    precision: RerankPrecision,
    merge_adapter: bool = False,
) -> CrossEncoder | CheckpointScorer:
    """Load a reranker of this package, on the base of ``encoder`` if given, or a Hugging Face checkpoint.

    Raises:
        ValueError: an option that has no effect for this reranker, or that contradicts ``encoder``; see
            :meth:`CrossEncoder.load` and :class:`CheckpointScorer`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    chosen_device = torch.empty(0, device=resolve_device(device)).device  # with its number: "cuda" is "cuda:0"
    if precision == "int8" and (chosen_device if encoder is None else encoder.device).type != "cpu":
        raise ValueError("precision 'int8' is for CPUs; use 'bf16' on this device")
    folder = locate_reranker(name)
    if (folder / RERANKER_CONFIG).is_file():
        if merge_adapter and (folder / WEIGHTS).is_file():
            raise ValueError(
                f"{name} is a whole model without an adapter, so merge_adapter has no effect; leave it out"
            )
        if encoder is not None and device is not None and chosen_device != encoder.device:
            raise ValueError(
                f"the embedding is on {encoder.device}, so a reranker on its base cannot be on {device!r}; "
                "leave device out, or leave the embedding out"
            )
        return CrossEncoder.load(
            folder, encoder=encoder, device=device, precision=precision, merge_adapter=merge_adapter
        )
    if merge_adapter:
        raise ValueError(
            f"{name} is a Hugging Face checkpoint without an adapter, so merge_adapter has no effect; leave it out"
        )
    if encoder is not None:
        raise ValueError(f"{name} is a Hugging Face checkpoint and has a base of its own; leave the embedding out")
    return CheckpointScorer(name, folder, device=device, precision=precision)
