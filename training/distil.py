"""From queries to a query encoder that was compared with its teacher: distillation and evaluation put together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import Progress, read_json, short_hash, write_atomically
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.significance import paired_difference
from llamaindex_code_retrieval.models.files import QUERY_CONFIG, TRAIN_CONFIG
from llamaindex_code_retrieval.models.modify import layer_count
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder, shortened
from llamaindex_code_retrieval.training.assistants import Search, search_assistants
from llamaindex_code_retrieval.training.curves import search_svg
from llamaindex_code_retrieval.training.distillation import Questions, distil_query_encoder, sampled
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.pair_sources import load_pairs
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.queries import load_queries
from llamaindex_code_retrieval.training.recipes import QueryRecipe
from llamaindex_code_retrieval.training.run_record import (
    TrainingRun,
    free_folder,
    run_record,
    save_distillation,
    save_query_encoder,
)
from llamaindex_code_retrieval.training.sampling import sample_pool, select_languages, split_by_repository
from llamaindex_code_retrieval.training.students import Student, make_student, student_facts

POOL = 10_000
"""Codes at most that the held-out queries are asked against."""
VALIDATION_QUERIES = 500
TIMED_QUERIES = 50
SEARCH = "search.json"
_AT_ONCE = 1024

Layers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """Held-out queries, and where their answers are among codes that the teacher has embedded."""

    queries: list[str]
    codes: NDArray[np.float32]
    answers: list[list[int]]

    def reciprocal_ranks(self, vectors: NDArray[np.float32]) -> list[float]:
        """Return for each query 1 / the rank of its first answer; a tie counts against it."""
        found = []
        for vector, answers in zip(vectors, self.answers, strict=True):
            cosines = self.codes @ vector
            best = cosines[answers].max()
            found.append(1 / max(1, int((cosines >= best).sum()) - int((cosines[answers] == best).sum()) + 1))
        return found


@dataclass(frozen=True, slots=True)
class _Lessons:
    """All that every student of one teacher learns from and is measured by."""

    teacher: CodeEmbedding
    pairs: list[Pair]
    questions: Questions
    asked: _Asked
    targets: NDArray[np.float32]
    """The teacher's vectors of the held-out queries."""
    ranks: list[float]
    """The teacher's reciprocal ranks of them."""


def distil_from_sources(
    pairs: Sequence[str],
    queries: Sequence[str],
    folder: str | Path,
    recipe: QueryRecipe,
    *,
    validate_on: Sequence[str] = (),
    device: str | None = None,
    cache_folder: str | Path | None = None,
    resume: bool = False,
    on_progress: Progress | None = None,
) -> TrainingRun[QueryEncoder]:
    """Embed queries and codes by the teacher, train a student on them, compare the two and save it.

    ``pairs`` are sources of :func:`load_pairs` and ``queries`` of :func:`load_queries`. Some pairs are held out (or
    those of ``validate_on`` are taken) and asked against the held-out codes and those that were trained on.

    Raises:
        ValueError: what is wrong with sources, recipe or teacher; no query to learn from; a folder that is in use.
    """
    out = free_folder(folder, resume=resume)
    kept = recipe.student.layers if recipe.student.kind == "layers" else ()
    lessons = _lessons(pairs, queries, recipe, validate_on, device, cache_folder, on_progress, kept=kept)
    return _distil(lessons, lessons.questions, out, recipe, [*pairs, *queries], resume, on_progress)


