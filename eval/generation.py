"""Generation with retrieved code: a writer answers questions with gold, retrieved or no passages, and is scored.

Imports torch only if a writer or a metric needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import get_args

from llamaindex_code_retrieval._io import clean_text, write_atomically
from llamaindex_code_retrieval._optional import require
from llamaindex_code_retrieval.eval.questions import GenerationTask, Question
from llamaindex_code_retrieval.eval.results import Answer, Condition, GenerationResult
from llamaindex_code_retrieval.eval.rouge import rouge_scores
from llamaindex_code_retrieval.eval.writers import ExtractiveWriter, Writer


class AnswerCache:
    """A cache of answers, one file each; with ``None`` for the folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @staticmethod
    def key(writer: Writer, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return a hash of all that the answer depends on."""
        content = [writer.name, writer.settings, instruction, question, list(passages)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """Return an answer; ``None`` if it is not cached or its file is damaged."""
        if self.folder is None:
            return None
        try:
            answer = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))["answer"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if isinstance(answer, str) else None

    def put(self, key: str, answer: str) -> None:
        """Keep an answer, replacing an older one."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{key}.json", json.dumps({"answer": answer}) + "\n")


def generate(
    task: GenerationTask,
    writer: Writer,
    *,
    condition: Condition,
    run: Mapping[str, Sequence[str]] | None = None,
    retrieved: Mapping[str, str] | None = None,
    system: str = "",
    benchmark_name: str = "",
    top_n: int = 5,
    cache: AnswerCache | None = None,
    retries: int = 2,
    timeout: float = 120.0,
    on_progress: Callable[[int, int], object] | None = None,
) -> GenerationResult:
    """Let ``writer`` answer the questions of a task, each from its first ``top_n`` passages, and score the answers.

    ``run`` is what ``system`` retrieved: question id -> passage ids, best first; a question that it lacks gets no
    passages. ``retrieved`` has the texts of passages that the task lacks, such as the parts of a long function in an
    index. Under ``gold``, questions without gold passages are left out. A writer that raises an exception, or takes
    longer than ``timeout`` seconds, is called again up to ``retries`` times; then the question counts as failed, with
    every metric 0. A call that hangs is left behind in a daemon thread. Answers are cached as they come, failures are
    not, so that an interrupted call can be resumed.

    Raises:
        ValueError: the condition is unknown, ``retrieved`` has no run, a retrieved id has no text, ``gold`` is
            asked for and no question has gold passages, or ``top_n``, ``retries`` or ``timeout`` is too low.
        ImportError: a package that the metrics need is not installed.
    """
    if top_n < 1 or retries < 0 or timeout <= 0:
        raise ValueError(
            f"top_n must be at least 1, retries at least 0 and timeout over 0, got {top_n}, {retries} and {timeout}"
        )
    texts = {**(retrieved or {}), **task.passages}
    passages = {id_: ids[:top_n] for id_, ids in _passages(task, condition, run, texts).items()}
    cache = cache or AnswerCache(None)
    score_answers({})  # fails now if a package is missing, and not after the writer's work
    answers: dict[str, Answer] = {}
    for question in task.questions:
        if question.id in passages:
            shown = {passage: texts[passage] for passage in passages[question.id]}
            answers[question.id] = _answer(question, shown, task, writer, cache, retries, timeout)
            if on_progress is not None:
                on_progress(len(answers), len(passages))
    scores = score_answers({id_: (each.answer, each.reference) for id_, each in answers.items() if not each.error})
    return GenerationResult(
        system=system if condition == "retrieved" else "",
        task=task.name,
        benchmark=benchmark_name,
        benchmark_fingerprint=task.fingerprint,
        condition=condition,
        writer=writer.name,
        values={metric: {id_: by_id.get(id_, 0.0) for id_ in answers} for metric, by_id in scores.items()},
        answers=answers,
    )


