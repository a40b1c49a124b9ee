"""Train a student query encoder to the vectors of its teacher; the vectors of code stay (SPENCER: Gu et al. 2025)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llamaindex_code_retrieval.models.batching import token_budget_batches
from llamaindex_code_retrieval.training.batches import Epochs
from llamaindex_code_retrieval.training.config import DistilConfig
from llamaindex_code_retrieval.training.loop import Loop, OnStep
from llamaindex_code_retrieval.training.losses import distillation_loss
from llamaindex_code_retrieval.training.run_record import TrainingRun
from llamaindex_code_retrieval.training.students import Student
from llamaindex_code_retrieval.training.teaching import TeachingSet, check_sizes

ValidateStudent = Callable[[Student], Mapping[str, float]]
"""Returns validation scores of the student; ``mrr`` decides which step is the best one."""


def fit_student(
    student: Student,
    teaching: TeachingSet,
    config: DistilConfig,
    *,
    teacher_parameters: int,
    identity: Mapping[str, Any],
    validate: ValidateStudent | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> TrainingRun[Student]:
    """Train a student of :func:`new_student` and leave it with the weights of the best step.

    Args:
        teacher_parameters: parameters of the teacher, for the record.
        identity: what has to be equal for an unfinished run to be resumed, besides queries, codes and settings.
        validate: called before the first step and every ``validate_steps``.
        folder: where the state of the unfinished run is saved; ``None`` saves none.
        resume: continue the unfinished run in ``folder``.
        on_step: called after each step and validation.

    Raises:
        ValueError: vectors of different length; fewer queries than a batch; ``contrastive`` with fewer than two answers
            to compare; ``resume`` without a state, or with the state of a run with other settings or queries.
        FloatingPointError: the loss or a gradient is not finite; the state before that step is kept.
    """
    dims = {student.encode_queries(["a"]).shape[1], teaching.targets.shape[1], teaching.codes.shape[1]}
    if len(dims) > 1:
        raise ValueError(
            f"the vectors of student, teacher and codes differ in length ({', '.join(map(str, sorted(dims)))}); "
            "distil from the encoder that made the vectors of the codes"
        )
    check_sizes(len(teaching.queries), len(np.unique(teaching.code_rows[teaching.answered])), config)
    loop = Loop(
        Distillation(student, teaching, config),
        config,
        total=config.total_steps(len(teaching.queries)),
        identity={
            "student": json.dumps(dict(identity), sort_keys=True),
            "queries": teaching.fingerprint,
            "settings": json.dumps(config.resume_settings(), sort_keys=True),
        },
        folder=None if folder is None else Path(folder),
        on_step=on_step,
    )
    if resume:
        loop.load()
    loop.run(None if validate is None else lambda: validate(student))
    loop.restore_best()
    parameters = list(student.parameters())
    return TrainingRun.of_loop(
        loop,
        student,
        trained_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        base_parameters=teacher_parameters,
        device=parameters[0].device,
    )


class Distillation:
    """The distillation loss of a student; an :class:`~llamaindex_code_retrieval.training.objective.Objective`."""

    ready = True

    def __init__(self, student: Student, teaching: TeachingSet, config: DistilConfig) -> None:
        self.student = student
        self.teaching = teaching
        self.config = config
        self.parameters: Mapping[str, Tensor] = {name: p for name, p in student.named_parameters() if p.requires_grad}
        self.extras: Mapping[str, Tensor] = {}
        self.rate_factors: Mapping[str, float] = {}
        self.ids = student.tokenize(teaching.queries, side="query")
        self.epochs = Epochs(len(teaching.queries), config.batch_size, config.seed)

    def prepare(self, step: int) -> None:
        """Do nothing."""

    def backward(self, step: int) -> tuple[float, str]:
        """Add the gradients of the batch of this step; return its loss and what to call the batch in an error."""
        teaching, config = self.teaching, self.config
        rows = self.epochs.batch(step)
        order: list[int] = []
        parts: list[Tensor] = []
        for chunk in token_budget_batches([len(self.ids[row]) for row in rows], config.forward_tokens):
            parts.append(self.student.embed([self.ids[rows[i]] for i in chunk]))
            order.extend(chunk)
        student = torch.cat(parts)  # (queries, dim), in the order of the chunks
        rows = [rows[i] for i in order]
        loss = distillation_loss(
            student,
            torch.from_numpy(teaching.targets[rows]).to(student.device),
            torch.from_numpy(teaching.codes[teaching.code_rows[rows]]).to(student.device),
            np.flatnonzero(teaching.answered[rows]).tolist(),
            single=config.single,
            dual=config.dual,
            contrastive=config.contrastive,
            temperature=config.temperature,
        )
        torch.autograd.backward(loss)
        return float(loss.detach()), f"the batch that begins with the query {teaching.queries[rows[0]][:60]!r}"

    def rewind(self) -> None:
        """Do nothing: a batch depends on its step alone."""

    def finish(self, step: int) -> dict[str, Any]:
        """Log nothing."""
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return nothing: everything follows from the step."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Do nothing."""
