"""How much a processor can compute at most, and how much of it a BERT-like encoder needs: the roofline of a benchmark.

The limit is measured: all matrix products of the encoder's layers, one after the other with nothing between them, in
torch and in OpenVINO, whichever is faster.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PRECISIONS = ("fp32", "bf16", "int8")
_ROWS = (512, 1024, 2048)
"""Numbers of tokens that are tried; the fastest is the limit."""
_LEAST_SECONDS = 0.5  # of one measurement

Shape = tuple[int, int]
"""Width of the input and of the output of a matrix product."""


def layer_shapes(config: Mapping[str, int]) -> list[Shape]:
    """Return the matrix products of all layers: query, key, value and output of the attention, and the feed-forward.

    >>> layer_shapes({"hidden_size": 2, "intermediate_size": 8, "num_hidden_layers": 1})
    [(2, 2), (2, 2), (2, 2), (2, 2), (2, 8), (8, 2)]
    """
    width, inner = config["hidden_size"], config["intermediate_size"]
    return [*[(width, width)] * 4, (width, inner), (inner, width)] * config["num_hidden_layers"]


def flop_of(config: Mapping[str, int], lengths: Iterable[int]) -> int:
    """Return the floating-point operations for texts of these numbers of tokens, without padding.

    Counted are the products of :func:`layer_shapes` and, in each layer, those of the attention: the scores and the
    weighted sum of a text of n tokens take 4 n² times the width.

    >>> flop_of({"hidden_size": 2, "intermediate_size": 8, "num_hidden_layers": 1}, [3])
    360
    """
    dense = 2 * sum(rows * columns for rows, columns in layer_shapes(config))
    attention = 4 * config["hidden_size"] * config["num_hidden_layers"]
    return sum(dense * length + attention * length**2 for length in lengths)


def read_config(folder: Path) -> dict[str, int]:
    """Return the sizes of the encoder in a folder."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {name: config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}


@dataclass(frozen=True, slots=True)
class Chain:
    """A way to compute a chain of matrix products."""

    name: str
    flop: int
    """Of one call."""
    compute: Callable[[], object]

    def flop_per_second(self) -> float:
        """Return the operations a second of the fastest call within half a second."""
        self.compute()  # warm-up
        fastest, start = float("inf"), time.perf_counter()
        while time.perf_counter() - start < _LEAST_SECONDS:
            before = time.perf_counter()
            self.compute()
            fastest = min(fastest, time.perf_counter() - before)
        return self.flop / fastest


def limits(shapes: Sequence[Shape], *, rows: Sequence[int] = _ROWS) -> dict[str, Chain]:
    """Return the fastest chain of each precision that this processor computes."""
    fastest: dict[str, Chain] = {}
    for precision in PRECISIONS:
        chains = [chain for count in rows for chain in _chains(shapes, precision, count)]
        if chains:
            fastest[precision] = max(chains, key=Chain.flop_per_second)
    return fastest


def _chains(shapes: Sequence[Shape], precision: str, rows: int) -> Iterator[Chain]:
    flop = 2 * rows * sum(inputs * outputs for inputs, outputs in shapes)
    compute = torch_chain(shapes, precision, rows)
    if compute is not None:
        yield Chain(f"torch, {rows} rows", flop, compute)
    for hint in ("LATENCY", "THROUGHPUT"):
        requests = openvino_requests(shapes, precision, rows, hint=hint)
        if requests:
            yield Chain(f"OpenVINO, {rows} rows at once × {len(requests)}", len(requests) * flop, _all_of(requests))


def torch_chain(shapes: Sequence[Shape], precision: str, rows: int) -> Callable[[], object] | None:
    """Return the chain in torch, or ``None`` for int8, and for bf16 that the processor has no instructions for."""
    import torch

    from llamaindex_code_retrieval.models.device import resolve_precision

    native = resolve_precision("auto", torch.device("cpu"))
    if precision == "int8" or (precision == "bf16" and native != "bf16"):
        return None
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    weights = [torch.randn(outputs, inputs).div_(inputs**0.5).to(dtype) for inputs, outputs in shapes]
    states = torch.randn(rows, shapes[0][0]).to(dtype)

    def compute() -> None:
        with torch.inference_mode():
            x = states
            for weight in weights:
                x = torch.nn.functional.linear(x, weight)

    return compute


def openvino_requests(shapes: Sequence[Shape], precision: str, rows: int, *, hint: str) -> list[Any]:
    """Return a request for each stream of OpenVINO; none if it is not installed or has no such precision here.

    ``LATENCY`` makes one stream with all threads, ``THROUGHPUT`` several with few threads each.
    """
    if importlib.util.find_spec("openvino") is None:
        return []
    import openvino
    import torch

    core = openvino.Core()
    capability = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8"}[precision]
    if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return []
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = core.compile_model(_model(shapes, rows, int8=precision == "int8"), "CPU", settings)
    states = np.random.default_rng(0).normal(size=(rows, shapes[0][0])).astype(np.float32)
    requests = [compiled.create_infer_request() for _ in range(compiled.get_property("NUM_STREAMS"))]
    for request in requests:
        request.set_input_tensor(openvino.Tensor(states.copy()))
    return requests


def _all_of(requests: Sequence[Any]) -> Callable[[], None]:
    def compute() -> None:
        for request in requests:
            request.start_async()
        for request in requests:
            request.wait()

    return compute


def _model(shapes: Sequence[Shape], rows: int, *, int8: bool) -> Any:
    """Return the chain as a model; with ``int8`` inputs and weights of each product are quantized."""
    from openvino import Model, Type, opset13

    draw = np.random.default_rng(0)
    x = data = opset13.parameter([rows, shapes[0][0]], Type.f32)
    low, high = (opset13.constant(np.float32(value)) for value in (-4.0, 4.0))
    for inputs, outputs in shapes:
        weights = draw.normal(size=(inputs, outputs)).astype(np.float32) / inputs**0.5
        if int8:
            x = opset13.fake_quantize(x, low, high, low, high, 256)
            scale = np.abs(weights).max(axis=0, keepdims=True) / 127
            whole = opset13.convert(opset13.constant(np.rint(weights / scale).astype(np.int8)), Type.f32)
            weight = opset13.multiply(whole, opset13.constant(scale.astype(np.float32)))
        else:
            weight = opset13.constant(weights)
        x = opset13.matmul(x, weight, False, False)
    return Model([x], [data], "chain")
