"""Parallel batches: results of a sequential run, and no change of torch's settings for other threads."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from torch import Tensor

from llamaindex_code_retrieval.models.parallel import in_threads, workers_on

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_results_equal_sequential_ones_and_have_no_gradient() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    batches = [torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows)) for rows in range(1, 30)]

    def compute(batch: Tensor) -> Tensor:
        time.sleep(0.01 if len(batch) % 7 == 0 else 0)  # some are late
        return batch @ weight

    found = list(in_threads(compute, batches, CPU))

    torch.set_num_threads(1)
    alone = list(in_threads(compute, batches, CPU))
    assert [len(rows) for rows in found] == list(range(1, 30))
    assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
    assert not any(rows.requires_grad for rows in [*found, *alone])


@pytest.mark.usefixtures("two_threads")
def test_two_batches_run_at_once_in_one_thread_each_and_other_threads_keep_their_setting() -> None:
    together = threading.Barrier(2, timeout=30)  # breaks if they come one after the other

    def compute(_: int) -> int:
        together.wait()
        return torch.get_num_threads()

    assert list(in_threads(compute, range(8), CPU)) == [1] * 8

    seen: list[int] = []
    new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert (torch.get_num_threads(), seen) == (2, [2])


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("device", "batches"), [("cpu", 1), ("cpu", 0), ("meta", 5)])
def test_the_caller_computes_a_single_batch_and_other_devices(device: str, batches: int) -> None:
    names = list(in_threads(lambda _: threading.current_thread().name, range(batches), torch.device(device)))
    assert names == [threading.current_thread().name] * batches


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("stop", ["error", "close"])
def test_waiting_batches_are_dropped_on_an_error_and_on_close(stop: str) -> None:
    begun: list[int] = []
    stopped = threading.Event()

    def compute(batch: int) -> int:
        begun.append(batch)
        if batch > 0:
            stopped.wait(timeout=30)
        elif stop == "error":
            raise FloatingPointError("batch 0")
        return batch

    with closing(in_threads(compute, range(100), CPU)) as results:
        if stop == "error":
            with pytest.raises(FloatingPointError, match="batch 0"):
                list(results)
        else:
            assert next(results) == 0
    stopped.set()
    list(in_threads(lambda _: None, range(2), CPU))  # these come after all that still waits
    assert set(begun) <= {0, 1, 2}  # each of two workers began one more at most


@pytest.mark.usefixtures("two_threads")
def test_as_many_workers_as_torch_has_threads_on_a_cpu_and_one_elsewhere() -> None:
    assert workers_on(CPU) == 2
    assert workers_on(torch.device("meta")) == 1


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("threads", [3, 4, 5])  # no other test uses so many, so this is their first use
def test_callers_that_race_for_the_first_use_share_one_pool(threads: int) -> None:
    torch.set_num_threads(threads)
    callers = 8
    start = threading.Barrier(callers, timeout=30)
    workers: set[threading.Thread] = set()

    def call() -> None:
        torch.get_num_threads()  # a new thread reads its number here, so not while the pool starts
        torch.set_num_threads(threads)
        start.wait()
        workers.update(in_threads(lambda _: threading.current_thread(), range(20), CPU))

    racing = [threading.Thread(target=call) for _ in range(callers)]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()
    assert len(workers) <= threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_computes_in_one_thread() -> None:
    """OpenMP would wait for its threads, which the parent has started and the child does not have."""
    program = """
        import os, signal, torch
        from llamaindex_code_retrieval.models.parallel import in_threads
        torch.set_num_threads(2)
        large = torch.ones(1 << 20)
        total = lambda batch: int((batch * large).sum())
        batches, totals = [1, 2, 3], [1 << 20, 2 << 20, 3 << 20]
        assert list(map(total, batches)) == list(in_threads(total, batches, torch.device("cpu"))) == totals
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends a child that waits forever
            assert list(in_threads(total, batches, torch.device("cpu"))) == totals
            os._exit(0 if torch.get_num_threads() == 1 else 1)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)
