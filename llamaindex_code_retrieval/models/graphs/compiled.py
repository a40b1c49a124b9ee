"""``CompiledGraph``: run a graph on a CPU, several batches at once."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray

Batch = Mapping[str, NDArray[np.int32]]
"""The inputs of a graph by their names."""

_HINTS = {"fp32": "f32", "bf16": "bf16"}


def computes_bf16() -> bool:
    """Return whether this processor has instructions for bf16."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class CompiledGraph:
    """A graph with one output, compiled for the CPU; several threads may run it at the same time.

    As many batches are computed at once as OpenVINO makes streams, one for each core or two; ``OMP_NUM_THREADS`` limits
    the threads as it does in torch.
    """

    def __init__(self, model: ov.Model, precision: Literal["fp32", "bf16"]) -> None:
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
        }
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdecimal() and int(threads) > 0:
            settings["INFERENCE_NUM_THREADS"] = int(threads)
        compiled = _core().compile_model(model, "CPU", settings)
        self.streams: int = compiled.get_property("NUM_STREAMS")
        self._idle: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._idle.put(compiled.create_infer_request())
        self._pool = ThreadPoolExecutor(self.streams, thread_name_prefix="code-retrieval-graph")

    def run(self, batches: Iterable[Batch]) -> Generator[NDArray[np.float32]]:
        """Yield the output of each batch, in their order.

        Raises:
            RuntimeError: the process was forked from one that has used OpenVINO.
        """
        if is_forked():  # it would wait for ever
            raise RuntimeError(
                "this process was forked from one that embeds with OpenVINO, whose threads it lacks; start processes "
                "with multiprocessing.get_context('spawn'), or use runtime='torch'"
            )
        batches = list(batches)
        if len(batches) < 2 or self.streams == 1:
            yield from map(self._infer, batches)
        else:
            yield from self._pool.map(self._infer, batches)

    def _infer(self, batch: Batch) -> NDArray[np.float32]:
        request = self._idle.get()
        try:
            request.infer(dict(batch), share_inputs=True)
            output: NDArray[np.float32] = np.array(request.get_output_tensor(0).data, dtype=np.float32)
            return output
        finally:
            self._idle.put(request)


def is_forked() -> bool:
    """Return whether this process was forked from one that has used OpenVINO, whose threads did not come along."""
    return _process not in (None, os.getpid())


def _core() -> ov.Core:
    global _core_of_process, _process
    with _lock:
        if _core_of_process is None:
            _core_of_process, _process = ov.Core(), os.getpid()
        return _core_of_process


_core_of_process: ov.Core | None = None
_process: int | None = None
_lock = threading.Lock()
