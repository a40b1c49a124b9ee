"""Compute the log-odds of tokenized pairs with torch, in batches that run in parallel on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor

from llamaindex_code_retrieval.models.batching import batch_budget, even_batches, tight_batches
from llamaindex_code_retrieval.models.pair_layout import PairRow
from llamaindex_code_retrieval.models.parallel import in_threads, workers_on


def log_odds_in_batches(
    compute: Callable[[Sequence[PairRow]], Tensor],
    rows: Sequence[PairRow],
    *,
    token_budget: int,
    device: torch.device,
    packs: bool,
) -> list[float]:
    """Return the log-odds of ``rows``, in their order, without gradient.

    ``packs`` says that ``compute`` pads no batch.
    """
    lengths, workers = [len(ids) for ids, _ in rows], workers_on(device)
    if packs:
        batches = even_batches(lengths, token_budget, workers=workers)
    else:
        overhead = 64 if device.type == "cpu" else 4096  # of a call, in the time of tokens
        budget = batch_budget(token_budget, sum(lengths), workers=workers)
        batches = tight_batches(lengths, budget, overhead=overhead)
    values = torch.cat(list(in_threads(lambda batch: compute([rows[i] for i in batch]), batches, device))).tolist()
    by_position = dict(zip(chain.from_iterable(batches), values, strict=True))
    return [by_position[position] for position in range(len(rows))]
