"""``CodeReranker``: a cross-encoder that reads query and code together, as a LlamaIndex node postprocessor."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # its documented place
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.calibration import EXIT_CHUNK, Calibration, probability, settled
from llamaindex_code_retrieval.models.catalog import DEFAULT_RERANKER
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder, RerankPrecision
from llamaindex_code_retrieval.models.scoring import PairScorer, load_scorer, score_pairs

dispatcher = get_dispatcher(__name__)


@dataclass(frozen=True, slots=True)
class Reranked:
    """The best hits, and how many pairs were scored to find them."""

    hits: list[NodeWithScore]
    scored: int


class CodeReranker(BaseNodePostprocessor):
    """Score each hit by a cross-encoder and keep the ``top_n`` best.

    ``model`` is a reranker that comes with the package, a folder that ``code-retrieval train-reranker`` wrote, or a
    Hugging Face sequence-classification checkpoint with one label or two. Give the ``embedding`` as well, and a
    reranker that is an adapter of the same base works on that one: no second copy in memory.

    A score is a probability. :meth:`score` gives that of a code by itself, which does not depend on the others (to
    1e-5 in fp32). Hits come from a first stage, best first, and a reranker of ours weighs that in: the
    score of a hit then depends on its rank too, as far as ``rank_weight`` says (None: as was best on held-out queries;
    0: not at all). With ``early_exit`` at a confidence such as 0.95, hits are scored ten at a time, and those that
    are left are passed over once that share of the calibration's queries had none among them that would get into the
    ``top_n``.

    Hits come back as new ``NodeWithScore`` objects around the caller's nodes, best first, equal scores by node id; of
    hits with one node id the first is kept. What is scored is the node's text with the metadata meant for embedding
    (``MetadataMode.EMBED``).
    """

    model_config = ConfigDict(validate_assignment=True)

    model: str = Field(frozen=True, description="One of ours, a folder, or a hub name (org/name[@revision]).")
    top_n: int = Field(ge=1, description="Hits to keep.")
    max_tokens: int = Field(
        ge=1,
        description="Tokens of query and code together, special ones included, beyond which the code is cut; "
        "a checkpoint with fewer positions cuts at those.",
    )
    token_budget: int = Field(ge=1, description="Padded tokens in a batch; a batch holds one pair at least.")
    threshold: float | None = Field(ge=0, le=1, description="Drop hits that score under it.")
    rank_weight: float | None = Field(ge=0, description="Weight of the first stage's rank; None is the calibration's.")
    early_exit: float | None = Field(gt=0, lt=1, description="Confidence at which to stop; None scores all hits.")
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(frozen=True, description="Of the arithmetic.")
    device: str | None = Field(frozen=True, description="Torch device; None takes a GPU where there is one.")
    merge_adapter: bool = Field(frozen=True, description="Copy the weights an adapter changes: faster, more memory.")

    _scorer: PairScorer = PrivateAttr()
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

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
        early_exit: float | None = None,
        precision: RerankPrecision = "auto",
        device: str | None = None,
        merge_adapter: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Load the model; ``max_tokens`` is by default what a reranker of ours was made for, and else 512.

        ``precision`` "auto" is bf16 where the device computes it natively and fp32 elsewhere; "int8" quantizes the
        linear layers on a CPU: faster and smaller, and scores then differ a little from batch to batch. On the base of
        an ``embedding``, fp32 and bf16 are as that has it. A reranker that is an adapter is computed beside the base's
        weights; with ``merge_adapter`` in copies of those that it changes, which is faster by a fifth or more.

        Raises:
            ValueError: a setting out of range; no such model, or one that cannot be read; its adapter is of another
                base than the embedding's; ``early_exit`` with a model or at a confidence that was not calibrated; a
                device or precision that this machine lacks.
        """
        super().__init__(  # type: ignore[call-arg]  # mypy sees the base's fields only
            model=str(model),
            top_n=top_n,
            max_tokens=512 if max_tokens is None else max_tokens,
            token_budget=token_budget,
            threshold=threshold,
            rank_weight=rank_weight,
            early_exit=early_exit,
            precision=precision,
            device=device,
            merge_adapter=merge_adapter,
            callback_manager=callback_manager or CallbackManager(),
        )
        scorer = load_scorer(
            self.model,
            encoder=None if embedding is None else embedding.encoder,
            device=self.device,
            precision=self.precision,
            merge_adapter=self.merge_adapter,
        )
        self._scorer = scorer
        if max_tokens is None and isinstance(scorer, CrossEncoder):
            self.max_tokens = scorer.max_tokens
        if scorer.room(self.max_tokens) < 2:
            raise ValueError(
                f"max_tokens leaves no room for a query and a code beside the special tokens of {self.model}: "
                f"got {self.max_tokens}; 512 is usual"
            )
        self._ceiling()  # refuses a confidence that was not calibrated

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex saves and traces this component."""
        return "CodeReranker"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)  # another process loads the model itself

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> CodeReranker:
        return self.model_copy()  # the model is shared: use does not change it

    @property
    def fingerprint(self) -> str:
        """Hash over weights, tokenizer and head."""
        return self._scorer.fingerprint

    @property
    def calibration(self) -> Calibration:
        """How log-odds become probabilities."""
        return self._scorer.calibration

    def score(self, query: str, codes: Sequence[str]) -> list[float]:
        """Return for each code, in the order given, the probability between 0 and 1 that it answers ``query``.

        A code is cut to the tokens that the query leaves; a query that leaves none is itself cut to half of them.

        Raises:
            ValueError: the model gives log-odds that are not finite, so its weights are damaged.
        """
        return [probability(self.calibration.alone(value)) for value in self.log_odds(query, codes)]

    def log_odds(self, query: str, codes: Sequence[str]) -> list[float]:
        """Return what the model says of each code, before calibration."""
        # The tokenizer keeps its truncation in shared state, so it belongs under the lock as well.
        with self._lock:
            try:
                return score_pairs(
                    self._scorer, query, codes, max_tokens=self.max_tokens, token_budget=self.token_budget
                )
            except FloatingPointError as error:
                raise ValueError(f"{self.model} {error}; its weights are damaged, train or fetch it again") from error

    def rerank(self, query: str, hits: Sequence[NodeWithScore]) -> Reranked:
        """Return the ``top_n`` best of ``hits``, which are in the order of the first stage, best first."""
        first: dict[str, NodeWithScore] = {}
        for hit in hits:
            first.setdefault(hit.node_id, hit)
        nodes, ceiling = list(first.values()), self._ceiling()
        size = len(nodes) if ceiling is None else EXIT_CHUNK
        fused: list[float] = []
        while len(fused) < len(nodes):
            chunk = nodes[len(fused) : len(fused) + size]
            texts = [hit.get_content(MetadataMode.EMBED) for hit in chunk]
            fused.extend(
                self.calibration.fused(value, rank, rank_weight=self.rank_weight)
                for rank, value in enumerate(self.log_odds(query, texts), start=len(fused) + 1)
            )
            if ceiling is not None and settled(fused, ceiling, top_n=self.top_n):
                break
        scored = [
            (-value, hit.node_id, NodeWithScore(node=hit.node, score=probability(value)))
            for hit, value in zip(nodes, fused, strict=False)
        ]
        # By log-odds: sure probabilities all round to 1.
        best = [hit for _, _, hit in sorted(scored, key=lambda each: each[:2])]
        kept = [hit for hit in best if self.threshold is None or hit.get_score() >= self.threshold]
        return Reranked(kept[: self.top_n], len(fused))

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        # The async twin is the base class's: it runs this in a thread, so that the event loop stays free.
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

    def _ceiling(self) -> list[float] | None:
        """Return what hits behind each rank seldom exceed, ``None`` to score all."""
        if self.early_exit is None:
            return None
        calibrated = self.calibration.ceilings
        found = next((ranks for name, ranks in calibrated.items() if math.isclose(float(name), self.early_exit)), None)
        if found is None:
            known = f"it was calibrated at {', '.join(calibrated)}" if calibrated else "it was never calibrated"
            raise ValueError(f"{self.model} cannot stop at confidence {self.early_exit}: {known}; leave early_exit out")
        if self.rank_weight not in (None, self.calibration.rank_weight):
            raise ValueError(
                f"early_exit was calibrated with rank_weight {self.calibration.rank_weight}, got {self.rank_weight}; "
                "leave one of them out"
            )
        return found
