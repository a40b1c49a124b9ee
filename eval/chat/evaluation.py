"""Ask one chat all questions of a task under one condition, and measure its answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llama_index.core.schema import NodeWithScore

from llamaindex_code_retrieval.chat.citations import CitationCheck, Citations, check_citations
from llamaindex_code_retrieval.eval.chat.judge import Judge
from llamaindex_code_retrieval.eval.chat.measures import (
    NEEDS_ANSWER,
    by_metric,
    citation_measures,
    count_tokens,
    is_answer,
    retrieval_measures,
)
from llamaindex_code_retrieval.eval.chat.questions import ChatQuestion, fingerprint_of_questions
from llamaindex_code_retrieval.eval.chat.recorded_llm import RecordedLLM
from llamaindex_code_retrieval.eval.chat.systems import ChatSystem
from llamaindex_code_retrieval.eval.metrics import CHAT_METRICS
from llamaindex_code_retrieval.eval.results import TOP, ChatAnswer, ChatResult, Condition
from llamaindex_code_retrieval.eval.rouge import rouge_scores
from llamaindex_code_retrieval.eval.targets import Place

_ROUGE = tuple(metric for metric in NEEDS_ANSWER if metric != "grade")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A question with what became of it."""

    question: ChatQuestion
    hits: Sequence[Place]
    text: str = ""
    passages: Sequence[NodeWithScore] = ()
    first_seconds: float = 0.0
    seconds: float = 0.0
    error: str = ""
    check: CitationCheck = field(default_factory=lambda: CitationCheck(()))


def evaluate_chat(
    systems: Mapping[str, ChatSystem],
    questions: Sequence[ChatQuestion],
    llm: RecordedLLM,
    *,
    task: str,
    condition: Condition,
    system: str = "",
    llm_name: str = "",
    metrics: Sequence[str] = CHAT_METRICS,
    judge: Judge | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> ChatResult:
    """Ask ``systems`` (repository -> its chat) the questions, and measure the answers.

    ROUGE is measured of the questions with a reference answer, retrieval under the condition ``retrieved`` of those
    with targets. Under ``gold``, questions without targets are left out. A question that the LLM fails to answer counts
    as not answered, with a ROUGE of 0. ``seconds`` and ``first_token_seconds`` include the search.

    Raises:
        ValueError: the judge does not reply with a grade.
        ImportError: ``rouge_score`` is not installed.
    """
    rouge_scores([], [])  # fails now if a package is missing, and not after the LLM's work
    chosen = [each for each in questions if each.targets or condition != "gold"]
    asked: list[_Asked] = []
    for question in chosen:
        asked.append(_ask(systems[question.repository], question, llm))
        if on_progress is not None:
            on_progress(len(asked), len(chosen))
    values = {each.question.id: _measure(each, condition) for each in asked}
    for id_, rouge in _rouge(asked).items():
        values[id_] |= rouge
    if judge is not None:
        for each in asked:
            if each.question.answer and not each.error:
                grade = judge.grade(each.question.text, each.question.answer, each.text)
                values[each.question.id]["grade"] = float(grade)
    measured = by_metric(values)
    return ChatResult(
        system=system if condition == "retrieved" else "",
        task=task,
        benchmark=task,
        benchmark_fingerprint=fingerprint_of_questions(questions),
        condition=condition,
        llm=llm_name or llm.model_name,
        values={metric: measured[metric] for metric in metrics if metric in measured},
        answers={each.question.id: _answer(each) for each in asked},
    )


def _ask(system: ChatSystem, question: ChatQuestion, llm: RecordedLLM) -> _Asked:
    hits = system.rank(question)
    llm.take_replies()
    started = time.perf_counter()
    try:
        text, passages = system.answer(question, llm)
    except Exception as error:  # the client of an LLM may raise anything
        return _Asked(question=question, hits=hits, error=f"{type(error).__name__}: {error}")
    replies, in_llm = llm.take_replies()
    search = time.perf_counter() - started - in_llm
    # LlamaIndex asks again to refine an answer; a user sees the first piece of the last reply.
    before = search + sum(reply.seconds for reply in replies[:-1])
    return _Asked(
        question=question,
        hits=hits,
        text=text,
        passages=passages,
        first_seconds=before + (replies[-1].first_seconds if replies else 0.0),
        seconds=before + (replies[-1].seconds if replies else 0.0),
        check=check_citations(text, passages),
    )


def _measure(asked: _Asked, condition: Condition) -> dict[str, float]:
    """Return what can be measured without the other questions."""
    values: dict[str, float] = {"answered": float(not asked.error and is_answer(asked.text))}
    if condition == "retrieved" and asked.question.targets:
        values |= retrieval_measures(asked.hits, asked.question.targets)
    if not asked.error:
        values |= citation_measures(asked.check, asked.question.targets)
        values["context_tokens"] = float(count_tokens(asked.passages))
        values["first_token_seconds"], values["seconds"] = asked.first_seconds, asked.seconds
    return values


def _rouge(asked: Sequence[_Asked]) -> dict[str, dict[str, float]]:
    """Return question id -> metric -> value of the questions with a reference answer."""
    scored = [each for each in asked if each.question.answer]
    scores = rouge_scores([each.text for each in scored], [each.question.answer for each in scored])
    return {each.question.id: {name: scores[name][i] for name in _ROUGE} for i, each in enumerate(scored)}


def _answer(asked: _Asked) -> ChatAnswer:
    return ChatAnswer(
        question=asked.question.text,
        reference=asked.question.answer,
        answer=asked.text,
        targets=[str(target) for target in asked.question.targets],
        hits=[str(place) for place in asked.hits[:TOP]],
        passages=str(Citations.of(asked.passages)).splitlines(),
        cited=[str(each) for each in asked.check.cited],
        not_in_prompt=list(asked.check.unknown_citations),
        error=asked.error,
    )
