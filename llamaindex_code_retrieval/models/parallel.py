"""``in_threads``: batches side by side on a CPU, whose threads share the small products of one batch badly."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def workers_on(device: torch.device) -> int:
    """Return how many batches :func:`in_threads` computes at once."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def in_threads(compute: Callable[[Batch], Result], batches: Sequence[Batch], device: torch.device) -> Generator[Result]:
    """Yield ``compute`` of each batch, in their order and without gradient.

    On a CPU as many are computed at once as torch may use threads (``torch.set_num_threads``), each by one thread; on
    another device one after the other. Close the iterator if it is left early: what has not begun is then dropped.
    """

    def without_gradient(batch: Batch) -> Result:
        with torch.inference_mode():  # holds for the thread that enters it
            return compute(batch)

    threads = workers_on(device)
    if threads == 1 or len(batches) < 2:
        yield from map(without_gradient, batches)
    else:
        yield from _workers(threads).map(without_gradient, batches)


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """Return threads in each of which torch computes by itself.

    They are kept: ``torch.set_num_threads`` holds for the thread that calls it, but it is also what threads yet to come
    begin with, so it is set back at once, and not called again.
    """
    ready = threading.Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()  # a thread takes what is set for all when it first asks, so that comes before
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="code-retrieval")
    for _ in range(threads):
        pool.submit(alone)
    ready.wait()
    torch.set_num_threads(threads)
    return pool


if hasattr(os, "register_at_fork"):  # a forked process has none of these threads
    os.register_at_fork(after_in_child=_workers.cache_clear)
