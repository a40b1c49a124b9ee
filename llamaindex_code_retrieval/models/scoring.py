"""Score pairs of query and code with a cross-encoder of ours or a Hugging Face checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llamaindex_code_retrieval._io import clean_text, sha256, short_hash
from llamaindex_code_retrieval.models.backbone import check_loading, quiet_transformers
from llamaindex_code_retrieval.models.batching import batch_budget, even_batches, tight_batches
from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder, Prepared, RerankPrecision, read_config
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import RERANKER_CONFIG
from llamaindex_code_retrieval.models.locate import locate_reranker
from llamaindex_code_retrieval.models.modify import prepack_weights, quantize
from llamaindex_code_retrieval.models.packed_attention import Runs, by_runs, enable_packed_attention, packing_for
from llamaindex_code_retrieval.models.parallel import in_threads, workers_on
from llamaindex_code_retrieval.models.spec import resolve_device, resolve_precision


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


def shares_base(name: str, encoder: Encoder) -> bool:
    """Return whether a reranker is one of ours that can use this encoder's base weights."""
    folder = locate_reranker(name)
    if not (folder / RERANKER_CONFIG).is_file():
        return False
    fingerprint: str = read_config(folder)["base"]["fingerprint"]
    return fingerprint == encoder.base_fingerprint


def load_scorer(
    name: str,
    *,
    encoder: Encoder | None,
    device: str | None,
    precision: RerankPrecision,
    merge_adapter: bool = False,
) -> CrossEncoder | Checkpoint:
    """Load a reranker of ours, on the base of ``encoder`` where it fits, or a Hugging Face checkpoint."""
    folder = locate_reranker(name)
    if not (folder / RERANKER_CONFIG).is_file():
        return Checkpoint(name, folder, device=device, precision=precision)
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
        if enable_packed_attention(model):  # the heads of this kind read the first token alone
            layers = model.base_model.encoder.layer
            layers[-1] = _FirstTokenLayer(layers[-1])
        self._packing = packing_for(model)
        if precision == "int8":
            model = quantize(model)
        elif half:
            model = prepack_weights(model.to(torch.bfloat16))
        self._model: Any = model
        self.device: torch.device = model.device
        files = [*sorted(folder.glob("*.safetensors")), folder / "config.json"]
        self.fingerprint = short_hash(map(sha256, files))

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
        query, *codes = (clean_text(text) for text in (query, *codes))
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
            ignore_mismatched_sizes=True,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    check_loading(model, info, folder, remedy="a reranker needs a trained cross-encoder")
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
