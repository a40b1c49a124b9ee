"""Choose what computes a model: OpenVINO where it can, else torch."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from llamaindex_code_retrieval._io import (
    default_cache_folder,
    json_hash,
    read_json,
    sha256,
    short_hash,
    write_atomically,
)
from llamaindex_code_retrieval._optional import installed_version
from llamaindex_code_retrieval.models.adapter_base import check_adapter_base
from llamaindex_code_retrieval.models.catalog import EMBEDDED, PRECISIONS, RUNTIMES, Precision, Runtime, known_name
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, ARTIFACTS, CONFIG, QUERY_CONFIG, QUERY_WEIGHTS
from llamaindex_code_retrieval.models.fingerprint import base_metadata, without_token_limits
from llamaindex_code_retrieval.models.graphs.unsupported import UnsupportedModelError
from llamaindex_code_retrieval.models.query_encoder_config import QueryEncoderConfig
from llamaindex_code_retrieval.models.spec import EncoderSpec, check_virtual_tokens
from llamaindex_code_retrieval.models.tokenization import Tokenization

if TYPE_CHECKING:
    from llamaindex_code_retrieval.models.graph_encoder import GraphEncoder
    from llamaindex_code_retrieval.models.graphs.build import EncoderWeights
    from llamaindex_code_retrieval.models.text_encoder import TextEncoder

logger = logging.getLogger(__name__)

NOT_INSTALLED = "OpenVINO, which is not installed and computes faster on a CPU: pip install openvino"
MIN_COSINE = 0.9999
"""Of the vectors of a graph to those of torch, both in fp32."""

Graph = TypeVar("Graph")

_said: set[str] = set()
"""The reasons for torch that were logged."""

PROBES = [
    "read a file line by line",
    "",
    "How do I convert a list of strings to a dictionary in Python?",
    'def add(a, b):\n    """Return the sum."""\n    return a + b\n',
    "func (s *Server) Close() error {\n\ts.mu.Lock()\n\tdefer s.mu.Unlock()\n\treturn s.listener.Close()\n}",
    "public int size() { return items == null ? 0 : items.length; } // number of items",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;",
    "export const debounce = (f, ms) => { let t; return (...a) => { clearTimeout(t); t = setTimeout(f, ms, ...a) } }",
    "template <typename T> T clamp(T x, T lo, T hi) { return x < lo ? lo : hi < x ? hi : x; }\n" * 8,
    "<s> [CLS] a <mask> token </s> [SEP] <pad> b<|endoftext|>",
    "le café naïve ☕ 读取配置文件 \U0001f600",
]


def reason_for_torch(device: str | None, precision: Precision) -> str | None:
    """Return why torch has to compute the vectors whatever the model is, ``None`` if OpenVINO can.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'auto', 'fp32' or 'bf16', got {precision!r}")
    if device not in (None, "cpu"):
        return f"the device {device!r}"
    if importlib.util.find_spec("openvino") is None:
        return NOT_INSTALLED
    if device is None and _has_gpu():
        return "the GPU"
    from llamaindex_code_retrieval.models.graphs.compiled import computes_bf16, is_forked

    if is_forked():
        return "threads in a process that was forked from one that uses OpenVINO"
    if precision == "bf16" and not computes_bf16():
        return "bf16, for which this processor has no instructions"
    return None