def search_from_sources(
    pairs: Sequence[str],
    queries: Sequence[str],
    folder: str | Path,
    recipe: QueryRecipe,
    *,
    step: int = 1,
    threshold: float = 0.01,
    validate_on: Sequence[str] = (),
    device: str | None = None,
    cache_folder: str | Path | None = None,
    resume: bool = False,
    on_progress: Progress | None = None,
) -> tuple[Search, TrainingRun[QueryEncoder] | None]:
    """Look for the smallest student that loses at most ``threshold`` MRR, with teaching assistants (SPENCER).

    Each student has a folder of its own in ``students``; an interrupted search goes on with ``resume`` where it was.
    ``search.json`` and ``search.svg`` show who taught whom and what became of it. The chosen one is copied to
    ``folder`` and returned with the search; ``None`` if none was good enough.

    Raises:
        ValueError: as :func:`distil_from_sources`; a step or threshold out of range.
    """
    out = free_folder(folder, resume=resume)
    if recipe.student.kind != "layers":
        raise ValueError(f"assistants are students with fewer layers; a {recipe.student.kind!r} one has no layers less")
    lessons = _lessons(pairs, queries, recipe, validate_on, device, cache_folder, on_progress)
    out.mkdir(parents=True, exist_ok=True)
    students = out / "students"
    first = _mrr(lessons.ranks)

    def distil(kept: Layers, path: tuple[Layers, ...]) -> float:
        own = students / _name((*path, kept))
        taught = lessons.questions
        if len(path) > 1:
            assistant = QueryEncoder.load(students / _name(path), teacher=lessons.teacher.encoder)
            taught = replace(taught, targets=_vectors(assistant.encode_queries, taught.texts, "teach", on_progress))
        own_recipe = recipe.with_settings({"layers": kept})
        run = _distil(lessons, taught, own, own_recipe, [*pairs, *queries], resume, on_progress, path=path)
        mrr: float = run.record["validation_best"]["mrr"]
        return mrr

    layers = layer_count(lessons.teacher.encoder.base)
    search = search_assistants(layers, first, distil, step=step, threshold=threshold)
    record = {
        "teacher_mrr": first,
        "step": step,
        "threshold": threshold,
        "tried": [{"layers": each.layers, "taught_by": each.teacher, "mrr": each.mrr} for each in search.tried],
        "chosen": None if search.chosen is None else search.chosen.path,
    }
    write_atomically(out / SEARCH, json.dumps(record, indent=1) + "\n")
    write_atomically(out / "search.svg", search_svg(search))
    if search.chosen is None:
        return search, None
    chosen = students / _name(search.chosen.path)
    for file in sorted(chosen.iterdir(), key=lambda file: (file.name != QUERY_CONFIG, file.name)):  # says what it is
        if file.is_file():
            write_atomically(out / file.name, file.read_bytes())
    return search, TrainingRun.load(out, QueryEncoder.load(out, teacher=lessons.teacher.encoder))


def _name(path: Sequence[Layers]) -> str:
    """Return a folder's name for a student: how many layers each one on the way to it keeps, and which it does."""
    return "-".join(str(len(layers)) for layers in path) + "_" + ".".join(map(str, path[-1]))


def _mrr(ranks: Sequence[float]) -> float:
    return sum(ranks) / len(ranks)


