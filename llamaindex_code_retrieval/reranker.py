"""``CodeReranker``: a cross-encoder that reads query and code together, as a LlamaIndex node postprocessor."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # its documented place
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llamaindex_code_retrieval.batching import batch_budget, even_batches, tight_batches
from llamaindex_code_retrieval.bodies import blocked, quantized, quiet_transformers
from llamaindex_code_retrieval.checkpoints import RERANKER_CONFIG, locate_reranker, sha256_of
from llamaindex_code_retrieval.cross_encoder import (
    EXIT_CHUNK,
    Calibration,
    CrossEncoder,
    Prepared,
    RerankPrecision,
    read_config,
    settled,
)
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.encoder import resolve_device, resolve_precision
from llamaindex_code_retrieval.models import DEFAULT_RERANKER
from llamaindex_code_retrieval.packing import Runs, by_runs, let_pack, packing_of
from llamaindex_code_retrieval.parallel import in_threads, workers_on

dispatcher = get_dispatcher(__name__)


@dataclass(frozen=True, slots=True)
class Reranked:
    """The best hits, and how many pairs were scored to find them."""

    hits: list[NodeWithScore]
    scored: int


class PairScorer(Protocol):
    """What ``CodeReranker`` scores with: a :class:`CrossEncoder` of ours, or a :class:`Checkpoint`."""

    calibration: Calibration

    @property
    def fingerprint(self) -> str:
        """Hash over all that decides a score."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def packs(self) -> bool:
        """Whether a batch is computed without padding."""

    def room(self, max_tokens: int) -> int:
        """Return how many tokens are left to query and code."""

    def prepare(self, query: str, codes: Sequence[str], max_tokens: int) -> Prepared:
        """Tokenize the query with each code."""


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
        model: str = DEFAULT_RERANKER,
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
            model=model,
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
            embedding=embedding,
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


def score_pairs(
    scorer: PairScorer, query: str, codes: Sequence[str], *, max_tokens: int, token_budget: int = 4096
) -> list[float]:
    """Return the log-odds of each code, in the order given; equal codes get equal ones.

    Raises:
        FloatingPointError: they are not finite.
    """
    distinct = list(dict.fromkeys(codes))  # equal codes in unequal batches would tie only up to rounding
    if not distinct:
        return []
    lengths, model = scorer.prepare(query, distinct, max_tokens)
    workers = workers_on(scorer.device)
    if scorer.packs:
        batches = even_batches(lengths, token_budget, workers=workers)
    else:
        overhead = 64 if scorer.device.type == "cpu" else 4096  # of a call, in the time of tokens
        budget = batch_budget(token_budget, sum(lengths), workers=workers)
        batches = tight_batches(lengths, budget, overhead=overhead)
    values = torch.cat(list(in_threads(model, batches, scorer.device))).tolist()
    if not all(map(math.isfinite, values)):
        raise FloatingPointError("gives logits that are not finite numbers")
    found = {distinct[i]: value for i, value in zip(chain.from_iterable(batches), values, strict=True)}
    return [found[code] for code in codes]


def shares_base(name: str, embedding: CodeEmbedding) -> bool:
    """Tell whether a reranker is one of ours that can lie on this embedding's base."""
    folder = locate_reranker(name)
    if not (folder / RERANKER_CONFIG).is_file():
        return False
    fingerprint: str = read_config(folder)["base"]["fingerprint"]
    return fingerprint == embedding.encoder.base_fingerprint


def load_scorer(
    name: str,
    *,
    embedding: CodeEmbedding | None,
    device: str | None,
    precision: RerankPrecision,
    merge_adapter: bool = False,
) -> CrossEncoder | Checkpoint:
    """Load a reranker of ours, on the embedding's base where it may, or a Hugging Face checkpoint."""
    folder = locate_reranker(name)
    if not (folder / RERANKER_CONFIG).is_file():
        return Checkpoint(name, folder, device=device, precision=precision)
    encoder = None if embedding is None else embedding.encoder
    return CrossEncoder.load(folder, encoder=encoder, device=device, precision=precision, merge_adapter=merge_adapter)


