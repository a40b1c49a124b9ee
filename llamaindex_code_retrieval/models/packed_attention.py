"""Texts of unequal length read one after the other as a single row, so that nothing is padded.

For BERT and its kin, without gradient and on a CPU, where many small attentions cost no more than a large one. A GPU
wants few large ones, so batches are padded there, as they are for other models and in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_ATTENTION = "code_retrieval_packed"
_KINDS = frozenset(("bert", "camembert", "roberta", "xlm-roberta"))

Runs = list[tuple[int, int]]
"""How many texts of the same length stand side by side, and that length; in the order of the row."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How texts become one row for a model, see :func:`packing_for`."""

    padding: int | None
    """The token from whose id on positions count; ``None``: they count from 0."""

    def inputs(self, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return the model's inputs for texts, given by token ids and types: one row, ``(1, tokens)``, and its runs.

        What the model gives for it, ``(1, tokens, width)``, has the texts in this order, each as if it were alone.
        """
        positions = [torch.arange(len(row)) for row in rows]
        if self.padding is not None:  # RoBERTa passes over tokens that are padding
            kept = [(torch.tensor(row) != self.padding).long() for row in rows]
            positions = [mask.cumsum(0) * mask + self.padding for mask in kept]
        return {
            "input_ids": torch.tensor([list(chain.from_iterable(rows))]),
            "token_type_ids": torch.tensor([list(chain.from_iterable(types))]),
            "position_ids": torch.cat(positions)[None],
            "runs": [(len(list(same)), length) for length, same in groupby(map(len, rows))],
        }


def enable_packed_attention(model: Any) -> bool:
    """Enable packed attention if the model's layers are BERT's, with torch's attention; return whether they are.

    Padded batches are computed as before.
    """
    config = model.config
    if config.model_type not in _KINDS or config._attn_implementation != "sdpa" or config.is_decoder:
        return False
    model.set_attn_implementation(_ATTENTION)
    return True


def packing_for(model: Any) -> Packing | None:
    """Return how to pack texts for a model that :func:`enable_packed_attention` changed, with or without an adapter.

    ``None``: the model would read the texts of a row as one.
    """
    if model.config._attn_implementation != _ATTENTION:
        return None
    tables = (table for name, table in model.named_modules() if "position_embeddings" in name)
    return Packing(next(table.padding_idx for table in tables if isinstance(table, nn.Embedding)))


def by_runs(states: Tensor, runs: Runs) -> list[Tensor]:
    """Split ``(1, heads, tokens, width)`` into ``(texts, heads, length, width)`` for each run of texts."""
    pieces = torch.split(states[0], [count * length for count, length in runs], dim=1)
    return [
        piece.view(len(piece), count, length, -1).transpose(0, 1)
        for piece, (count, length) in zip(pieces, runs, strict=True)
    ]


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    runs: Runs | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend within each text alone; all tensors are ``(1, heads, tokens, width)``."""
    if runs is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return padded
    seen = [
        F.scaled_dot_product_attention(q, k, v, scale=options["scaling"]).transpose(1, 2).flatten(0, 1)
        for q, k, v in zip(by_runs(query, runs), by_runs(key, runs), by_runs(value, runs), strict=True)
    ]
    return torch.cat(seen)[None], None  # (1, tokens, heads, width)


AttentionInterface.register(_ATTENTION, _attend)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
