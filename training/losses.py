"""Loss functions: InfoNCE, matching, distillation, AdaLoRA's orthogonality penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llamaindex_code_retrieval.training.config import DistilConfig, Loss


def matching_loss(log_odds: Tensor, lists: Sequence[Sequence[int]], rejected: Sequence[int], *, kind: Loss) -> Tensor:
    """Return the loss of pairs, ``log_odds`` (pairs,), whose rows ``lists`` and ``rejected`` name.

    ``bce`` is the mean binary cross-entropy of all pairs, an answer weighing as much as its negatives together, so
    that more negatives do not drown it; ``listwise`` the mean cross-entropy of each answer against its negatives.
    """
    total = log_odds.new_zeros(())
    if kind in ("bce", "both"):
        answers = torch.stack([log_odds[rows[0]] for rows in lists])
        others = log_odds[[row for rows in lists for row in rows[1:]] + list(rejected)]
        total = total - (F.logsigmoid(answers).mean() + F.logsigmoid(-others).mean()) / 2
    if kind in ("listwise", "both"):
        first = torch.zeros(1, dtype=torch.long, device=log_odds.device)
        total = total + torch.stack([F.cross_entropy(log_odds[rows][None], first) for rows in map(list, lists)]).mean()
    return total


def contrastive_loss(
    queries: Tensor, codes: Tensor, target: Tensor, *, temperature: Tensor | float = 0.05, hardness: float = 0.0
) -> Tensor:
    """Return the symmetric InfoNCE of unit vectors: each query against all codes, each code against all queries.

    ``queries`` (n + rejected, dim), ``codes`` (m, dim), ``target`` (n). A code may answer several queries: for each of
    them the others are left out of its softmax. Rows of ``queries`` beyond n, and codes that answer none, are
    negatives only. With ``hardness`` each negative weighs by exp(hardness * cosine), divided by the mean of that.
    """
    n = len(target)
    cosines = queries @ codes.T  # (queries, codes)
    own = F.one_hot(target, len(codes)).bool()  # (n, codes)
    to_code = cosines[:n] / temperature + _log_weights(cosines[:n], own, hardness)
    loss = F.cross_entropy(to_code, target)
    from_code = cosines.T[target]  # (n, queries): the row of each query's code
    same = torch.zeros(n, len(queries), dtype=torch.bool, device=target.device)
    same[:, :n] = target[:, None] == target[None, :]
    itself = torch.zeros_like(same)
    itself[:, :n].fill_diagonal_(True)
    logits = from_code / temperature + _log_weights(from_code, same, hardness)
    logits = logits.masked_fill(same & ~itself, -math.inf)
    return (loss + F.cross_entropy(logits, torch.arange(n, device=target.device))) / 2


def _log_weights(cosines: Tensor, positive: Tensor, hardness: float) -> Tensor:
    """Return log of each negative's weight, 0 for positives; weights of a row's negatives have mean 1."""
    if hardness == 0:
        return torch.zeros_like(cosines)
    logits = (hardness * cosines.detach()).masked_fill(positive, -math.inf)
    negatives = (~positive).sum(1, keepdim=True).clamp(min=1)
    weights = torch.log_softmax(logits, dim=1) + negatives.log()
    return weights.masked_fill(positive, 0.0)


def _orthogonality(parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the mean Frobenius distance of AdaLoRA's singular vectors to orthonormal ones (equation 4)."""
    distances = []
    for name, p in parameters.items():
        if "lora_A" in name or "lora_B" in name:
            gram = p @ p.T if "lora_A" in name else p.T @ p
            distances.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=p.device)))
    return torch.stack(distances).mean()


def imitation_loss(
    student: Tensor, teacher: Tensor, codes: Tensor, answers: Sequence[int], config: DistilConfig
) -> Tensor:
    """Return the loss of unit vectors of queries, each ``(queries, dim)``.

    ``codes`` is a code for each query; ``answers`` are the positions of those that are known to answer. The mean over
    the queries of SPENCER's equations 6 and 7, weighted, and InfoNCE over the answered ones where it is asked for.
    """
    loss = student.new_zeros(())
    if config.single:
        loss = loss + config.single * (1 - (student * teacher).sum(1)).mean()
    if config.dual:
        loss = loss + config.dual * ((codes * teacher).sum(1) - (codes * student).sum(1)).abs().mean()
    if config.contrastive and len(answers) > 1:
        own, target = torch.unique(codes[list(answers)], dim=0, return_inverse=True)
        loss = loss + config.contrastive * contrastive_loss(
            student[list(answers)], own, target, temperature=config.temperature
        )
    return loss
