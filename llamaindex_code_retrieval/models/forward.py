"""Run a backbone on rows of token ids, padded to each other or packed into one row, and pool its hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llamaindex_code_retrieval.models.adapter import virtual_tokens
from llamaindex_code_retrieval.models.catalog import Pooling
from llamaindex_code_retrieval.models.packed_attention import Packing

Rows = Sequence[Sequence[int]]
"""Token ids of texts, special tokens included."""


def padded_states(
    backbone: Any, rows: Rows, *, starts: Sequence[int] | None = None, length: int = 0, pad_id: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the last hidden states of padded rows in fp32, ``(rows, tokens, width)``, and the mask of text tokens.

    Rows are padded to the longest one, and to ``length`` at least. ``starts`` are the positions at which the second
    text of each row begins; a backbone without token types ignores them.
    """
    length = max(length, *map(len, rows))
    tokens = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    types = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
        if starts is not None:
            types[i, starts[i] : len(row)] = 1
    device = next(backbone.parameters()).device
    inputs = {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}
    if starts is not None and _has_token_types(backbone):
        inputs["token_type_ids"] = types.to(device)
    hidden: Tensor = backbone(**inputs).last_hidden_state
    # Prompt tuning prepends virtual tokens, which are not part of the text.
    return hidden[:, virtual_tokens(backbone) :].float(), inputs["attention_mask"]


def packed_states(backbone: Any, packing: Packing, rows: Rows, *, starts: Sequence[int] | None = None) -> list[Tensor]:
    """Return the last hidden states of each row in fp32, ``(tokens, width)``; see :func:`padded_states`."""
    lengths = [len(row) for row in rows]
    seconds = starts if starts is not None and _has_token_types(backbone) else lengths
    types = [[0] * start + [1] * (length - start) for start, length in zip(seconds, lengths, strict=True)]
    (hidden,) = backbone(**packing.inputs(rows, types)).last_hidden_state  # (tokens of all rows, width)
    return list(torch.split(hidden.float(), lengths))


def pad_states(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the states of texts as one padded tensor and its mask, as :func:`padded_states` does."""
    ones = [torch.ones(len(tokens), dtype=torch.long) for tokens in states]
    return pad_sequence(list(states), batch_first=True), pad_sequence(ones, batch_first=True)


def pool_padded(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector for each row, ``(rows, width)``."""
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (rows, tokens, 1)
    return (hidden * weights).sum(1) / weights.sum(1)


def pool_packed(states: Sequence[Tensor], pooling: Pooling) -> Tensor:
    """Return one vector for each text, ``(texts, width)``."""
    return torch.stack([tokens[0] if pooling == "cls" else tokens.mean(0) for tokens in states])


def _has_token_types(backbone: Any) -> bool:
    """Return whether the backbone tells two texts of a row apart by their token types."""
    return getattr(backbone.config, "type_vocab_size", 0) > 1
