"""``FirstTokenLayer``: run the last layer of a BERT-like model for the first token only."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamaindex_code_retrieval.models.packed_attention import Runs, by_runs


class FirstTokenLayer(nn.Module):
    """BERT's last layer, computed exactly but for the first token only, for heads that read no other one.

    Keys and values are still computed for all tokens, because the first one attends to them. That leaves two of twelve
    matrix products per token.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        *_: Any,
        runs: Runs | None = None,
        **options: Any,
    ) -> Tensor:
        """Return ``(pairs, 1, width)`` from ``hidden`` (pairs, tokens, width), or from one packed row of ``runs``."""
        attention = self.layer.attention.self
        first = hidden[:, :1] if runs is None else hidden[0, _starts(runs)].unsqueeze(1)
        query, key, value = (  # each (…, heads, tokens, width of a head)
            projected.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
            for projected in (attention.query(first), attention.key(hidden), attention.value(hidden))
        )
        if runs is None:
            mask = None if attention_mask is None else attention_mask[:, :, :1]
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            queries = query.split([count for count, _ in runs])
            texts = zip(queries, by_runs(key, runs), by_runs(value, runs), strict=True)
            context = torch.cat([F.scaled_dot_product_attention(*text) for text in texts])
        attended = self.layer.attention.output(context.transpose(1, 2).reshape(first.shape), first)
        states: Tensor = self.layer.feed_forward_chunk(attended)
        return states


def _starts(runs: Runs) -> list[int]:
    """Return the position of each text's first token in the row.

    >>> _starts([(2, 5), (1, 3)])
    [0, 5, 10]
    """
    lengths = [length for count, length in runs for _ in range(count)]
    return [0, *accumulate(lengths[:-1])]
