"""Distil a query encoder from a teacher: embed its queries, train a student on them, compare the two and save it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from llamaindex_code_retrieval._io import Progress, no_progress, read_json
from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.metrics import mean_reciprocal_rank, reciprocal_rank
from llamaindex_code_retrieval.eval.significance import paired_difference
from llamaindex_code_retrieval.models.files import TRAIN_CONFIG
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.training.checkpoints import save_query_encoder
from llamaindex_code_retrieval.training.distillation import fit_student
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.processes import check_one_process
from llamaindex_code_retrieval.training.recipes import QueryRecipe, load_query_recipe
from llamaindex_code_retrieval.training.run_record import (
    TrainingRun,
    describe_pairs,
    free_folder,
    public_name,
    run_record,
    save_distillation,
)
from llamaindex_code_retrieval.training.students import Student, check_student, new_student, student_record
from llamaindex_code_retrieval.training.teaching import (
    DistillationData,
    HeldOutVectors,
    TeachingSet,
    embed_selection,
    select_queries,
)

TIMED_QUERIES = 50
"""Largest number of test queries whose latency is measured."""


def distil_query_encoder(
    pairs: Sequence[Pair],
    folder: str | Path,
    *,
    queries: Sequence[str] = (),
    recipe: QueryRecipe | None = None,
    validation_pairs: Sequence[Pair] = (),
    device: str | None = None,
    cache_folder: str | Path | None = None,
    resume: bool = False,
    sources: Sequence[str | Path] = (),
    on_progress: Progress = no_progress,
) -> TrainingRun[QueryEncoder]:
    """Train a student to embed queries as a teacher does, and save it in ``folder`` for ``CodeEmbedding``.

    Half of the held-out queries, 500 at most, choose the best step. The share of the teacher's MRR that the student
    retains is measured on the others. An interrupted run is continued with ``resume``.

    Args:
        pairs: some are held out; the queries of the others are learned from, compared with their codes.
        queries: more queries to learn from, without answers.
        recipe: teacher, student and settings; by default the recipe ``static``, with the embedded base as teacher.
        validation_pairs: pairs to hold out in place of some of ``pairs``.
        sources: names of the sources of pairs and queries, for the record and the model card.
        on_progress: called with the stages "teach" (queries embedded), "embed" (codes embedded) and "train".

    Raises:
        ImportError: a package of the extra ``train`` or ``eval`` is missing.
        ValueError: settings, pairs or queries that do not fit, or a folder in use.
        FloatingPointError: the loss or a gradient is not finite.
    """
    check_environment()
    recipe = recipe or load_query_recipe("static")
    folder = free_folder(folder, resume=resume, resumable=(STATE, TRAIN_CONFIG))  # a finished one is returned as it is
    selection = select_queries(pairs, queries, recipe, validation_pairs)
    teacher = load_teacher(recipe, device=device, cache_folder=cache_folder)
    check_student(teacher.torch_encoder, recipe.student)
    data = embed_selection(selection, teacher, on_progress)
    return distil_student(data, data.teaching, folder, recipe, sources=sources, resume=resume, on_progress=on_progress)


def check_environment() -> None:
    """Refuse several processes, and a missing package that a distillation needs at its end.

    Raises:
        ImportError: a package of the extra ``train`` or ``eval`` is missing.
        ValueError: this process is one of several.
    """
    check_one_process("distilling a query encoder")
    check_installed("matplotlib", extra="train", purpose="distilling a query encoder")
    check_installed("scipy", extra="eval", purpose="comparing a student with its teacher")


def load_teacher(recipe: QueryRecipe, *, device: str | None, cache_folder: str | Path | None) -> CodeEmbedding:
    """Load the teacher that a recipe names."""
    return CodeEmbedding(
        recipe.base, adapter=recipe.teacher or None, device=device, precision="fp32", cache_folder=cache_folder
    )


def distil_student(
    data: DistillationData,
    teaching: TeachingSet,
    folder: Path,
    recipe: QueryRecipe,
    *,
    taught_by: Sequence[Sequence[int]] = (),
    sources: Sequence[str | Path] = (),
    resume: bool = False,
    on_progress: Progress = no_progress,
) -> TrainingRun[QueryEncoder]:
    """Train and save one student, or load the one that is finished in ``folder``.

    ``teaching`` has the targets of ``data.teaching``, or those of an assistant; ``taught_by`` are then the layers of
    the teacher and of each assistant.
    """
    encoder = data.teacher.torch_encoder
    identity = {
        **student_record(recipe.student, recipe.adapter),
        "teacher": data.teacher.fingerprint,
        "path": [list(layers) for layers in taught_by],
        "max_tokens": recipe.max_query_tokens,
    }
    if (folder / TRAIN_CONFIG).is_file() and not (folder / STATE).is_file():
        _check_finished(folder, recipe, data, teaching)
        return TrainingRun.load(folder, QueryEncoder.load(folder, teacher=encoder))
    student = new_student(
        encoder, recipe.student, recipe.adapter, max_tokens=recipe.max_query_tokens, seed=recipe.train.seed
    )
    run = fit_student(
        student,
        teaching,
        recipe.train,
        teacher_parameters=sum(p.numel() for p in encoder.base.parameters()),
        identity=identity,
        validate=lambda current: data.validation.metrics(current.encode_queries(data.validation.queries)),
        folder=folder,
        resume=resume and (folder / STATE).is_file(),
        on_step=lambda step, total, entry: on_progress("train", step, total),
    )
    teacher = _teacher_record(data.teacher)
    save_query_encoder(student, folder, recipe.student, teacher=teacher, max_tokens=recipe.max_query_tokens)
    in_use = QueryEncoder.load(folder, teacher=encoder)  # merged or quantized, as it was not in training
    record = _record(run, data, teaching, recipe, sources) | {
        "taught_by": identity["path"],
        "fingerprint": in_use.fingerprint,
        **_compare(data.teacher, in_use, data.test),
    }
    return save_distillation(run.with_model(in_use), folder, record)


def _teacher_record(teacher: CodeEmbedding) -> dict[str, str]:
    return {
        "name": public_name(teacher.model_name),
        "adapter": public_name(teacher.adapter),
        "fingerprint": teacher.fingerprint,
    }


def _record(
    run: TrainingRun[Student],
    data: DistillationData,
    teaching: TeachingSet,
    recipe: QueryRecipe,
    sources: Sequence[str | Path],
) -> dict[str, Any]:
    record = run_record(
        run,
        data.teacher.torch_encoder,
        data=describe_pairs(data.pairs, sources),
        adapter=recipe.adapter,
        config=recipe.train,
        teacher=_teacher_record(data.teacher),
        student=student_record(recipe.student, recipe.adapter),
        teacher_validation={"mrr": data.validation.teacher_mrr()},
        validation_queries=len(data.validation.queries),
    )
    record["data"] |= {"queries": len(teaching.queries), "queries_fingerprint": teaching.fingerprint}
    record["max_query_tokens"] = recipe.max_query_tokens
    return record


def _compare(teacher: CodeEmbedding, student: QueryEncoder, test: HeldOutVectors) -> dict[str, Any]:
    """Return the share of the teacher's MRR that the student retains, and the time that each takes for a query."""
    teacher_ranks, student_ranks = test.ranks(test.targets), test.ranks(student.encode_queries(test.queries))
    teacher_mrr = mean_reciprocal_rank(teacher_ranks)
    difference = paired_difference(
        [reciprocal_rank(rank) for rank in teacher_ranks], [reciprocal_rank(rank) for rank in student_ranks]
    )
    return {
        "kept": {  # shares with the 95 % interval over the queries
            "share": 1 + difference.mean / teacher_mrr,
            "low": 1 + difference.low / teacher_mrr,
            "high": 1 + difference.high / teacher_mrr,
            "queries": len(test.queries),
            "mrr": mean_reciprocal_rank(student_ranks),
            "teacher_mrr": teacher_mrr,
        },
        "milliseconds": {
            "teacher": _median_milliseconds(teacher.torch_encoder.encode_queries, test.queries),
            "student": _median_milliseconds(student.encode_queries, test.queries),
        },
    }


