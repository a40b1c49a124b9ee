"""``CheckpointScorer``: score pairs of query and code with a Hugging Face sequence-classification checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from llamaindex_code_retrieval._io import sha256, short_hash
from llamaindex_code_retrieval.models.backbone import check_loading, quiet_transformers
from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.device import resolve_device, resolve_precision
from llamaindex_code_retrieval.models.first_token_layer import FirstTokenLayer
from llamaindex_code_retrieval.models.modify import prepack_weights, quantize
from llamaindex_code_retrieval.models.packed_attention import enable_packed_attention, packing_for
from llamaindex_code_retrieval.models.pair_batches import log_odds_in_batches
from llamaindex_code_retrieval.models.pair_layout import PairLayout, PairRow
from llamaindex_code_retrieval.models.reranker_config import USUAL_MAX_TOKENS, RerankPrecision
from llamaindex_code_retrieval.models.tokenization import token_ids


class CheckpointScorer:
    """A sequence-classification checkpoint with one label or two.

    The log-odds are the logit of the one label, or the logit of label 1 minus the logit of label 0.
    """

    def __init__(self, name: str, folder: Path, *, device: str | None, precision: RerankPrecision) -> None:
        """Load the checkpoint in ``folder``.

        Raises:
            ValueError: no safetensors, no trained classification head or neither one nor two labels; a device or
                precision that this machine lacks.
        """
        self.calibration = Calibration()
        self.max_tokens = USUAL_MAX_TOKENS
        chosen_device = resolve_device(device)
        half = precision != "int8" and resolve_precision(precision, chosen_device) == "bf16"
        model, self._tokenizer = _load_checkpoint(name, folder, chosen_device)
        self._texts = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())  # a copy: shared state is changed
        self._texts.no_truncation()
        self._texts.no_padding()
        has_types = "token_type_ids" in self._tokenizer.model_input_names
        self._layout = PairLayout.of_tokenizer(self._texts, has_types=has_types)
        self._positions = _positions(model, self._tokenizer)
        if enable_packed_attention(model):  # the classification heads of this kind read the first token only
            layers = model.base_model.encoder.layer
            layers[-1] = FirstTokenLayer(layers[-1])
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
        return min(max_tokens, self._positions) - self._layout.special_tokens

    def log_odds_of(self, query: str, codes: Sequence[str], *, max_tokens: int, token_budget: int) -> list[float]:
        """Return the log-odds of each code, in the order given."""
        query_ids, *code_ids = token_ids(self._texts, [query, *codes])
        room = self.room(max_tokens)
        rows = [self._layout.row(query_ids, ids, room=room) for ids in code_ids]
        return log_odds_in_batches(
            self._log_odds, rows, token_budget=token_budget, device=self.device, packs=self.packs
        )

    def _log_odds(self, rows: Sequence[PairRow]) -> Tensor:
        """Return the log-odds ``(rows,)`` of token ids, each with the position of the code's first token."""
        ids = [row for row, _ in rows]
        types = [self._layout.type_ids(len(row), start) for row, start in rows]
        if self._packing is not None and self.packs and len(set(map(len, ids))) > 1:
            inputs = self._packing.inputs(ids, types)
        else:
            columns = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
            if self._layout.types is not None:
                columns["token_type_ids"] = types
            inputs = self._tokenizer.pad(columns, return_tensors="pt").to(self.device)
        logits: Tensor = self._model(**inputs).logits.double()  # (rows, labels)
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def _load_checkpoint(name: str, folder: Path, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return the model on ``device``, in fp32, and its tokenizer."""
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{name} holds no safetensors, and this package never loads pickles (pytorch_model.bin); "
            "convert it with save_pretrained"
        )
    options = {"local_files_only": True, "trust_remote_code": False}
    with quiet_transformers():
        config = AutoConfig.from_pretrained(folder, **options)
        if config.num_labels not in (1, 2):
            raise ValueError(
                f"{name} has {config.num_labels} labels; a reranker has one (a score) or two (the second is relevant)"
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        if tokenizer.pad_token_id is None:
            raise ValueError(
                f"the tokenizer of {name} has no padding token, so pairs cannot be batched; save one with it"
            )
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=True,
            **options,
        )
    check_loading(model, info, folder, remedy="a reranker needs a trained cross-encoder")
    return model.to(device).eval(), tokenizer


def _positions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """Return how many tokens the checkpoint can read at most."""
    positions: int = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            positions = module.num_embeddings - module.padding_idx - 1  # RoBERTa counts from the padding index on
    return min(positions, int(tokenizer.model_max_length))
