"""Distillation of query encoders: a student learns its teacher's vectors of queries; those of code stay (SPENCER)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamaindex_code_retrieval.models.batching import token_budget_batches
from llamaindex_code_retrieval.training.batches import Epochs
from llamaindex_code_retrieval.training.config import DistilConfig
from llamaindex_code_retrieval.training.loop import Loop, OnStep
from llamaindex_code_retrieval.training.losses import distillation_loss
from llamaindex_code_retrieval.training.run_record import TrainingRun
from llamaindex_code_retrieval.training.students import Student

ValidateStudent = Callable[[Student], Mapping[str, float]]
"""Scores the student as it is; ``mrr`` decides which step is the best one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What a student learns from: queries, the teacher's vectors of them, and codes to compare both with."""

    texts: Sequence[str]
    targets: NDArray[np.float32]
    """(queries, dim): unit vectors of the teacher, or of an assistant in its place."""
    codes: NDArray[np.float32]
    """(codes, dim): unit vectors of the teacher."""
    code: NDArray[np.int64]
    """(queries,): the row in ``codes`` to compare the query with: its answer or else the nearest one."""
    is_answer: NDArray[np.bool_]
    """(queries,): whether that code is known to answer the query."""
    fingerprint: str
    """Over texts and codes."""


def distil_query_encoder(
    student: Student,
    questions: Questions,
    config: DistilConfig,
    *,
    teacher_parameters: int,
    identity: Mapping[str, Any],
    validate: ValidateStudent | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> TrainingRun[Student]:
    """Train a student of :func:`make_student` and return the best one.

    ``identity`` says what student of which teacher it is; the rest is as in :func:`train_adapter`.

    Raises:
        ValueError: vectors of unlike length, fewer queries than a batch, labels asked for and none there; ``resume``
            without a state, or with one of other settings or questions.
        FloatingPointError: the loss or a gradient is not finite; the state before that step is kept.
    """
    dims = {student.encode_queries(["a"]).shape[1], questions.targets.shape[1], questions.codes.shape[1]}
    if len(dims) > 1:
        raise ValueError(
            f"student, teacher and codes have vectors of unlike length ({', '.join(map(str, sorted(dims)))}), so their "
            "cosines mean nothing; distil from the encoder that made the codes' vectors"
        )
    if len(questions.texts) < config.batch_size:
        raise ValueError(
            f"{len(questions.texts)} queries are fewer than a batch of {config.batch_size}; lower batch_size or give "
            "more with --queries"
        )
    if config.contrastive and not questions.is_answer.any():
        raise ValueError("contrastive is over 0, but no query has a code that answers it; give pairs, or set it to 0")
    total = max(1, round(config.epochs * len(questions.texts) / config.batch_size))
    loop = Loop(
        Imitation(student, questions, config),
        config,
        total=total,
        identity={
            "student": json.dumps(dict(identity), sort_keys=True),
            "questions": questions.fingerprint,
            "settings": json.dumps(config.lasting(), sort_keys=True),
        },
        folder=None if folder is None else Path(folder),
        on_step=on_step,
    )
    if resume:
        loop.load()
    loop.go(None if validate is None else lambda: validate(student))
    loop.restore_best()
    module: Any = student
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    device = next(module.parameters()).device
    return TrainingRun.of_loop(
        loop, student, trained_parameters=trained, base_parameters=teacher_parameters, device=device
    )


class Imitation:
    """Being near the teacher's vectors, as an objective of the loop."""

    ready = True

    def __init__(self, student: Student, questions: Questions, config: DistilConfig) -> None:
        module: Any = student
        self.student = student
        self.config = config
        self.parameters: Mapping[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.extras: Mapping[str, Tensor] = {}
        self.rate_factors: Mapping[str, float] = {}
        self.questions = questions
        self.ids = student.tokenize(questions.texts, side="query")
        self.epochs = Epochs(len(questions.texts), config.batch_size, config.seed)

    def prepare(self, step: int) -> None:
        """Nothing."""

    def backward(self, step: int) -> tuple[float, str]:
        """Add the gradient of the batch of this step."""
        rows = self.epochs.batch(step)
        parts: list[Tensor] = []
        order: list[int] = []
        for chunk in token_budget_batches([len(self.ids[row]) for row in rows], self.config.forward_tokens):
            parts.append(self.student.embed([self.ids[rows[i]] for i in chunk]))
            order.extend(chunk)
        vectors = torch.cat(parts)
        rows = [rows[i] for i in order]
        questions, config = self.questions, self.config
        answered = [i for i, row in enumerate(rows) if questions.is_answer[row]]
        loss = distillation_loss(
            vectors,
            torch.from_numpy(questions.targets[rows]).to(vectors.device),
            torch.from_numpy(questions.codes[questions.code[rows]]).to(vectors.device),
            answered,
            single=config.single,
            dual=config.dual,
            contrastive=config.contrastive,
            temperature=config.temperature,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), f"the batch that begins with the query {questions.texts[rows[0]][:60]!r}"

    def rewind(self) -> None:
        """Nothing: a batch depends on its step alone."""

    def finish(self, step: int) -> dict[str, Any]:
        """Nothing."""
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing: all follows from the step."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Nothing."""


def sampled(texts: Sequence[str], most: int, *, seed: int) -> list[str]:
    """Return at most so many texts, without doubles, in an order drawn from the seed."""
    distinct = list(dict.fromkeys(texts))
    return random.Random(seed).sample(distinct, min(most, len(distinct)))
