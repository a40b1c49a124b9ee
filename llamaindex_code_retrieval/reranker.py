"""``CodeReranker``: a cross-encoder that reads query and code together, as a LlamaIndex node postprocessor."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # its documented place
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llamaindex_code_retrieval.checkpoints import locate
from llamaindex_code_retrieval.encoder import quiet_transformers, resolve_device, token_budget_batches

dispatcher = get_dispatcher(__name__)


class CodeReranker(BaseNodePostprocessor):
    """Score each hit by a Hugging Face sequence-classification checkpoint and keep the ``top_n`` best.

    A score is a probability: the sigmoid of the logit of a one-label checkpoint, the softmax of label 1 of a two-label
    one. It does not depend on the other hits (to 1e-5, always in fp32). Hits come back as new ``NodeWithScore`` objects
    around the caller's nodes, best first, equal scores by node id; of hits with one node id the first is kept.
    What is scored is the node's text with the metadata meant for embedding (``MetadataMode.EMBED``).
    """

    model_config = ConfigDict(validate_assignment=True)

    model: str = Field(frozen=True, description="Folder written by save_pretrained, or hub name (org/name[@revision]).")
    top_n: int = Field(ge=1, description="Hits to keep.")
    max_tokens: int = Field(
        ge=1,
        description="Tokens of query and code together, special ones included, beyond which the code is cut; "
        "a checkpoint with fewer positions cuts at those.",
    )
    token_budget: int = Field(ge=1, description="Padded tokens in a batch; a batch holds one pair at least.")
    threshold: float | None = Field(ge=0, le=1, description="Drop hits that score under it.")
    device: str | None = Field(frozen=True, description="Torch device; None takes a GPU where there is one.")

    _model: Any = PrivateAttr()
    _tokenizer: Any = PrivateAttr()
    _positions: int = PrivateAttr()
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def __init__(
        self,
        model: str,
        *,
        top_n: int = 10,
        max_tokens: int = 512,
        token_budget: int = 4096,
        threshold: float | None = None,
        device: str | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Load the checkpoint.

        Raises:
            ValueError: a setting out of range; no such folder or hub name; no safetensors, no trained classification
                head or neither one nor two labels in the checkpoint; a device that this machine lacks.
        """
        super().__init__(  # type: ignore[call-arg]  # mypy sees the base's fields only
            model=model,
            top_n=top_n,
            max_tokens=max_tokens,
            token_budget=token_budget,
            threshold=threshold,
            device=device,
            callback_manager=callback_manager or CallbackManager(),
        )
        self._model, self._tokenizer = _load(self.model, resolve_device(self.device))
        self._positions = _positions(self._model, self._tokenizer)
        if self._room() < 2:
            raise ValueError(
                f"max_tokens leaves no room for a query and a code beside the special tokens of {self.model}: "
                f"got {self.max_tokens}; 512 is usual"
            )

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex saves and traces this component."""
        return "CodeReranker"

    def score(self, query: str, codes: Sequence[str]) -> list[float]:
        """Return for each code, in the order given, the probability between 0 and 1 that it answers ``query``.

        A code is cut to the tokens that the query leaves; a query that leaves none is itself cut to half of them.

        Raises:
            ValueError: the checkpoint gives logits that are not finite, so its weights are damaged.
        """
        distinct = list(dict.fromkeys(codes))  # equal codes in unequal batches would tie only up to rounding
        if not distinct:
            return []
        # The tokenizer keeps its truncation in shared state, so it belongs under the lock as well.
        with self._lock, torch.inference_mode():
            pairs = self._tokenize(query, distinct)
            probability: dict[str, float] = {}
            for batch in token_budget_batches([len(ids) for ids in pairs["input_ids"]], self.token_budget):
                columns = {name: [column[i] for i in batch] for name, column in pairs.items()}
                inputs = self._tokenizer.pad(columns, return_tensors="pt").to(self._model.device)
                logits = self._model(**inputs).logits  # (batch, labels)
                if not logits.isfinite().all():
                    raise ValueError(
                        f"{self.model} gives logits that are not finite numbers; its weights are damaged, "
                        "train or fetch it again"
                    )
                for i, value in zip(batch, _probabilities(logits).tolist(), strict=True):
                    probability[distinct[i]] = value
        return [probability[code] for code in codes]

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
            first: dict[str, NodeWithScore] = {}
            for hit in nodes:
                first.setdefault(hit.node_id, hit)
            scores = self.score(query, [hit.get_content(MetadataMode.EMBED) for hit in first.values()])
            scored = [
                NodeWithScore(node=hit.node, score=score)
                for hit, score in zip(first.values(), scores, strict=True)
                if self.threshold is None or score >= self.threshold
            ]
            best = sorted(scored, key=lambda hit: (-hit.get_score(), hit.node_id))[: self.top_n]
            event.on_end(payload={EventPayload.NODES: best})
        dispatcher.event(ReRankEndEvent(nodes=best))
        return best

    def _limit(self) -> int:
        return min(self.max_tokens, self._positions)

    def _room(self) -> int:
        """Return how many tokens query and code can have together."""
        return self._limit() - int(self._tokenizer.num_special_tokens_to_add(pair=True))

    def _tokenize(self, query: str, codes: Sequence[str]) -> dict[str, list[list[int]]]:
        # A lone surrogate (a byte that was no UTF-8) has no place in the tokenizer's UTF-8 strings.
        query, *codes = (text.encode("utf-8", "replace").decode("utf-8") for text in (query, *codes))
        tokens = self._tokenizer(query, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if len(tokens["input_ids"]) >= self._room():
            _, end = tokens["offset_mapping"][self._room() // 2 - 1]
            query = query[:end]
        return dict(
            self._tokenizer([query] * len(codes), list(codes), truncation="only_second", max_length=self._limit())
        )


def _load(name: str, device: torch.device) -> tuple[Any, Any]:
    """Return the model, ready to score on ``device``, and its tokenizer."""
    try:
        folder = locate(name)
    except ValueError as error:
        raise ValueError(
            f"cannot find the reranker {name!r}: name a folder that save_pretrained wrote (config.json, "
            "model.safetensors, tokenizer), or a hub model (org/name) that is in the hub cache or within reach"
        ) from error
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


def _positions(model: Any, tokenizer: Any) -> int:
    """Return how many tokens the checkpoint can read at most."""
    positions: int = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            positions = module.num_embeddings - module.padding_idx - 1  # RoBERTa counts from the padding index on
    return min(positions, int(tokenizer.model_max_length))


def _probabilities(logits: Tensor) -> Tensor:
    """Return ``(batch,)`` probabilities; in fp64, where confident scores do not all round to 1."""
    if logits.shape[1] == 1:
        return logits[:, 0].double().sigmoid()
    return logits.double().softmax(dim=1)[:, 1]
