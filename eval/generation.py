"""What retrieval is worth to a writer: questions answered with gold, retrieved and no passages, scored by their text.

A task has the questions, a writer answers them, :func:`generate` brings the two together. No torch is imported until a
writer or a metric needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Literal, get_args

from llamaindex_code_retrieval._io import clean_text, write_atomically
from llamaindex_code_retrieval.eval.results import Answer, GenerationResult
from llamaindex_code_retrieval.eval.writers import ExtractiveWriter, Writer

if TYPE_CHECKING:
    pass
from llamaindex_code_retrieval._optional import require
from llamaindex_code_retrieval.eval.questions import GenerationTask

Condition = Literal["gold", "retrieved", "none"]
"""Which passages the writer is shown: those that hold the answer, a retriever's, or none."""


# --- answers ----------------------------------------------------------------------------------------------------------


class AnswerCache:
    """Answers as files, one for each thing ever asked; with ``None`` for a folder it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @staticmethod
    def key(writer: Writer, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return a digest of all that the answer depends on."""
        facts = [writer.name, writer.settings, instruction, question, list(passages)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """Return the answer; ``None`` where there is no file, or a damaged one."""
        if self.folder is None:
            return None
        try:
            answer = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))["answer"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if isinstance(answer, str) else None

    def put(self, key: str, answer: str) -> None:
        """Keep an answer, in place of any other."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{key}.json", json.dumps({"answer": answer}) + "\n")


def generate(
    task: GenerationTask,
    writer: Writer,
    *,
    condition: Condition,
    run: Mapping[str, Sequence[str]] | None = None,
    system: str = "",
    benchmark_name: str = "",
    top_n: int = 5,
    cache: AnswerCache | None = None,
    retries: int = 2,
    timeout: float = 120.0,
    on_progress: Callable[[int, int], object] | None = None,
) -> GenerationResult:
    """Have a task's questions answered, each from its first ``top_n`` passages under ``condition``, and score them.

    ``run`` is what ``system`` retrieved: question id -> passage ids, best first; a question that it lacks is shown
    none. Under ``gold`` the questions without gold are left out. A writer that raises, or takes over ``timeout``
    seconds, is asked again ``retries`` times; then the question counts as failed, with every metric 0. A writer that
    hangs stays behind in a daemon thread. Answers go to the cache as they come, failures never, so that an interrupted
    call resumes where it was.

    Raises:
        ValueError: an unknown condition, ``retrieved`` without a run, a retrieved id that is no passage, ``gold`` where
            no question has any, a ``top_n``, ``retries`` or ``timeout`` that is too low.
    """
    if top_n < 1 or retries < 0 or timeout <= 0:
        raise ValueError(
            f"top_n must be at least 1, retries at least 0 and timeout over 0, got {top_n}, {retries} and {timeout}"
        )
    shown = {id_: ids[:top_n] for id_, ids in _passages(task, condition, run).items()}
    quoted = isinstance(writer, ExtractiveWriter)
    cache = cache or AnswerCache(None)
    score_answers({})  # a metric's package that is missing shows before an LLM is asked
    answers: dict[str, Answer] = {}
    for question in task.questions:
        if question.id not in shown:
            continue
        ids = shown[question.id]
        passages = [task.answer_of.get(id_, task.passages[id_]) if quoted else task.passages[id_] for id_ in ids]
        key = cache.key(writer, task.instruction, question.text, passages)
        answer, error = cache.get(key), ""
        for _ in range(0 if answer is not None else 1 + retries):
            try:
                answer = _within(timeout, partial(writer.write, task.instruction, question.text, passages))
            except Exception as reason:  # whatever an LLM's client raises
                error = f"{type(reason).__name__}: {reason}"
            else:
                cache.put(key, answer)
                break
        answers[question.id] = Answer(
            question=question.text,
            reference=question.reference,
            answer=answer or "",
            passages=ids,
            error=error if answer is None else "",
        )
        if on_progress is not None:
            on_progress(len(answers), len(shown))
    scores = score_answers({id_: (each.answer, each.reference) for id_, each in answers.items() if not each.error})
    return GenerationResult(
        system=system if condition == "retrieved" else "",
        task=task.name,
        benchmark=benchmark_name,
        benchmark_fingerprint=task.fingerprint,
        condition=condition,
        writer=writer.name,
        values={metric: {id_: scored.get(id_, 0.0) for id_ in answers} for metric, scored in scores.items()},
        answers=answers,
    )


def _passages(
    task: GenerationTask, condition: Condition, run: Mapping[str, Sequence[str]] | None
) -> dict[str, list[str]]:
    """Return question id -> all that it may be shown; questions that are not asked are left out."""
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
            if id_ not in task.passages:
                raise ValueError(
                    f"the run has {id_!r} for question {question.id!r}, which the passages of task {task.name!r} "
                    "lack; retrieve from the same corpus"
                )
        retrieved[question.id] = [id_ for id_ in dict.fromkeys(ids) if id_ not in question.excluded]
    return retrieved


def _within(seconds: float, call: Callable[[], str]) -> str:
    """Return what ``call`` returns, or raise what it raises; TimeoutError if it does neither in time."""
    future: Future[str] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # SystemExit too: whoever waits would else wait until the time is up
            future.set_exception(error)

    Thread(target=work, daemon=True).start()  # an executor's threads would hold up the exit of the process
    try:
        return future.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer within {seconds:g} seconds") from error


def score_answers(answers: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Return metric -> id -> value from 0 to 1, of (answer, reference) by id.

    ``bleu`` (effective order) and ``chrf`` are sacrebleu's for one sentence; ``exact`` is 1.0 where the two are equal
    but for white space.
    """
    sacrebleu = require("sacrebleu", extra="eval", purpose="scoring answers")
    from llamaindex_code_retrieval.eval.rouge import Rouge

    # Arrow takes no lone surrogates, which source code and LLMs may have
    written, references = ([clean_text(pair[i]) for pair in answers.values()] for i in (0, 1))
    values: dict[str, list[float]] = Rouge().compute(predictions=written, references=references, use_aggregator=False)
    pairs = list(zip(written, references, strict=True))
    for name, metric in (("bleu", sacrebleu.BLEU(effective_order=True)), ("chrf", sacrebleu.CHRF())):
        values[name] = [min(1.0, metric.sentence_score(answer, [text]).score / 100) for answer, text in pairs]
    values["exact"] = [float(answer.split() == text.split()) for answer, text in pairs]
    return {name: dict(zip(answers, each, strict=True)) for name, each in values.items()}
