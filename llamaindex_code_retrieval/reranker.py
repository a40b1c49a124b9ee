"""``CodeReranker``: a cross-encoder as a LlamaIndex node postprocessor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # its documented place
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from llamaindex_code_retrieval._io import check_is_list
from llamaindex_code_retrieval._settings import PlainErrors
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.calibration import EXIT_CHUNK, Calibration, probability, settled
from llamaindex_code_retrieval.models.catalog import DEFAULT_RERANKER, Runtime
from llamaindex_code_retrieval.models.pair_scorer import PairScorer
from llamaindex_code_retrieval.models.reranker_config import RerankPrecision
from llamaindex_code_retrieval.models.scoring import calibration_of, load_scorer, score_pairs
from llamaindex_code_retrieval.models.text_encoder import TextEncoder

dispatcher = get_dispatcher(__name__)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reranked:
    """The best hits and the number of pairs that were scored."""

    hits: list[NodeWithScore]
    scored: int


def are_parts_of_files(hits: Sequence[NodeWithScore]) -> bool:
    """Return whether all hits are parts of files: nodes with a ``path`` and a ``kind``, as ``CodeNodeParser`` makes."""
    return bool(hits) and all({"path", "kind"} <= hit.node.metadata.keys() for hit in hits)


def warn_of_kept_order(model: str) -> None:
    """Log that a reranker keeps the order of the first stage, and how to change that."""
    _logger.warning(
        "%s keeps the order of these hits: they are parts of files, which it ranks worse than the first stage. "
        "To rerank them all the same, set CodeReranker(repository_weight=0.1) or search --rerank-weight 0.1",
        model,
    )


def _encoder_of(embedding: CodeEmbedding) -> TextEncoder:
    if not isinstance(embedding, CodeEmbedding):
        raise TypeError(f"embedding must be a CodeEmbedding, got {type(embedding).__name__}; leave it out")
    return embedding.encoder


class CodeReranker(PlainErrors, BaseNodePostprocessor):
    """Score each hit with a cross-encoder and keep the ``top_n`` best.

    ``model`` is a reranker that comes with the package, a folder that ``code-retrieval train-reranker`` wrote, or a
    Hugging Face sequence-classification checkpoint with one label or two. With ``embedding``, a reranker that this
    package trained on the same base has the embedding's runtime, device and precision. Torch then computes both with
    one copy of the base's weights; OpenVINO compiles a graph of its own for each.

    A score is a probability. :meth:`score` returns the probability that a code answers the query, independent of the
    other codes (to 1e-5 in fp32). The score of a hit also depends on its rank in the first stage, weighted by
    ``rank_weight``: ``None`` is the weight that was best on the calibration's held-out queries, 0 ignores the rank.
    With ``early_exit`` at a confidence such as 0.95, hits are scored ten at a time. Scoring stops as soon as, in that
    share of the calibration's queries, no remaining hit would reach the ``top_n``.

    A reranker that was trained on functions without paths may make the ranking of a repository's files worse. Where all
    hits are parts of files (nodes with ``path`` and ``kind`` in their metadata, as ``CodeNodeParser`` makes them),
    ``repository_weight`` says how much the log-odds count. ``None`` is the calibration's value: 0 for the shipped
    reranker; others have none and rank such hits as any other. With 0 the hits keep their order and scores, nothing is
    scored, and a warning is logged once. With a weight over 0 the hits are ordered by ln(score of the first stage) +
    weight * log-odds or, if a score is not in (0, 1], as other hits (``rank_weight``) with weight times the log-odds;
    the new score is the logistic function of that. With either, ``threshold`` drops the hits whose code has a lower
    probability (:meth:`score`), for which the hits are scored, and ``early_exit`` has no effect.

    Hits are returned as new ``NodeWithScore`` objects around the caller's nodes, best first, equal scores by node id.
    Of several hits with one node id the first is kept. The scored text is the node's content with the metadata meant
    for embedding (``MetadataMode.EMBED``).

    Several threads may use one reranker at the same time; the async methods leave the event loop free. ``to_dict`` and
    ``to_json`` hold all settings but not ``embedding``: a reranker that is built from them, also in another process,
    loads its own base. ``runtime`` belongs to one machine and is left out too; a copy that is sent to another process
    keeps it.
    """

    model_config = ConfigDict(validate_assignment=True)

    model: str = Field(frozen=True, description="A shipped reranker, a folder, or a hub name (org/name[@revision]).")
    top_n: int = Field(ge=1, description="Hits to keep.")
    max_tokens: int = Field(
        ge=1,
        description="Tokens of query and code together, special tokens included; longer codes are cut. "
        "A checkpoint with fewer positions cuts at those.",
    )
    token_budget: int = Field(ge=1, description="Padded tokens in a batch; a batch holds one pair at least.")
    threshold: float | None = Field(ge=0, le=1, description="Drop hits with a lower score, or probability of the code.")
    rank_weight: float | None = Field(ge=0, description="Weight of the first stage's rank; None: the calibration's.")
    repository_weight: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="Weight of the log-odds where all hits are parts of files; 0 keeps their order; None: the "
        "calibration's.",
    )
    early_exit: float | None = Field(gt=0, lt=1, description="Confidence at which to stop; None scores all hits.")
    precision: RerankPrecision = Field(frozen=True, description="Precision of the arithmetic.")
    device: str | None = Field(frozen=True, description="Torch device; None: a GPU if there is one.")
    merge_adapter: bool = Field(frozen=True, description="Merge the adapter into copies of the weights it changes.")
    runtime: Runtime = Field(
        frozen=True,
        exclude=True,
        description="'openvino', 'torch', or 'auto': OpenVINO on a CPU where it can, else torch.",
    )

    _scorer: PairScorer = PrivateAttr()
    _has_warned: bool = PrivateAttr(default=False)

    def __init__(
        self,
        model: str | Path = DEFAULT_RERANKER,
        *,
        embedding: CodeEmbedding | None = None,
        top_n: int = 10,
        max_tokens: int | None = None,
        token_budget: int = 4096,
        threshold: float | None = None,
        rank_weight: float | None = None,
        repository_weight: float | None = None,
        early_exit: float | None = None,
        precision: RerankPrecision = "auto",
        device: str | None = None,
        merge_adapter: bool = False,
        runtime: Runtime = "auto",
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Load the model.

        ``max_tokens`` is by default the limit that a reranker of this package was trained with, and 512 for a
        checkpoint. ``precision`` "auto" is bf16 where the device computes it natively and fp32 elsewhere; "int8"
        quantizes the linear layers on a CPU, in torch, and scores then differ a little from batch to batch. With
        ``embedding``, device and precision are the embedding's, except that int8 is still possible. ``merge_adapter``
        makes a reranker that is an adapter faster in torch, by a fifth or more, and costs copies of weights; OpenVINO
        always merges. ``runtime`` "auto" is the embedding's, or OpenVINO on a CPU, and torch where that cannot serve.

        Raises:
            ValueError: a setting out of range, without effect for this model or in contradiction to ``embedding``; no
                such model, or one that cannot be read; an adapter of another base than the embedding's; ``early_exit``
                with a model or at a confidence that was not calibrated; an unusable device, precision or runtime.
        """
        super().__init__(
            model=str(model),
            top_n=top_n,
            max_tokens=512 if max_tokens is None else max_tokens,
            token_budget=token_budget,
            threshold=threshold,
            rank_weight=rank_weight,
            repository_weight=repository_weight,
            early_exit=early_exit,
            precision=precision,
            device=device,
            merge_adapter=merge_adapter,
            runtime=runtime,
            callback_manager=callback_manager or CallbackManager(),
        )
        encoder = None if embedding is None else _encoder_of(embedding)
        self._ceiling(calibration_of(self.model))  # refuses an uncalibrated confidence before the weights are read
        self._scorer = load_scorer(
            self.model,
            encoder=encoder,
            device=self.device,
            precision=self.precision,
            merge_adapter=self.merge_adapter,
            runtime=self.runtime,
        )
        if max_tokens is None:
            self.max_tokens = self._scorer.max_tokens
        self._check_room(self.max_tokens)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "max_tokens" and isinstance(value, int):
            self._check_room(value)
        super().__setattr__(name, value)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "CodeReranker"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict() | {"runtime": self.runtime},)  # another process loads the model

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> CodeReranker:
        return self.model_copy()  # the model is shared: use does not change it

    @property
    def fingerprint(self) -> str:
        """Hash over weights, tokenizer and head."""
        return self._scorer.fingerprint

    @property
    def calibration(self) -> Calibration:
        """The parameters that turn log-odds into probabilities."""
        return self._scorer.calibration

    def score(self, query: str, codes: Sequence[str]) -> list[float]:
        """Return for each code, in the order given, the probability that it answers ``query``.

        A code is cut to the tokens that the query leaves. A query that leaves none is cut to half of them.

        Raises:
            ValueError: the model returns log-odds that are not finite, so its weights are damaged.
        """
        return [probability(self.calibration.code_log_odds(value)) for value in self.log_odds(query, codes)]

    def log_odds(self, query: str, codes: Sequence[str]) -> list[float]:
        """Return the model's log-odds of each code, before calibration."""
        check_is_list(codes, "codes")
        try:
            return score_pairs(self._scorer, query, codes, max_tokens=self.max_tokens, token_budget=self.token_budget)
        except FloatingPointError as error:
            raise ValueError(f"{self.model} {error}; its weights are damaged, train or fetch it again") from error

    def rerank(self, query: str, hits: Sequence[NodeWithScore]) -> Reranked:
        """Return the ``top_n`` best of ``hits``, which are in the order of the first stage, best first."""
        first_hits: dict[str, NodeWithScore] = {}
        for hit in hits:
            first_hits.setdefault(hit.node_id, hit)
        candidates = list(first_hits.values())
        weight = self.weight_of(candidates)
        return self._rerank(query, candidates) if weight is None else self._rerank_parts(query, candidates, weight)

    def weight_of(self, hits: Sequence[NodeWithScore]) -> float | None:
        """Return the ``repository_weight`` that holds for ``hits``, ``None`` if they are ranked without one."""
        weight = self.calibration.repository_weight if self.repository_weight is None else self.repository_weight
        return weight if weight is not None and are_parts_of_files(hits) else None

    def _rerank(self, query: str, candidates: Sequence[NodeWithScore]) -> Reranked:
        ceiling = self._ceiling(self.calibration)
        size = len(candidates) if ceiling is None else EXIT_CHUNK
        log_odds: list[float] = []
        while len(log_odds) < len(candidates):
            chunk = candidates[len(log_odds) : len(log_odds) + size]
            texts = [hit.get_content(MetadataMode.EMBED) for hit in chunk]
            log_odds.extend(
                self.calibration.hit_log_odds(value, rank, rank_weight=self.rank_weight)
                for rank, value in enumerate(self.log_odds(query, texts), start=len(log_odds) + 1)
            )
            if ceiling is not None and settled(log_odds, ceiling, top_n=self.top_n):
                break
        # Sorted by log-odds, because probabilities near 1 round to 1.
        order = sorted(range(len(log_odds)), key=lambda i: (-log_odds[i], candidates[i].node_id))
        scored = [NodeWithScore(node=candidates[i].node, score=probability(log_odds[i])) for i in order]
        above = [hit for hit in scored if self.threshold is None or hit.get_score() >= self.threshold]
        return Reranked(above[: self.top_n], len(log_odds))

    def _rerank_parts(self, query: str, candidates: Sequence[NodeWithScore], weight: float) -> Reranked:
        """Rank hits that are parts of files, whose log-odds have ``weight``."""
        if weight == 0 and self.repository_weight is None and not self._has_warned:
            self._has_warned = True
            warn_of_kept_order(self.model)
        scores, order = [hit.score for hit in candidates], list(range(len(candidates)))
        log_odds: list[float] = []
        if weight or self.threshold is not None:
            log_odds = self.log_odds(query, [hit.get_content(MetadataMode.EMBED) for hit in candidates])
        if weight:
            combined = self.calibration.repository_log_odds(
                log_odds, scores, weight=weight, rank_weight=self.rank_weight
            )
            order.sort(key=lambda i: (-combined[i], candidates[i].node_id))
            scores = [probability(value) for value in combined]
        if self.threshold is not None:
            code_scores = [probability(self.calibration.code_log_odds(value)) for value in log_odds]
            order = [i for i in order if code_scores[i] >= self.threshold]
        best = [NodeWithScore(node=candidates[i].node, score=scores[i]) for i in order[: self.top_n]]
        return Reranked(best, len(log_odds))

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        # The base class runs this in a thread for its async twin, so that the event loop stays free.
        if query_bundle is None:
            raise ValueError("CodeReranker scores hits against a query and got none; pass query_bundle or query_str")
        query = query_bundle.query_str
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            best = self.rerank(query, nodes).hits
            event.on_end(payload={EventPayload.NODES: best})
        dispatcher.event(ReRankEndEvent(nodes=best))
        return best

    def _check_room(self, max_tokens: int) -> None:
        if self._scorer.room(max_tokens) < 2:
            raise ValueError(
                f"max_tokens leaves no room for a query and a code beside the special tokens of {self.model}: "
                f"got {max_tokens}; 512 is usual"
            )

    def _ceiling(self, calibration: Calibration) -> list[float] | None:
        """Return the log-odds that hits behind each rank seldom exceed, or ``None`` to score all hits.

        Raises:
            ValueError: ``early_exit`` was not calibrated, or was with another ``rank_weight``.
        """
        if self.early_exit is None:
            return None
        ceiling = calibration.ceiling(self.early_exit)
        if self.rank_weight not in (None, calibration.rank_weight):
            raise ValueError(
                f"early_exit was calibrated with rank_weight {calibration.rank_weight}, got {self.rank_weight}; "
                "leave one of them out"
            )
        return ceiling
