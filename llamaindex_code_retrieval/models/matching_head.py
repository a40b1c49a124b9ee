"""``MatchingHead``: the hidden states of a query and a code to the log-odds that the code answers the query."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamaindex_code_retrieval.models.reranker_config import HEADS, Head


class MatchingHead(nn.Module):
    """Log-odds that a code answers a query, from the hidden states of both, which the encoder reads as one text.

    ``interaction`` compares the mean u of the query's tokens with the mean v of the code's: scale * cos(u, v) plus a
    two-layer network over [u * v, |u - v|]. The network's output layer is zero at first, so that the head starts as a
    scaled cosine, as in a bi-encoder. ``mlp`` is a classification head over the first token (CasCode, section 3).
    """

    def __init__(self, kind: Head, width: int) -> None:
        super().__init__()
        if kind not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {kind!r}")
        self.kind = kind
        self.dense = nn.Linear(2 * width if kind == "interaction" else width, width)
        self.out = nn.Linear(width, 1)
        if kind == "interaction":
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
            self.scale = nn.Parameter(torch.tensor(20.0))  # 1 / temperature of a bi-encoder

    def forward(self, hidden: Tensor, query: Tensor, code: Tensor) -> Tensor:
        """Return the log-odds ``(pairs,)`` of ``hidden`` (pairs, tokens, width) and two masks (pairs, tokens)."""
        if self.kind == "mlp":
            logits: Tensor = self.out(torch.tanh(self.dense(hidden[:, 0])))
            return logits[:, 0]
        u, v = _mean(hidden, query), _mean(hidden, code)  # (pairs, width)
        correction = self.out(torch.tanh(self.dense(torch.cat([u * v, (u - v).abs()], dim=1))))[:, 0]
        log_odds: Tensor = self.scale * F.cosine_similarity(u, v) + correction
        return log_odds


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
