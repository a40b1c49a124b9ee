"""Compute texts of unequal length as one row without padding, with an attention that stays within each text.

It is for BERT-like models on a CPU, where many small attentions cost no more than a large one. Batches are padded on a
GPU, for other models and where dropout is on. Adapters are trained on a base without dropout, so their batches are
packed too.
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
_MODEL_TYPES = frozenset(("bert", "camembert", "roberta", "xlm-roberta"))

Runs = list[tuple[int, int]]
"""The texts of a row in order, as (number of neighbouring texts of equal length, their length)."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How a model packs texts into one row; see :func:`packing_for`."""

    padding: int | None
    """The id of the padding token if positions count from it, as RoBERTa's do; ``None`` if they count from 0."""

    def inputs(self, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return the inputs of the model for texts, given by token ids and token types: one row, and its runs.

        The hidden states of the row, ``(1, tokens, width)``, are those of each text by itself, in this order.
        """
        positions = [torch.arange(len(row)) for row in rows]
        if self.padding is not None:  # padding tokens within a text have no position of their own
            masks = [(torch.tensor(row) != self.padding).long() for row in rows]
            positions = [mask.cumsum(0) * mask + self.padding for mask in masks]
        return {
            "input_ids": torch.tensor([list(chain.from_iterable(rows))]),
            "token_type_ids": torch.tensor([list(chain.from_iterable(types))]),
            "position_ids": torch.cat(positions)[None],
            "runs": [(len(list(same)), length) for length, same in groupby(map(len, rows))],
        }


def enable_packed_attention(model: Any) -> bool:
    """Enable packed attention, in place; return whether the model supports it.

    It has to be BERT-like and to use torch's attention. Padded batches are computed as before.
    """
    config = model.config
    if config.model_type not in _MODEL_TYPES or config._attn_implementation != "sdpa" or config.is_decoder:
        return False
    model.set_attn_implementation(_ATTENTION)
    return True


def packing_for(model: Any) -> Packing | None:
    """Return how to pack texts for a model, or ``None`` if packed attention is not enabled.

    :func:`enable_packed_attention` enables it; an adapter on the model does not matter.
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
    """Attend within each text of a row; all tensors are ``(1, heads, tokens, width)``."""
    if runs is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return padded
    attended = [
        F.scaled_dot_product_attention(q, k, v, scale=options["scaling"]).transpose(1, 2).flatten(0, 1)
        for q, k, v in zip(by_runs(query, runs), by_runs(key, runs), by_runs(value, runs), strict=True)
    ]
    return torch.cat(attended)[None], None  # (1, tokens, heads, width)


AttentionInterface.register(_ATTENTION, _attend)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