def _lessons(
    sources: Sequence[str],
    queries: Sequence[str],
    recipe: QueryRecipe,
    validate_on: Sequence[str],
    device: str | None,
    cache_folder: str | Path | None,
    on_progress: Progress | None,
    *,
    kept: Layers = (),
) -> _Lessons:
    pairs = select_languages(load_pairs(*sources), recipe.languages)
    if validate_on:
        train, held_out = pairs, load_pairs(*validate_on)
    elif pairs:
        train, held_out = split_by_repository(pairs, held_out=recipe.held_out, seed=recipe.train.seed)
    else:
        raise ValueError("there are no pairs, so nothing to compare the student by; give --pairs, or --validate")
    asked_for = {pair.query for pair in held_out}
    texts = [pair.query for pair in train]
    texts += [query for source in queries for query in load_queries(source)]
    texts = [text for text in texts if text not in asked_for]
    if not texts:
        raise ValueError(
            "there is no query to learn from that is not held out; give --queries (a search log, one a line) or pairs"
        )
    texts = sampled(texts, recipe.most_queries or len(texts), seed=recipe.train.seed)
    teacher = CodeEmbedding(
        recipe.base, adapter=recipe.teacher or None, device=device, precision="fp32", cache_folder=cache_folder
    )
    if kept:
        teacher.encoder.with_backbone(shortened(kept))  # refuses layers that there are not, before all is embedded
    config = recipe.train
    if (config.dual or config.contrastive) and not train:
        raise ValueError(
            "dual and contrastive compare queries with codes, and there are none to learn from; give --pairs, or "
            "--set dual=0"
        )
    codes = list(dict.fromkeys(pair.code for pair in train)) or [held_out[0].code]
    languages = {pair.code: pair.language for pair in (*train, *held_out)}

    def embed(some: Sequence[str]) -> NDArray[np.float32]:
        return teacher.embed_codes(some, [languages[code] for code in some])

    targets = _vectors(teacher.embed_queries, texts, "teach", on_progress)
    vectors = _vectors(embed, codes, "embed", on_progress)
    row = {code: i for i, code in enumerate(codes)}
    answer = {pair.query: row[pair.code] for pair in reversed(train)}  # the first of several
    code = np.array([answer.get(text, -1) for text in texts], dtype=np.int64)
    is_answer = code >= 0
    others = np.flatnonzero(~is_answer)
    for start in range(0, len(others), _AT_ONCE):
        some = others[start : start + _AT_ONCE]
        code[some] = (targets[some] @ vectors.T).argmax(axis=1)
    digest = short_hash("\n".join([*texts, *codes]))
    questions = Questions(
        texts=texts, targets=targets, codes=vectors, code=code, is_answer=is_answer, fingerprint=digest
    )
    asked = _held_out(held_out, codes, embed, seed=recipe.train.seed)
    told = teacher.embed_queries(asked.queries)
    return _Lessons(teacher, train, questions, asked, told, asked.reciprocal_ranks(told))


def _vectors(
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    texts: Sequence[str],
    stage: str,
    on_progress: Progress | None,
) -> NDArray[np.float32]:
    """Embed in parts, so that progress shows and what is cached survives an interruption."""
    parts = []
    for start in range(0, len(texts), _AT_ONCE):
        parts.append(encode(texts[start : start + _AT_ONCE]))
        if on_progress is not None:
            on_progress(stage, min(start + _AT_ONCE, len(texts)), len(texts))
    return np.concatenate(parts)


def _held_out(
    held_out: Sequence[Pair],
    known: Sequence[str],
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
    *,
    seed: int,
) -> _Asked:
    answers, pool = sample_pool(held_out, known, queries=VALIDATION_QUERIES, codes=POOL, seed=seed)
    if len(pool) < 2 or not answers:
        raise ValueError(
            f"{len(answers)} held-out queries and {len(pool)} codes compare nothing; give more pairs, or --validate"
        )
    row = {code: i for i, code in enumerate(pool)}
    return _Asked(list(answers), embed(pool), [[row[code] for code in sorted(right)] for right in answers.values()])


