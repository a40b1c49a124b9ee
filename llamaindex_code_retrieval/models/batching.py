"""Which texts are computed together: batches of unequal lengths, within a budget of tokens."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence

_WORTH_A_CALL = 128
"""Tokens in a batch under which calling the model costs too much beside computing."""


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield positions, longest first, so that batch size times longest length stays within ``budget``.

    >>> list(token_budget_batches([3, 9, 4, 20], 12))
    [[3], [1], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, budget // lengths[order[start]])
        yield order[start : start + size]
        start += size


def batch_budget(limit: int, tokens: int, *, workers: int) -> int:
    """Return the padded tokens of a batch, ``limit`` at most, at which there is work for all ``workers``.

    ``tokens`` are those of all batches; there are half as many again as workers or more, so that they end together:
    one for each waits for the longest, and two for each cost more calls than they save.
    """
    return limit if workers == 1 else min(limit, max(_WORTH_A_CALL, 2 * tokens // (3 * workers)))


def tight_batches(lengths: Sequence[int], budget: int, *, overhead: int) -> list[list[int]]:
    """Return positions in batches that cost least, each within ``budget`` as above.

    A batch costs its padded tokens and ``overhead`` more, what calling the model at all costs in tokens; so texts of
    unequal length are not padded to each other where that costs more than a call. The most costly batch comes first:
    those computed side by side (``in_threads``) then end together as nearly as they can.

    >>> tight_batches([30, 9, 29, 8], 100, overhead=10)
    [[0, 2], [1, 3]]
    >>> tight_batches([30, 20, 20], 100, overhead=5)
    [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    cheapest, starts = [0.0], [0]  # over the first i positions of the order, and where their last batch starts
    for end in range(1, len(order) + 1):
        best, start = math.inf, end - 1
        for first in range(end - 1, -1, -1):
            padded = (end - first) * lengths[order[first]]
            if padded > budget and first < end - 1:
                break
            if cheapest[first] + padded + overhead < best:
                best, start = cheapest[first] + padded + overhead, first
        cheapest.append(best)
        starts.append(start)
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[starts[end] : end])
        end = starts[end]
    return sorted(batches, key=lambda batch: -len(batch) * lengths[batch[0]])


def even_batches(lengths: Sequence[int], budget: int, *, workers: int) -> list[list[int]]:
    """Return positions in batches that cost about the same where nothing is padded, for ``workers`` to share evenly.

    A text costs its tokens, and half as much again at 256 of them, since each attends to all. No batch has more than
    ``budget`` tokens but one of a single text, and there are no more batches than are worth calling the model for.

    >>> even_batches([200, 150, 100, 50], 4096, workers=2)
    [[0, 3], [1, 2]]
    >>> even_batches([200, 150, 100, 50], 300, workers=1)
    [[0, 3], [1, 2]]
    >>> even_batches([20, 20, 20], 4096, workers=2)
    [[0, 1, 2]]
    """
    tokens = sum(lengths)
    wanted = max(math.ceil(tokens / budget), min(workers, tokens // _WORTH_A_CALL), 1)
    if wanted > workers:
        wanted = math.ceil(wanted / workers) * workers
    batches: list[list[int]] = [[] for _ in range(wanted)]
    filled = [0] * wanted
    least = [(0.0, i) for i in range(wanted)]  # a heap of costs
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[position]
        cost, chosen = heapq.heappop(least)
        if batches[chosen] and filled[chosen] + length > budget:
            heapq.heappush(least, (cost, chosen))
            cost, chosen = 0.0, len(batches)
            batches.append([])
            filled.append(0)
        batches[chosen].append(position)
        filled[chosen] += length
        heapq.heappush(least, (cost + length * (1 + length / 512), chosen))
    return [batch for batch in batches if batch]
