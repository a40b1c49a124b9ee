"""All loss functions: contrastive, matching, distillation, and AdaLoRA's orthogonality penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llamaindex_code_retrieval.training.config import Loss


def contrastive_loss(
    queries: Tensor, codes: Tensor, target: Tensor, *, temperature: Tensor | float = 0.05, hardness: float = 0.0
) -> Tensor:
    """Return the symmetric InfoNCE loss (van den Oord et al. 2018, equation 4): query to code and code to query.

    A code may answer several queries: for each of them the other ones are left out of the softmax over queries. Rows
    of ``queries`` beyond ``target``, and codes that answer no query, are negatives only.

    Args:
        queries: unit vectors, ``(n + rejected, dim)``.
        codes: unit vectors, ``(m, dim)``.
        target: ``(n,)``, the row in ``codes`` of the code that answers each of the first n queries.
        temperature: cosines are divided by it.
        hardness: each negative is weighted by exp(hardness * cosine) over the mean of that (Robinson et al. 2021);
            0 weights all alike.
    """
    n = len(target)
    cosines = queries @ codes.T  # (queries, codes)
    is_answer = F.one_hot(target, len(codes)).bool()  # (n, codes)
    query_to_code = cosines[:n] / temperature + _log_hardness_weights(cosines[:n], is_answer, hardness)
    loss = F.cross_entropy(query_to_code, target)
    cosines_of_answers = cosines.T[target]  # (n, queries): row i belongs to the answer of query i
    same_answer = torch.zeros(n, len(queries), dtype=torch.bool, device=target.device)
    same_answer[:, :n] = target[:, None] == target[None, :]
    same_query = torch.zeros_like(same_answer)
    same_query[:, :n].fill_diagonal_(True)
    code_to_query = cosines_of_answers / temperature + _log_hardness_weights(cosines_of_answers, same_answer, hardness)
    code_to_query = code_to_query.masked_fill(same_answer & ~same_query, -math.inf)
    return (loss + F.cross_entropy(code_to_query, torch.arange(n, device=target.device))) / 2


def matryoshka_loss(
    queries: Tensor,
    codes: Tensor,
    target: Tensor,
    *,
    dimensions: Sequence[int],
    temperature: Tensor | float = 0.05,
    hardness: float = 0.0,
) -> Tensor:
    """Return the mean of :func:`contrastive_loss` over whole vectors and those cut to each of ``dimensions``.

    Cut vectors have unit length again, as they have in use (Kusupati et al. 2022, equation 1, with equal weights).
    """
    vectors = [(queries, codes)]
    vectors += [(F.normalize(queries[:, :d], dim=1), F.normalize(codes[:, :d], dim=1)) for d in dimensions]
    losses = [contrastive_loss(q, c, target, temperature=temperature, hardness=hardness) for q, c in vectors]
    return torch.stack(losses).mean()


def distribution_loss(
    queries: Tensor,
    codes: Tensor,
    teacher_cosines: Sequence[Tensor],
    *,
    temperature: Tensor | float = 0.05,
    teacher_temperature: float = 0.05,
) -> Tensor:
    """Return how far the similarities of a batch are from those of its teachers, in both directions.

    It is the mean of two Kullback-Leibler divergences: of each query's distribution over the codes, and of each code's
    over the queries. The target is the mean of the teachers' distributions.

    Args:
        queries: unit vectors, ``(n, dim)``.
        codes: unit vectors, ``(m, dim)``.
        teacher_cosines: ``(n, m)`` by each teacher.
        temperature: the student's cosines are divided by it.
        teacher_temperature: the teachers' cosines are divided by it.
    """
    student = queries @ codes.T / temperature
    teachers = torch.stack(list(teacher_cosines)) / teacher_temperature  # (teachers, queries, codes)
    directions = ((student, teachers), (student.T, teachers.mT))
    losses = [
        F.kl_div(logits.log_softmax(1), targets.softmax(2).mean(0), reduction="batchmean")
        for logits, targets in directions
    ]
    return torch.stack(losses).mean()


def _log_hardness_weights(cosines: Tensor, positive: Tensor, hardness: float) -> Tensor:
    """Return the log of each negative's weight, ``(rows, columns)``; a row's weights have mean 1, positives have 0."""
    if hardness == 0:
        return torch.zeros_like(cosines)
    logits = (hardness * cosines.detach()).masked_fill(positive, -math.inf)
    negatives = (~positive).sum(1, keepdim=True).clamp(min=1)
    weights = torch.log_softmax(logits, dim=1) + negatives.log()
    return weights.masked_fill(positive, 0.0)


def matching_loss(log_odds: Tensor, lists: Sequence[Sequence[int]], rejected: Sequence[int], *, kind: Loss) -> Tensor:
    """Return the loss of a cross-encoder that scored a batch of pairs.

    ``bce`` is the binary cross-entropy (CasCode: Gotmare et al. 2021, equation 2), the mean of the answers' and of the
    negatives' own means: the answers keep half of the weight however many negatives there are. ``listwise`` is the
    cross-entropy of each answer against the negatives of its query. ``both`` is their sum.

    Args:
        log_odds: ``(pairs,)``.
        lists: for each query the rows in ``log_odds`` of its answer, first, and of its negatives.
        rejected: further rows that do not match and belong to no list.
        kind: which loss.
    """
    loss = log_odds.new_zeros(())
    if kind in ("bce", "both"):
        answers = log_odds[[answer for answer, *_ in lists]]
        negatives = log_odds[[row for _, *rows in lists for row in rows] + list(rejected)]
        loss = loss - F.logsigmoid(answers).mean() / 2
        if len(negatives):
            loss = loss - F.logsigmoid(-negatives).mean() / 2
    if kind in ("listwise", "both"):
        first = torch.zeros(1, dtype=torch.long, device=log_odds.device)
        loss = loss + torch.stack([F.cross_entropy(log_odds[list(rows)][None], first) for rows in lists]).mean()
    return loss


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    codes: Tensor,
    answered: Sequence[int],
    *,
    single: float,
    dual: float,
    contrastive: float,
    temperature: float,
) -> Tensor:
    """Return the weighted sum of three losses of a student query encoder, each the mean over its queries.

    ``single`` weights 1 - cos(student, teacher) (SPENCER, equation 6), ``dual`` weights |cos(code, teacher) -
    cos(code, student)| (SPENCER, equation 7), and ``contrastive`` weights :func:`contrastive_loss` of the answered
    queries at ``temperature``, which a batch needs two of.

    Args:
        student: the student's unit vectors of the queries, ``(queries, dim)``.
        teacher: the teacher's, ``(queries, dim)``.
        codes: the teacher's unit vector of one code for each query, ``(queries, dim)``.
        answered: rows of the queries that their code is known to answer.
    """
    loss = student.new_zeros(())
    if single:
        loss = loss + single * (1 - (student * teacher).sum(1)).mean()
    if dual:
        loss = loss + dual * ((codes * teacher).sum(1) - (codes * student).sum(1)).abs().mean()
    if contrastive and len(answered) > 1:
        rows = list(answered)
        distinct, target = torch.unique(codes[rows], dim=0, return_inverse=True)
        loss = loss + contrastive * contrastive_loss(student[rows], distinct, target, temperature=temperature)
    return loss


def orthogonality_penalty(parameters: Mapping[str, Tensor]) -> Tensor:
    """Return how far AdaLoRA's singular vectors are from orthonormal ones (Zhang et al. 2023, equation 4).

    The mean over the matrices ``lora_A`` (rank, in) and ``lora_B`` (out, rank) in ``parameters`` of the Frobenius
    norm of their Gram matrix (rank, rank) minus the identity.
    """
    distances = []
    for name, p in parameters.items():
        if "lora_A" in name or "lora_B" in name:
            gram = p @ p.T if "lora_A" in name else p.T @ p
            distances.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=p.device)))
    return torch.stack(distances).mean()