def _median_milliseconds(encode: Callable[[list[str]], object], queries: Sequence[str]) -> float:
    """Return the median time of embedding one query, after one to warm up."""
    times = []
    for query in (queries[0], *queries[:TIMED_QUERIES]):
        started = time.perf_counter()
        encode([query])
        times.append(time.perf_counter() - started)
    return round(1000 * median(times[1:]), 3)


def _check_finished(folder: Path, recipe: QueryRecipe, data: DistillationData, teaching: TeachingSet) -> None:
    """Refuse a finished student that differs from the one that this run would train."""
    record = read_json(folder / TRAIN_CONFIG, remedy="train anew in another folder")
    settings = recipe.train.resume_settings()
    expected = {
        "student": student_record(recipe.student, recipe.adapter),
        "teacher": data.teacher.fingerprint,
        "train": settings,
        "max_query_tokens": recipe.max_query_tokens,
        "queries": teaching.fingerprint,
    }
    finished = {
        **record,
        "teacher": record["teacher"]["fingerprint"],
        "train": {key: record["train"][key] for key in settings},
        "queries": record["data"].get("queries_fingerprint", teaching.fingerprint),
    }
    for key, value in json.loads(json.dumps(expected)).items():
        if finished[key] != value:
            raise ValueError(
                f"the finished student in {folder} has another {key} than this one ({finished[key]} and {value}); "
                "resume with the same, or start anew in another folder"
            )