class Checkpoint:
    """A sequence-classification checkpoint of the Hugging Face kind.

    Its log-odds are the logit of the one label, or by how much that of label 1 is above that of label 0.
    """

    def __init__(self, name: str, folder: Path, *, device: str | None, precision: RerankPrecision) -> None:
        """Load it.

        Raises:
            ValueError: no safetensors, no trained classification head or neither one nor two labels; a device or
                precision that this machine lacks.
        """
        self.calibration = Calibration()
        place = resolve_device(device)
        half = precision != "int8" and resolve_precision(precision, place) == "bf16"
        model, self._tokenizer = _load_checkpoint(name, folder, place)
        self._positions = _positions(model, self._tokenizer)
        if let_pack(model):  # the heads of this kind read the first token alone
            layers = model.base_model.encoder.layer
            layers[-1] = _FirstTokenLayer(layers[-1])
        self._packing = packing_of(model)
        if precision == "int8":
            model = quantized(model)
        elif half:
            model = blocked(model.to(torch.bfloat16))
        self._model: Any = model
        self.device: torch.device = model.device
        files = [*sorted(folder.glob("*.safetensors")), folder / "config.json"]
        self.fingerprint = hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()[:16]

    @property
    def packs(self) -> bool:
        """Whether a batch is computed without padding."""
        return self._packing is not None and self.device.type == "cpu"

    def room(self, max_tokens: int) -> int:
        """Return how many tokens are left to query and code."""
        special: int = self._tokenizer.num_special_tokens_to_add(pair=True)
        return min(max_tokens, self._positions) - special

    def prepare(self, query: str, codes: Sequence[str], max_tokens: int) -> Prepared:
        """Tokenize the query with each code."""
        # A lone surrogate (a byte that was no UTF-8) has no place in the tokenizer's UTF-8 strings.
        query, *codes = (text.encode("utf-8", "replace").decode("utf-8") for text in (query, *codes))
        tokens = self._tokenizer(query, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        room = self.room(max_tokens)
        if len(tokens["input_ids"]) >= room:
            _, end = tokens["offset_mapping"][room // 2 - 1]
            query = query[:end]
        limit = min(max_tokens, self._positions)
        pairs = self._tokenizer([query] * len(codes), list(codes), truncation="only_second", max_length=limit)

        def log_odds(batch: Sequence[int]) -> Tensor:
            columns = {name: [column[i] for i in batch] for name, column in pairs.items()}
            rows = columns["input_ids"]
            if self._packing is not None and self.packs and len(set(map(len, rows))) > 1:
                inputs = self._packing.inputs(rows, columns.get("token_type_ids", [[0] * len(row) for row in rows]))
            else:
                inputs = self._tokenizer.pad(columns, return_tensors="pt").to(self.device)
            logits: Tensor = self._model(**inputs).logits.double()  # (batch, labels)
            return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]

        return [len(ids) for ids in pairs["input_ids"]], log_odds


def _load_checkpoint(name: str, folder: Path, device: torch.device) -> tuple[Any, Any]:
    """Return the model, ready to score on ``device``, and its tokenizer."""
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{name} holds no safetensors, and this package never loads pickles (pytorch_model.bin); "
            "convert it with save_pretrained"
        )
    with quiet_transformers():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if info["missing_keys"]:  # transformers fills these with random numbers, and so would rank at random
        keys = ", ".join(sorted(info["missing_keys"])[:3])
        raise ValueError(f"{name} has no trained weights for {keys}; a reranker needs a trained cross-encoder")
    if model.config.num_labels not in (1, 2):
        raise ValueError(
            f"{name} has {model.config.num_labels} labels; a reranker has one (a score) or two (the second is relevant)"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {name} has no padding token, so pairs cannot be batched; save one with it")
    return model.to(device).eval(), tokenizer


class _FirstTokenLayer(nn.Module):
    """BERT's last layer for the first token alone, exactly: what the others would become, nobody reads.

    It attends to all tokens, so keys and values are of all; the other ten twelfths of the layer's products are saved.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        *unused: Any,
        runs: Runs | None = None,
        **options: Any,
    ) -> Tensor:
        """Return ``(pairs, 1, width)`` of ``hidden`` (pairs, tokens, width), or of one row of ``runs``."""
        own = self.layer.attention.self
        first = hidden[:, :1] if runs is None else hidden[0, _starts(runs)].unsqueeze(1)
        query, key, value = (  # each (…, heads, tokens, width of a head)
            projected.unflatten(-1, (own.num_attention_heads, -1)).transpose(1, 2)
            for projected in (own.query(first), own.key(hidden), own.value(hidden))
        )
        if runs is None:
            mask = None if attention_mask is None else attention_mask[:, :, :1]
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            queries = query.split([count for count, _ in runs])
            texts = zip(queries, by_runs(key, runs), by_runs(value, runs), strict=True)
            seen = torch.cat([F.scaled_dot_product_attention(*text) for text in texts])
        seen = seen.transpose(1, 2).reshape(first.shape)
        attended = self.layer.attention.output(seen, first)
        made: Tensor = self.layer.feed_forward_chunk(attended)
        return made


def _starts(runs: Runs) -> list[int]:
    """Return where in the row each text begins.

    >>> _starts([(2, 5), (1, 3)])
    [0, 5, 10]
    """
    lengths = [length for count, length in runs for _ in range(count)]
    return [0, *accumulate(lengths[:-1])]


def _positions(model: Any, tokenizer: Any) -> int:
    """Return how many tokens the checkpoint can read at most."""
    positions: int = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            positions = module.num_embeddings - module.padding_idx - 1  # RoBERTa counts from the padding index on
    return min(positions, int(tokenizer.model_max_length))


def probability(log_odds: float) -> float:
    """Return the logistic function, also where its exponential would overflow.

    >>> probability(0.0), probability(1000.0)
    (0.5, 1.0)
    """
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    odds = math.exp(max(log_odds, -700.0))
    return odds / (1 + odds)
