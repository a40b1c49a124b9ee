"""Load a reranker, by OpenVINO where it can and else by torch, and score pairs of query and code with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.catalog import Runtime
from llamaindex_code_retrieval.models.files import RERANKER_CONFIG
from llamaindex_code_retrieval.models.locate import locate_reranker
from llamaindex_code_retrieval.models.pair_scorer import PairScorer
from llamaindex_code_retrieval.models.reranker_base import CrossEncoderFiles
from llamaindex_code_retrieval.models.reranker_config import PRECISIONS, RerankerConfig, RerankPrecision
from llamaindex_code_retrieval.models.runtime import check_runtime, graph_or_none, reason_for_torch
from llamaindex_code_retrieval.models.text_encoder import TextEncoder

if TYPE_CHECKING:  # torch is slow to import, and OpenVINO may be missing
    from llamaindex_code_retrieval.models.encoder import Encoder
    from llamaindex_code_retrieval.models.graph_scorer import GraphScorer


def score_pairs(
    scorer: PairScorer, query: str, codes: Sequence[str], *, max_tokens: int, token_budget: int = 4096
) -> list[float]:
    """Return the log-odds of each code, in the order given; equal codes have equal log-odds.

    Raises:
        FloatingPointError: they are not finite.
    """
    distinct = list(dict.fromkeys(codes))  # equal codes in unequal batches would tie only up to rounding
    if not distinct:
        return []
    values = scorer.log_odds_of(query, distinct, max_tokens=max_tokens, token_budget=token_budget)
    if not all(map(math.isfinite, values)):
        raise FloatingPointError("gives logits that are not finite numbers")
    by_code = dict(zip(distinct, values, strict=True))
    return [by_code[code] for code in codes]


def shares_base(name: str | Path, encoder: TextEncoder, *, precision: RerankPrecision = "auto") -> bool:
    """Return whether a reranker can be on the base of ``encoder`` in this precision.

    It can if this package trained it on the same base, and if the encoder is in the precision; int8 copies the weights
    that it quantizes.
    """
    if precision not in ("auto", "int8", encoder.precision):
        return False
    folder = locate_reranker(name)
    if not (folder / RERANKER_CONFIG).is_file():
        return False
    return RerankerConfig.read(folder).base_fingerprint == encoder.base_fingerprint


def calibration_of(name: str | Path) -> Calibration:
    """Return a reranker's calibration without loading its weights; a checkpoint has the identity."""
    folder = locate_reranker(name)
    return RerankerConfig.read(folder).calibration if (folder / RERANKER_CONFIG).is_file() else Calibration()


