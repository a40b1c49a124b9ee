"""Compute batches in parallel on a CPU, each in one thread: several threads gain little on one small product."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def workers_on(device: torch.device) -> int:
    """Return how many batches :func:`in_threads` computes at once."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def in_threads(compute: Callable[[Batch], Result], batches: Sequence[Batch], device: torch.device) -> Generator[Result]:
    """Yield ``compute`` of each batch, in their order and without gradient.

    On a CPU as many batches run at once as torch may use threads (``torch.set_num_threads``), each in one thread; on
    other devices one after the other. Close the iterator if you leave it early, so that waiting batches are dropped.
    """

    def without_gradient(batch: Batch) -> Result:
        with torch.inference_mode():  # holds for the thread that enters it
            return compute(batch)

    threads = workers_on(device)
    if threads == 1 or len(batches) < 2:
        yield from map(without_gradient, batches)
    else:
        yield from _pool(threads).map(without_gradient, batches)


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return the pool of this many threads, made at the first call and kept."""
    with _lock:
        if threads not in _pools:
            _pools[threads] = _start_pool(threads)
        return _pools[threads]


def _start_pool(threads: int) -> ThreadPoolExecutor:
    """Start threads in each of which torch computes with one thread.

    ``torch.set_num_threads`` holds for the calling thread, but it also sets the number that new threads start with. So
    the pool starts all its threads at once, and the number is set back when they have read it.
    """
    ready = threading.Barrier(threads + 1)

    def use_one_thread() -> None:
        torch.get_num_threads()  # a thread reads the number for new threads at its first call, so call it before
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="code-retrieval")
    for _ in range(threads):
        pool.submit(use_one_thread)
    ready.wait()
    torch.set_num_threads(threads)
    return pool


def _after_fork() -> None:
    """Compute with one thread in a forked process, which has none of the threads of its parent.

    OpenMP does not notice that its threads are gone, and would wait for them.
    """
    global _lock
    _lock = threading.Lock()  # another thread may have held the old one
    _pools.clear()
    torch.set_num_threads(1)


_pools: dict[int, ThreadPoolExecutor] = {}  # by number of threads
_lock = threading.Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
