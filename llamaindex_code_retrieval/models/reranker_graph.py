"""Load a cross-encoder of this package as an OpenVINO graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llamaindex_code_retrieval._io import json_hash, short_hash
from llamaindex_code_retrieval.models.adapter_base import check_adapter_base
from llamaindex_code_retrieval.models.catalog import EMBEDDED, Precision, known_name
from llamaindex_code_retrieval.models.files import ARTIFACTS, HEAD_WEIGHTS
from llamaindex_code_retrieval.models.fingerprint import adapter_metadata, base_metadata, without_token_limits
from llamaindex_code_retrieval.models.graph_scorer import GraphScorer, PairGraph
from llamaindex_code_retrieval.models.graphs.build import VERSION, EncoderWeights
from llamaindex_code_retrieval.models.graphs.compiled import computes_bf16
from llamaindex_code_retrieval.models.graphs.pairs import first_token_graph, head_shapes, interaction_graph
from llamaindex_code_retrieval.models.graphs.post_norm import parameters
from llamaindex_code_retrieval.models.graphs.unsupported import UnsupportedModelError
from llamaindex_code_retrieval.models.locate import locate
from llamaindex_code_retrieval.models.pair_scorer import PairScorer
from llamaindex_code_retrieval.models.reranker_base import CrossEncoderFiles
from llamaindex_code_retrieval.models.runtime import PROBES, recorded
from llamaindex_code_retrieval.models.spec import EncoderSpec, read_spec
from llamaindex_code_retrieval.models.text_encoder import TextEncoder
from llamaindex_code_retrieval.models.tokenization import Tokenization
from llamaindex_code_retrieval.models.weights import Array, check_weights, read_arrays

MAX_DIFFERENCE = 1e-3
"""Of the log-odds of a graph from those of torch, both in fp32; relative where they are over 1."""

_REMEDY = "train the reranker again"


def load_cross_encoder_graph(
    files: CrossEncoderFiles,
    *,
    encoder: TextEncoder | None,
    precision: Precision,
    load_torch: Callable[[], PairScorer],
) -> GraphScorer:
    """Return a cross-encoder of this package as a graph, its adapter merged.

    With ``encoder`` it has the base and the precision of that encoder. It holds weights of its own all the same, which
    are read from the files of the base. A model that does not come with this package is compared with torch, see
    :func:`compiled`.

    Raises:
        UnsupportedModelError: a graph cannot express the model, or its log-odds differ from torch's.
        ValueError: damaged files; a base or a precision that is not the one of ``encoder``.
    """
    files.check_complete()
    if encoder is not None:
        files.check_precision(precision, encoder)
        files.check_base(encoder)
        precision = encoder.precision
    name = str(files.base) if encoder is None else encoder.name
    folder = locate(name)
    spec = read_spec(folder, name=name) if encoder is None else encoder.spec
    metadata = base_metadata(folder, spec) if encoder is None else encoder.metadata
    _check_base(files, name, spec, metadata)
    pair_graph = _read(files, folder, spec, metadata)
    if known_name(name) == EMBEDDED and files.folder.parent == ARTIFACTS:  # the tests have compared it
        return GraphScorer(pair_graph, _resolved(precision))
    return compiled(pair_graph, precision=precision, load_torch=load_torch)


def compiled(pair_graph: PairGraph, *, precision: Precision, load_torch: Callable[[], PairScorer]) -> GraphScorer:
    """Return a graph that was compared once with the model in fp32 that ``load_torch`` returns.

    The result is kept in the cache folder.

    Raises:
        UnsupportedModelError: their log-odds differ.
    """
    chosen = _resolved(precision)
    scorer = GraphScorer(pair_graph, chosen)
    difference = recorded(
        f"{short_hash([pair_graph.fingerprint, pair_graph.tokenizer.to_str()])}-{VERSION}",
        "difference",
        lambda: largest_difference(scorer if chosen == "fp32" else GraphScorer(pair_graph, "fp32"), load_torch()),
    )
    if difference > MAX_DIFFERENCE:
        raise UnsupportedModelError(
            f"this model, whose graph differs (log-odds by {difference:.2g}, at most {MAX_DIFFERENCE})"
        )
    return scorer


def largest_difference(graph: PairScorer, reference: PairScorer) -> float:
    """Return the largest difference of the log-odds of two models, relative where they are over 1.

    It is infinite if they leave different room to the texts of a pair, or if log-odds are not finite.
    """
    if any(graph.room(limit) != reference.room(limit) for limit in (128, 2**20)):
        return float("inf")
    differences = []
    for query in PROBES[:3]:
        found, expected = (
            np.array(model.log_odds_of(query, PROBES, max_tokens=128, token_budget=2048))
            for model in (graph, reference)
        )
        with np.errstate(invalid="ignore"):  # of infinite log-odds
            differences.append(np.abs(found - expected) / np.maximum(1, np.abs(expected)))
    return float(np.nan_to_num(np.array(differences), nan=np.inf).max())


def _resolved(precision: Precision) -> Any:
    return precision if precision != "auto" else "bf16" if computes_bf16() else "fp32"


def _check_base(files: CrossEncoderFiles, name: str, spec: EncoderSpec, metadata: dict[str, Any]) -> None:
    fingerprint = json_hash(without_token_limits(metadata))
    files.check_own_base(name, fingerprint)
    if not files.has_own_weights:
        check_adapter_base(files.folder, name=name, fingerprint=fingerprint, pooling=spec.pooling)


def _read(files: CrossEncoderFiles, folder: Path, spec: EncoderSpec, metadata: dict[str, Any]) -> PairGraph:
    """Return the graph of a cross-encoder on the base in ``folder``."""
    try:
        tokenization = Tokenization.read(folder, spec.architecture)
    except FileNotFoundError as error:
        raise UnsupportedModelError("a checkpoint without tokenizer.json") from error
    adapter = None if files.has_own_weights else files.folder
    weights = EncoderWeights.read(folder, spec)
    if adapter is not None:
        weights = weights.with_adapter(adapter)
    head = read_arrays(files.folder / HEAD_WEIGHTS, remedy=_REMEDY)
    expected = head_shapes(files.config.head, weights.width)
    check_weights(head, expected, source=files.folder / HEAD_WEIGHTS, remedy=_REMEDY)
    head = {name: array.astype(np.float32) for name, array in head.items()}
    if files.config.head == "interaction":
        model = interaction_graph(weights, head)
    else:
        model = first_token_graph(weights, parameters(head, "dense"), parameters(head, "out"))
    limit = files.config.max_tokens
    return PairGraph(
        model,
        tokenization.tokenizer,
        tokenization.pair_layout(),
        max_tokens=limit if spec.positions is None else min(limit, spec.positions),
        positions=spec.positions,
        calibration=files.config.calibration,
        fingerprint=_fingerprint(metadata, adapter, head),
    )


def _fingerprint(metadata: dict[str, Any], adapter: Path | None, head: Mapping[str, Array]) -> str:
    """Return what :attr:`CrossEncoder.fingerprint` is."""
    encoder = json_hash(metadata if adapter is None else metadata | {"adapter": adapter_metadata(adapter)})
    return short_hash([encoder, *(name.encode() + tensor.tobytes() for name, tensor in sorted(head.items()))])