def load_scorer(
    name: str,
    *,
    encoder: TextEncoder | None = None,
    device: str | None = None,
    precision: RerankPrecision = "auto",
    merge_adapter: bool = False,
    runtime: Runtime = "auto",
) -> PairScorer:
    """Load a reranker of this package, on the base of ``encoder`` if given, or a Hugging Face checkpoint.

    ``runtime`` "auto" is the runtime of ``encoder``; without one it is OpenVINO on a CPU, if it can express the model,
    and else torch. OpenVINO merges adapters whatever ``merge_adapter`` is. Torch shares the weights of an ``encoder``
    that torch computes; graphs share nothing.

    Raises:
        ValueError: an option that has no effect for this reranker, or that contradicts ``encoder``; a runtime
            "openvino" that cannot compute it; see :meth:`CrossEncoder.load` and :class:`CheckpointScorer`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    reason = _reason_for_torch(encoder, device, precision)
    check_runtime(runtime, reason)
    folder = locate_reranker(name)
    files = CrossEncoderFiles.read(folder) if (folder / RERANKER_CONFIG).is_file() else None
    if files is None:
        _check_options_of_checkpoint(name, encoder, merge_adapter=merge_adapter)
    elif merge_adapter and files.has_own_weights:
        raise ValueError(f"{name} is a whole model without an adapter, so merge_adapter has no effect; leave it out")
    graph = graph_or_none(
        lambda: _load_graph(name, folder, files, encoder, precision),
        runtime=runtime,
        reason=reason,
        name=name,
        computed="scores",
    )
    if graph is not None:
        return graph
    return _load_torch(name, folder, files, encoder, device=device, precision=precision, merge_adapter=merge_adapter)


def _reason_for_torch(encoder: TextEncoder | None, device: str | None, precision: RerankPrecision) -> str | None:
    """Return why torch has to score whatever the reranker is, ``None`` if OpenVINO can."""
    if precision == "int8":
        return "int8"
    if encoder is not None and encoder.runtime == "torch":
        return "the weights of an embedding that torch computes"
    return reason_for_torch(device, precision if encoder is None else encoder.precision)


def _check_options_of_checkpoint(name: str, encoder: TextEncoder | None, *, merge_adapter: bool) -> None:
    if merge_adapter:
        raise ValueError(
            f"{name} is a Hugging Face checkpoint without an adapter, so merge_adapter has no effect; leave it out"
        )
    if encoder is not None:
        raise ValueError(f"{name} is a Hugging Face checkpoint and has a base of its own; leave the embedding out")


def _load_graph(
    name: str, folder: Path, files: CrossEncoderFiles | None, encoder: TextEncoder | None, precision: RerankPrecision
) -> GraphScorer:
    from llamaindex_code_retrieval.models.checkpoint_graph import load_checkpoint_graph
    from llamaindex_code_retrieval.models.reranker_graph import load_cross_encoder_graph

    assert precision != "int8"  # which torch computes
    reference = partial(
        _load_torch, name, folder, files, None, device="cpu", precision="fp32", merge_adapter=files is not None
    )
    if files is None:
        return load_checkpoint_graph(folder, precision=precision, load_torch=reference)
    return load_cross_encoder_graph(files, encoder=encoder, precision=precision, load_torch=reference)


def _load_torch(
    name: str,
    folder: Path,
    files: CrossEncoderFiles | None,
    encoder: TextEncoder | None,
    *,
    device: str | None,
    precision: RerankPrecision,
    merge_adapter: bool,
) -> PairScorer:
    import torch

    from llamaindex_code_retrieval.models.checkpoint_scorer import CheckpointScorer
    from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
    from llamaindex_code_retrieval.models.device import resolve_device
    from llamaindex_code_retrieval.models.encoder import Encoder

    chosen_device = torch.empty(0, device=resolve_device(device)).device  # with its number: "cuda" is "cuda:0"
    base_device = encoder.device if isinstance(encoder, Encoder) else torch.device("cpu")
    if precision == "int8" and (chosen_device if encoder is None else base_device).type != "cpu":
        raise ValueError("precision 'int8' is for CPUs; use 'bf16' on this device")
    if encoder is not None and device is not None and chosen_device != base_device:
        raise ValueError(
            f"the embedding is on {base_device}, so a reranker on its base cannot be on {device!r}; "
            "leave device out, or leave the embedding out"
        )
    if files is None:
        return CheckpointScorer(name, folder, device=device, precision=precision)
    if encoder is not None:
        files.check_precision(precision, encoder)
        files.check_base(encoder)
    return CrossEncoder.load(
        folder,
        encoder=None if encoder is None else _torch_encoder(encoder),
        device=device,
        precision=precision,
        merge_adapter=merge_adapter,
    )


def _torch_encoder(encoder: TextEncoder) -> Encoder:
    """Return ``encoder`` if torch computes it, else the same base in torch."""
    from llamaindex_code_retrieval.models.encoder import Encoder

    if isinstance(encoder, Encoder):
        return encoder
    return Encoder.from_pretrained(
        encoder.name,
        device="cpu",
        precision=encoder.precision,
        pooling=encoder.pooling,
        max_query_tokens=encoder.max_query_tokens,
        max_code_tokens=encoder.max_code_tokens,
    )