def check_runtime(runtime: Runtime, reason: str | None) -> None:
    """Check a chosen runtime against the ``reason`` for torch, if there is one.

    Raises:
        ValueError: an unknown runtime, or "openvino" where torch has to compute.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if runtime == "openvino" and reason is not None:
        raise ValueError(f"runtime 'openvino' cannot use {reason}; leave runtime out, and torch serves")


def graph_or_none(
    load: Callable[[], Graph], *, runtime: Runtime, reason: str | None, name: str, computed: str
) -> Graph | None:
    """Return the graph that ``load`` returns, or ``None`` where torch computes what is named by ``computed``.

    ``reason`` is why torch has to, if it has to. What a user may want to change is logged once.

    Raises:
        ValueError: a model ``name`` that ``runtime="openvino"`` cannot express.
    """
    if runtime == "torch" or reason is not None:
        if runtime == "auto" and reason == NOT_INSTALLED:
            _say_once(f"torch computes the {computed}, because of {reason}")
        return None
    try:
        return load()
    except UnsupportedModelError as error:
        if runtime == "openvino":
            raise ValueError(
                f"runtime 'openvino' cannot express {error}; leave runtime out, and torch serves"
            ) from error
        _say_once(f"torch computes the {computed} of {name}, because OpenVINO cannot express {error}")
    return None


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.info(message)


def load_graph_encoder(
    folder: Path,
    spec: EncoderSpec,
    *,
    name: str,
    adapter: Path | None,
    precision: Precision,
    load_torch: Callable[[], TextEncoder],
) -> GraphEncoder:
    """Return the encoder of a base and an adapter as an OpenVINO graph.

    A graph of files that do not come with this package is compared once with the encoder in fp32 that ``load_torch``
    returns; the result is kept in the cache folder.

    Raises:
        UnsupportedModelError: a graph cannot express the model, or its vectors differ from torch's.
        ValueError: damaged files, or an adapter of another base.
    """
    from llamaindex_code_retrieval.models.graphs.build import EncoderWeights

    metadata = base_metadata(folder, spec)
    if adapter is not None:
        _check_adapter(adapter, metadata, spec, name=name)
    weights = EncoderWeights.read(folder, spec)
    if adapter is not None:
        weights = weights.with_adapter(adapter)
        check_virtual_tokens(weights.virtual_tokens, spec)
    in_precision = _encoder_by_precision(folder, spec, weights, metadata=metadata, name=name, adapter=adapter)
    encoder = in_precision(precision=_resolved(precision))
    if not _comes_with_the_package(name, adapter):
        _check_vectors(encoder, in_precision, model=encoder.fingerprint, load_torch=load_torch)
    return encoder


def load_graph_student(
    base: Path,
    spec: EncoderSpec,
    folder: Path,
    config: QueryEncoderConfig,
    *,
    name: str,
    precision: Precision,
    load_torch: Callable[[], TextEncoder],
) -> GraphEncoder:
    """Return the query encoder in ``folder``, a student of the base that has a backbone, as an OpenVINO graph.

    ``load_torch`` returns the student in fp32, not quantized; see :func:`load_graph_encoder`.
    """
    from llamaindex_code_retrieval.models.graphs.students import read_student

    metadata = base_metadata(base, spec)
    adapter = folder if (folder / ADAPTER_CONFIG).is_file() else None
    if adapter is not None:
        _check_adapter(adapter, metadata, spec, name=name)
    weights = read_student(base, spec, folder, config)
    in_precision = _encoder_by_precision(base, spec, weights, metadata=metadata, name=name, adapter=adapter)
    encoder = in_precision(precision=_resolved(precision))
    if not _comes_with_the_package(name, folder):
        files = [folder / file for file in (QUERY_CONFIG, QUERY_WEIGHTS, CONFIG) if (folder / file).is_file()]
        model = short_hash([encoder.fingerprint, *map(sha256, files)])
        _check_vectors(encoder, in_precision, model=model, load_torch=load_torch)
    encoder.max_query_tokens = config.max_tokens
    return encoder


def _check_adapter(adapter: Path, metadata: dict[str, Any], spec: EncoderSpec, *, name: str) -> None:
    base_fingerprint = json_hash(without_token_limits(metadata))
    check_adapter_base(adapter, name=name, fingerprint=base_fingerprint, pooling=spec.pooling)


def _encoder_by_precision(
    folder: Path,
    spec: EncoderSpec,
    weights: EncoderWeights,
    *,
    metadata: dict[str, Any],
    name: str,
    adapter: Path | None,
) -> Callable[..., GraphEncoder]:
    """Return a function from a ``precision`` to the encoder with these weights and the tokenizer in ``folder``."""
    from llamaindex_code_retrieval.models.graph_encoder import GraphEncoder

    try:
        tokenization = Tokenization.read(folder, spec.architecture)
    except FileNotFoundError as error:
        raise UnsupportedModelError("a checkpoint without tokenizer.json") from error
    return partial(GraphEncoder, weights.graph(), tokenization, spec, metadata=metadata, name=name, adapter=adapter)


def _resolved(precision: Precision) -> Literal["fp32", "bf16"]:
    from llamaindex_code_retrieval.models.graphs.compiled import computes_bf16

    return "bf16" if precision == "bf16" or (precision == "auto" and computes_bf16()) else "fp32"


def _check_vectors(
    encoder: GraphEncoder,
    in_precision: Callable[..., GraphEncoder],
    *,
    model: str,
    load_torch: Callable[[], TextEncoder],
) -> None:
    """Compare an encoder in fp32 with torch, once for the hash ``model``.

    Raises:
        UnsupportedModelError: their vectors differ.
    """
    from llamaindex_code_retrieval.models.graphs.build import VERSION

    cosine = recorded(
        f"{model}-{VERSION}",
        "cosine",
        lambda: compare(encoder if encoder.precision == "fp32" else in_precision(precision="fp32"), load_torch()),
    )
    if cosine < MIN_COSINE:
        raise UnsupportedModelError(f"this model, whose graph differs (cosine {cosine:.5f}, at least {MIN_COSINE})")


def compare(graph: TextEncoder, reference: TextEncoder) -> float:
    """Return the smallest cosine between the vectors of two encoders; 0 if they read other tokens."""
    if graph.tokenize(PROBES, side="code") != reference.tokenize(PROBES, side="code"):
        return 0.0
    cosines = (graph.encode_codes(PROBES) * reference.encode_codes(PROBES)).sum(axis=1)
    return float(np.nan_to_num(cosines.min()))


def _comes_with_the_package(name: str, adapter: Path | None) -> bool:
    """Return whether the tests of this package have compared the graph with torch."""
    return known_name(name) == EMBEDDED and (adapter is None or adapter.parent == ARTIFACTS)


def recorded(model: str, name: str, measure: Callable[[], float]) -> float:
    """Return what ``measure`` said of a model's graph under this version of OpenVINO, from the cache folder if it can.

    ``model`` is a hash, ``name`` says what is measured.
    """
    record = default_cache_folder() / "graphs" / f"{model}-{installed_version('openvino')}.json"
    try:
        return float(read_json(record, remedy="", keys=(name,))[name])
    except (OSError, TypeError, ValueError):  # none yet, or a damaged one
        value = measure()
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, json.dumps({name: value}))
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s), so this model is compared with torch each time it is loaded; set "
            "CODE_RETRIEVAL_CACHE to a folder that can be written",
            record.parent,
            error.strerror,
        )
    return value


def _has_gpu() -> bool:
    """Return whether torch can use a GPU; torch is imported only where it was built for one and a driver is there."""
    if "torch" not in sys.modules:
        if installed_version("torch").endswith("+cpu"):
            return False
        try:
            ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        except OSError:
            return False
    import torch

    return torch.cuda.is_available()
