"""Group texts of unequal length into batches within a token budget."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence

_MIN_BATCH_TOKENS = 128
"""Smaller batches spend too much of their time on the call of the model itself."""


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield batches of positions, longest text first; the padded tokens of each stay within ``budget``.

    A text that is longer than the budget is a batch of its own.

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
    """Return the token budget of a batch, at most ``limit``, that keeps all ``workers`` busy with ``tokens`` in total.

    It makes 1.5 batches for each worker. With one, the workers wait for the longest batch; with two, the additional
    calls of the model take longer than the waiting.
    """
    return limit if workers == 1 else min(limit, max(_MIN_BATCH_TOKENS, 2 * tokens // (3 * workers)))


def inference_batches(lengths: Sequence[int], budget: int, *, workers: int, packed: bool) -> list[list[int]]:
    """Return the batches of an encoder: even ones without padding if ``packed``, else padded ones by length."""
    if packed:
        return even_batches(lengths, budget, workers=workers)
    return list(token_budget_batches(lengths, batch_budget(budget, sum(lengths), workers=workers)))


def tight_batches(lengths: Sequence[int], budget: int, *, overhead: int) -> list[list[int]]:
    """Return batches of positions with the lowest total cost; the padded tokens of each stay within ``budget``.

    A batch costs its padded tokens plus ``overhead``, the cost of one call of the model in tokens. So texts of unequal
    length share a batch only if their padding costs less than another call. The most expensive batch comes first, so
    that batches that run in parallel (``in_threads``) end at about the same time.

    >>> tight_batches([30, 9, 29, 8], 100, overhead=10)
    [[0, 2], [1, 3]]
    >>> tight_batches([30, 20, 20], 100, overhead=5)
    [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    cheapest, starts = [0.0], [0]  # for the first i texts of the order: the lowest cost, the start of the last batch
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
    """Return batches of positions of about equal cost without padding, a multiple of ``workers`` if they are many.

    A text of n tokens costs n + n² / 512, because attention is quadratic. A batch has at most ``budget`` tokens, unless
    it is a single text, and at least 128 on average.

    >>> even_batches([200, 150, 100, 50], 4096, workers=2)
    [[0, 3], [1, 2]]
    >>> even_batches([200, 150, 100, 50], 300, workers=1)
    [[0, 3], [1, 2]]
    >>> even_batches([20, 20, 20], 4096, workers=2)
    [[0, 1, 2]]
    """
    tokens = sum(lengths)
    count = max(math.ceil(tokens / budget), min(workers, tokens // _MIN_BATCH_TOKENS), 1)
    if count > workers:
        count = math.ceil(count / workers) * workers
    batches: list[list[int]] = [[] for _ in range(count)]
    sizes = [0] * count
    cheapest = [(0.0, i) for i in range(count)]  # a heap of (cost, batch)
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[position]
        cost, chosen = heapq.heappop(cheapest)
        if batches[chosen] and sizes[chosen] + length > budget:
            heapq.heappush(cheapest, (cost, chosen))
            cost, chosen = 0.0, len(batches)
            batches.append([])
            sizes.append(0)
        batches[chosen].append(position)
        sizes[chosen] += length
        heapq.heappush(cheapest, (cost + length * (1 + length / 512), chosen))
    return [batch for batch in batches if batch]