def _answer(
    question: Question,
    shown: Mapping[str, str],
    task: GenerationTask,
    writer: Writer,
    cache: AnswerCache,
    retries: int,
    timeout: float,
) -> Answer:
    """Return the cached or the writer's answer from the passages ``shown``, or the error of the last attempt."""
    quotes = task.answer_of if isinstance(writer, ExtractiveWriter) else {}
    passages = [quotes.get(id_, text) for id_, text in shown.items()]
    key = cache.key(writer, task.instruction, question.text, passages)
    answer, error = cache.get(key), ""
    for _ in range(0 if answer is not None else 1 + retries):
        try:
            answer = _call_within(timeout, partial(writer.write, task.instruction, question.text, passages))
        except Exception as reason:  # the client of an LLM may raise anything
            error = f"{type(reason).__name__}: {reason}"
        else:
            cache.put(key, answer)
            break
    return Answer(
        question=question.text,
        reference=question.reference,
        answer=answer or "",
        passages=list(shown),
        error=error if answer is None else "",
    )


def _passages(
    task: GenerationTask, condition: Condition, run: Mapping[str, Sequence[str]] | None, texts: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return question id -> ids of all passages that it may be shown; questions that are left out are missing."""
    if condition not in get_args(Condition):
        raise ValueError(f"unknown condition {condition!r}; use {', '.join(get_args(Condition))}")
    if condition == "none":
        return {question.id: [] for question in task.questions}
    if condition == "gold":
        gold = {question.id: list(question.gold) for question in task.questions if question.gold}
        if not gold:
            raise ValueError(f"no question of task {task.name!r} has gold passages; use the other conditions")
        return gold
    if run is None:
        raise ValueError("the condition 'retrieved' needs a run: pass run=, question id -> passage ids")
    retrieved: dict[str, list[str]] = {}
    for question in task.questions:
        ids = run.get(question.id, ())
        for id_ in ids:
            if id_ not in texts:
                raise ValueError(
                    f"the run has {id_!r} for question {question.id!r}, which the passages of task {task.name!r} "
                    "lack; retrieve from the same corpus, or pass its text in retrieved="
                )
        retrieved[question.id] = [id_ for id_ in dict.fromkeys(ids) if id_ not in question.excluded]
    return retrieved


def _call_within(seconds: float, call: Callable[[], str]) -> str:
    """Return what ``call`` returns or raise what it raises, or a TimeoutError after ``seconds``."""
    future: Future[str] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # also SystemExit, or the caller would wait until the timeout
            future.set_exception(error)

    Thread(target=work, daemon=True).start()  # the threads of an executor would block the exit of the process
    try:
        return future.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer within {seconds:g} seconds") from error


def score_answers(answers: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Return metric -> id -> value from 0 to 1; ``answers`` maps ids to (answer, reference).

    The metrics are those of :func:`~llamaindex_code_retrieval.eval.rouge.rouge_scores`, sacrebleu's sentence ``bleu``
    (effective order) and ``chrf``, and ``exact``: 1.0 if the texts differ at most in white space.

    Raises:
        ImportError: a package of the extra ``eval`` is not installed.
    """
    sacrebleu = require("sacrebleu", extra="eval", purpose="scoring answers")
    # Source code and the output of LLMs may contain lone surrogates, which sacrebleu refuses.
    written, references = ([clean_text(pair[i]) for pair in answers.values()] for i in (0, 1))
    values = rouge_scores(written, references)
    pairs = list(zip(written, references, strict=True))
    for name, metric in (("bleu", sacrebleu.BLEU(effective_order=True)), ("chrf", sacrebleu.CHRF())):
        values[name] = [min(1.0, metric.sentence_score(answer, [text]).score / 100) for answer, text in pairs]
    values["exact"] = [float(answer.split() == text.split()) for answer, text in pairs]
    return {name: dict(zip(answers, each, strict=True)) for name, each in values.items()}
