"""Run a backbone on rows of token ids, padded to each other or packed into one row, and pool its hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llamaindex_code_retrieval.models.adapter import virtual_tokens
from llamaindex_code_retrieval.models.catalog import Pooling
from llamaindex_code_retrieval.models.packed_attention import Packing

Rows = Sequence[Sequence[int]]
"""Token ids of texts, special tokens included."""


def pooled_states(
    backbone: Any, rows: Rows, *, pooling: Pooling, packing: Packing | None = None, length: int = 0, pad_id: int = 0
) -> Tensor:
    """Return one vector for each row in fp32, ``(rows, width)``; see :func:`hidden_states`."""
    if packing is not None and _have_unequal_lengths(rows):
        texts = _packed_states(backbone, packing, rows)
        return torch.stack([states[0] if pooling == "cls" else states.mean(0) for states in texts])
    hidden, mask = _padded_states(backbone, rows, length=length, pad_id=pad_id)
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (rows, tokens, 1)
    return (hidden * weights).sum(1) / weights.sum(1)


def hidden_states(
    backbone: Any,
    rows: Rows,
    *,
    starts: Sequence[int] | None = None,
    packing: Packing | None = None,
    length: int = 0,
    pad_id: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return the last hidden states in fp32, ``(rows, tokens, width)``, and the mask of text tokens.

    ``starts`` are the positions at which the second text of each row begins; a backbone without token types ignores
    them. With ``packing`` the backbone computes rows of unequal length as one. Without it they are padded to the
    longest one, and to ``length`` at least.
    """
    if packing is None or not _have_unequal_lengths(rows):
        return _padded_states(backbone, rows, starts=starts, length=length, pad_id=pad_id)
    texts = _packed_states(backbone, packing, rows, starts=starts)
    ones = [torch.ones(len(states), dtype=torch.long) for states in texts]
    return pad_sequence(texts, batch_first=True), pad_sequence(ones, batch_first=True)


def _padded_states(
    backbone: Any, rows: Rows, *, starts: Sequence[int] | None = None, length: int = 0, pad_id: int = 0
) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    places = torch.arange(max(length, int(lengths.max())))
    is_text = places < lengths[:, None]  # (rows, tokens)
    tokens = torch.full(is_text.shape, pad_id, dtype=torch.long)
    tokens[is_text] = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.long)
    device = next(backbone.parameters()).device
    inputs = {"input_ids": tokens.to(device), "attention_mask": is_text.long().to(device)}
    if starts is not None and _has_token_types(backbone):
        types = is_text & (places >= torch.tensor(starts)[:, None])
        inputs["token_type_ids"] = types.long().to(device)
    hidden: Tensor = backbone(**inputs).last_hidden_state
    # Prompt tuning prepends virtual tokens, which are not part of the text.
    return hidden[:, virtual_tokens(backbone) :].float(), inputs["attention_mask"]


def _packed_states(backbone: Any, packing: Packing, rows: Rows, *, starts: Sequence[int] | None = None) -> list[Tensor]:
    """Return the last hidden states of each row in fp32, ``(tokens, width)``."""
    lengths = [len(row) for row in rows]
    seconds = starts if starts is not None and _has_token_types(backbone) else lengths
    types = [[0] * start + [1] * (length - start) for start, length in zip(seconds, lengths, strict=True)]
    (hidden,) = backbone(**packing.inputs(rows, types)).last_hidden_state  # (tokens of all rows, width)
    return list(torch.split(hidden.float(), lengths))


def _have_unequal_lengths(rows: Rows) -> bool:
    return len({len(row) for row in rows}) > 1


def _has_token_types(backbone: Any) -> bool:
    """Return whether the backbone tells two texts of a row apart by their token types."""
    return getattr(backbone.config, "type_vocab_size", 0) > 1