def _distil(
    lessons: _Lessons,
    questions: Questions,
    out: Path,
    recipe: QueryRecipe,
    sources: Sequence[str],
    resume: bool,
    on_progress: Progress | None,
    path: Sequence[Layers] = (),
) -> TrainingRun[QueryEncoder]:
    """Train and save one student, or return the run of the one that is there already."""
    teacher, asked = lessons.teacher, lessons.asked
    what = student_facts(recipe.student, recipe.adapter)
    if (out / TRAIN_CONFIG).is_file() and not (out / STATE).is_file():
        _check_finished(out, recipe, what, teacher.fingerprint)
        return TrainingRun.load(out, QueryEncoder.load(out, teacher=teacher.encoder))
    student = make_student(
        teacher.encoder, recipe.student, recipe.adapter, max_tokens=recipe.max_query_tokens, seed=recipe.train.seed
    )

    def validate(current: Student) -> dict[str, float]:
        vectors = current.encode_queries(asked.queries)
        ranks = asked.reciprocal_ranks(vectors)
        cosine = float((vectors * lessons.targets).sum(axis=1).mean())
        return {"mrr": _mrr(ranks), "r@1": sum(rank == 1 for rank in ranks) / len(ranks), "cosine": cosine}

    def on_step(step: int, total: int, entry: Mapping[str, Any]) -> None:
        if on_progress is not None:
            on_progress("train", step, total)

    run = distil_query_encoder(
        student,
        questions,
        recipe.train,
        teacher_parameters=sum(p.numel() for p in teacher.encoder.base.parameters()),
        identity={**what, "teacher": teacher.fingerprint, "path": list(path), "max_tokens": recipe.max_query_tokens},
        validate=validate,
        folder=out,
        resume=resume and (out / STATE).is_file(),
        on_step=on_step,
    )
    record = run_record(
        run,
        teacher.encoder,
        pairs=lessons.pairs,
        adapter=recipe.adapter,
        config=recipe.train,
        sources=sources,
        teacher={"name": teacher.model_name, "adapter": teacher.adapter, "fingerprint": teacher.fingerprint},
        student=what,
        taught_by=[list(layers) for layers in path],
        teacher_validation={"mrr": _mrr(lessons.ranks)},
    )
    record["data"]["queries"] = len(questions.texts)
    record["max_query_tokens"] = recipe.max_query_tokens
    save_query_encoder(student, out, recipe.student, teacher=record["teacher"], max_tokens=recipe.max_query_tokens)
    in_use = QueryEncoder.load(out, teacher=teacher.encoder)  # merged or quantized, as it was not in training
    record["fingerprint"] = in_use.fingerprint
    record["kept"] = _kept(lessons, in_use)
    record["milliseconds"] = {
        "teacher": _milliseconds(teacher.encoder.encode_queries, asked.queries),
        "student": _milliseconds(in_use.encode_queries, asked.queries),
    }
    return save_distillation(run.with_model(in_use), out, record)


def _check_finished(folder: Path, recipe: QueryRecipe, student: Mapping[str, Any], teacher: str) -> None:
    """Refuse a finished student that is another one than this run would make."""
    facts = read_json(folder / TRAIN_CONFIG, remedy="train anew in another folder")
    lasting = recipe.train.lasting()
    found = {
        **facts,
        "teacher": facts["teacher"]["fingerprint"],
        "train": {key: facts["train"][key] for key in lasting},
    }
    wanted = {"student": student, "teacher": teacher, "train": lasting, "max_query_tokens": recipe.max_query_tokens}
    for key, value in json.loads(json.dumps(wanted)).items():
        if found[key] != value:
            raise ValueError(
                f"the finished student in {folder} has another {key} than this one ({found[key]} and {value}); resume "
                "with the same, or start anew in another folder"
            )


def _kept(lessons: _Lessons, student: QueryEncoder) -> dict[str, float]:
    """Return which share of the teacher's MRR the student keeps, with the 95 % interval over the held-out queries."""
    teacher = _mrr(lessons.ranks)
    ranks = lessons.asked.reciprocal_ranks(student.encode_queries(lessons.asked.queries))
    difference = paired_difference(lessons.ranks, ranks)
    return {
        "share": 1 + difference.mean / teacher,
        "low": 1 + difference.low / teacher,
        "high": 1 + difference.high / teacher,
        "queries": len(ranks),
    }


def _milliseconds(encode: Callable[[list[str]], Any], queries: Sequence[str]) -> float:
    """Return the median time of one query at a time."""
    taken = []
    for query in (queries[0], *queries[:TIMED_QUERIES]):
        began = time.perf_counter()
        encode([query])
        taken.append(time.perf_counter() - began)
    return round(1000 * median(taken[1:] or taken), 3)
