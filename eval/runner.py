"""Run a suite: measure each system on each task, and keep the finished parts of an interrupted run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import BaseModel

from llamaindex_code_retrieval._io import Progress, json_hash, make_folder, no_progress
from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.eval.chat.build import Indexes, build_chat
from llamaindex_code_retrieval.eval.chat.evaluation import evaluate_chat
from llamaindex_code_retrieval.eval.chat.questions import fingerprint_of_questions
from llamaindex_code_retrieval.eval.chat.tasks import LoadedChat
from llamaindex_code_retrieval.eval.datasets import Benchmark
from llamaindex_code_retrieval.eval.environment import code_fingerprint, current_environment
from llamaindex_code_retrieval.eval.gate import check_comparable
from llamaindex_code_retrieval.eval.generation import AnswerCache, generate
from llamaindex_code_retrieval.eval.loading import (
    LoadedQuestions,
    LoadedRepositoryTask,
    LoadedSuite,
    LoadedSystem,
    LoadedTask,
    load_parts,
)
from llamaindex_code_retrieval.eval.metrics import CHAT_METRICS
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestions
from llamaindex_code_retrieval.eval.repository_retrieval import evaluate_questions, index_sources_once
from llamaindex_code_retrieval.eval.results import (
    TOP,
    ChatResult,
    Condition,
    Engine,
    GenerationResult,
    PlannedResult,
    Published,
    Report,
    RetrievalResult,
    chat_result,
    generation_result,
    protocol_name,
    retrieval_result,
)
from llamaindex_code_retrieval.eval.retrieval import benchmark_index, evaluate_retrieval, index_once
from llamaindex_code_retrieval.eval.suite import Suite
from llamaindex_code_retrieval.eval.unfinished import Unfinished
from llamaindex_code_retrieval.index.code_index import CodeIndex

_UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run: the report, and the codes of its benchmarks."""

    report: Report
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Task -> corpus id -> code."""


def run_suite(
    suite: Suite,
    *,
    baseline: Report | None = None,
    out: str | Path | None = None,
    cache_folder: Path | None = None,
    device: str | None = None,
    on_progress: Progress = no_progress,
) -> Outcome:
    """Measure every system on every task.

    With ``out`` each result is kept in that folder as soon as it is finished, and an interrupted run of the same suite,
    models, data sets and package version goes on after the last one. Data sets that are missing and optional models
    that are not available are skipped, with the reason in ``report.skipped``. A ``baseline`` is only checked: before
    anything is measured it is refused if it cannot be compared with this run.

    Raises:
        ValueError: nothing of the suite can be run, a part cannot be loaded, or a part refuses its settings.
        IncomparableError: the baseline does not fit, see :func:`compare`.
        ImportError: a package of the extra ``eval`` is not installed.
        OSError: ``out`` cannot be written to.
    """
    started = time.perf_counter()
    unfinished = Unfinished(None if out is None else make_folder(out) / _UNFINISHED)
    if baseline is not None:
        check_installed("scipy", extra="eval", purpose="comparing with a baseline")
    loaded = load_parts(suite, cache_folder=cache_folder, device=device)
    if baseline is not None:
        check_comparable(*_planned(loaded), _planned_chats(loaded), baseline, suite.gate, skipped=loaded.skipped)
    run = _Run(loaded, unfinished, cache_folder, on_progress)
    run.measure_retrieval()
    run.measure_questions()
    run.measure_generation()
    run.measure_chats()
    environment = current_environment()
    report = Report(
        suite=suite.name,
        date=environment.date,
        machine=environment.machine,
        versions=environment.versions,
        retrieval=list(run.retrieval.values()),
        generation=run.generation,
        chat=run.chats,
        published=[Published(**each.model_dump()) for each in suite.published],
        skipped=loaded.skipped,
        seconds=round(time.perf_counter() - started, 1),
    )
    unfinished.delete()
    return Outcome(report, {task.spec.name: dict(task.benchmark.corpus) for task in loaded.tasks})


def _planned(loaded: LoadedSuite) -> tuple[list[PlannedResult], list[PlannedResult]]:
    """Return the results that a run will have, of retrieval and of generation."""
    suite = loaded.suite
    retrieval = [
        PlannedResult(
            system=system.spec.name,
            task=task.spec.name,
            metrics=suite.metrics,
            benchmark=task.benchmark.name,
            benchmark_fingerprint=task.benchmark.fingerprint,
            protocol=protocol_name(task.spec.pool_size, suite.seed),
            depth=system.depth,
        )
        for task in loaded.tasks
        for system in loaded.systems_of(task.spec)
    ]
    retrieval += [
        PlannedResult(
            system=system.spec.name,
            task=task.spec.name,
            metrics=suite.metrics,
            benchmark=task.spec.name,
            benchmark_fingerprint=task.fingerprint,
            protocol=protocol_name(0, suite.seed),
            depth=system.depth,
        )
        for task in loaded.repository_tasks
        for system in loaded.systems_of(task.spec)
    ]
    generation = [
        PlannedResult(
            system=system.spec.name,
            task=questions.task.name,
            benchmark=questions.spec.name,
            benchmark_fingerprint=questions.task.fingerprint,
            writer=questions.writer.name,
        )
        for questions in loaded.questions
        for system in loaded.systems_of(questions.spec)
    ]
    return retrieval, generation


def _planned_chats(loaded: LoadedSuite) -> list[PlannedResult]:
    """Return the results of chats that a run will have."""
    return [
        PlannedResult(
            system=_chat_name(system, engine),
            task=chat.spec.name,
            metrics=chat.spec.metrics or CHAT_METRICS,
            benchmark=chat.spec.name,
            benchmark_fingerprint=fingerprint_of_questions(chat.questions),
            llm=chat.llm_name,
        )
        for chat in loaded.chats
        if "retrieved" in chat.spec.conditions
        for system in loaded.systems_of(chat.spec)
        for engine in chat.spec.engines
    ]


def _chat_name(system: LoadedSystem, engine: Engine) -> str:
    return system.spec.name if engine == "assembled" else f"{system.spec.name}, {engine}"


class _Run:
    """One run over the loaded parts of a suite."""

    def __init__(
        self, loaded: LoadedSuite, unfinished: Unfinished, cache_folder: Path | None, on_progress: Progress
    ) -> None:
        self.loaded = loaded
        self.suite = loaded.suite
        self.unfinished = unfinished
        self.answers = None if cache_folder is None else AnswerCache(cache_folder / "answers")
        self.on_progress = on_progress
        self.retrieval: dict[tuple[str, str], RetrievalResult] = {}
        """(System, task) -> result."""
        self.generation: list[GenerationResult] = []
        self.chats: list[ChatResult] = []
        self.indexes: dict[str, Indexes] = {}
        """Key of a system's vectors -> the indexes of its chats."""

    # --- retrieval ---------------------------------------------------------------------------------------------------

    def measure_retrieval(self) -> None:
        """Measure each system on each task; systems that share their vectors share the index."""
        for task in self.loaded.tasks:
            for systems in self.loaded.systems_by_vectors(task.spec):
                index_of = index_once(systems[0].embedding, on_progress=self.on_progress)
                for system in systems:
                    self.retrieval[system.spec.name, task.spec.name] = self._retrieval_result(task, system, index_of)

    def _retrieval_result(
        self, task: LoadedTask, system: LoadedSystem, index_of: Callable[[Benchmark], CodeIndex]
    ) -> RetrievalResult:
        fingerprint = system.embedding.query_fingerprint
        key = self._key("retrieval", system, task.spec, fingerprint, task.benchmark.fingerprint)
        return self._resumed(
            key,
            lambda: evaluate_retrieval(
                lambda pool: system.retriever(index_of(pool)),
                task.benchmark,
                system=system.spec.name,
                task=task.spec.name,
                depth=system.depth,
                pool_size=task.spec.pool_size,
                seed=self.suite.seed,
                metrics=self.suite.metrics,
                postprocessors=system.postprocessors,
                fingerprint=fingerprint,
                on_progress=self._show_evaluation,
            ),
        )

    def measure_questions(self) -> None:
        """Ask each system the questions about repositories."""
        for task in self.loaded.repository_tasks:
            sources = {each.questions.name: each.sources for each in task.repositories}
            for systems in self.loaded.systems_by_vectors(task.spec):
                index_of = index_sources_once(sources, systems[0].embedding, on_progress=self.on_progress)
                for system in systems:
                    self.retrieval[system.spec.name, task.spec.name] = self._question_result(task, system, index_of)

    def _question_result(
        self, task: LoadedRepositoryTask, system: LoadedSystem, index_of: Callable[[RepositoryQuestions], CodeIndex]
    ) -> RetrievalResult:
        fingerprint = system.embedding.query_fingerprint
        key = self._key("questions", system, task.spec, fingerprint, task.fingerprint, task.source_fingerprint)
        return self._resumed(
            key,
            lambda: evaluate_questions(
                lambda repository: system.retriever(index_of(repository)),
                task.questions,
                system=system.spec.name,
                task=task.spec.name,
                depth=system.depth,
                metrics=self.suite.metrics,
                postprocessors=system.postprocessors,
                fingerprint=fingerprint,
                on_progress=self._show_evaluation,
            ),
        )

    def _resumed(self, key: str, measure: Callable[[], RetrievalResult]) -> RetrievalResult:
        """Return the result that an interrupted run has saved under this key, or measure and save it."""
        result = self.unfinished.load(key, retrieval_result)
        if result is None:
            result = measure()
            self.unfinished.save(key, asdict(result))
        return result

    def _show_evaluation(self, done: int, total: int) -> None:
        self.on_progress("evaluate", done, total)

    # --- generation --------------------------------------------------------------------------------------------------

    def measure_generation(self) -> None:
        """Have all questions answered with gold passages, with those of each system, and without any."""
        for questions in self.loaded.questions:
            if any(question.gold for question in questions.task.questions):
                self._answer(questions, "gold", None)
            for system in self.loaded.systems_of(questions.spec):
                self._answer(questions, "retrieved", system)
            self._answer(questions, "none", None)

    def _answer(self, questions: LoadedQuestions, condition: Condition, system: LoadedSystem | None) -> None:
        spec, task, writer = questions.spec, questions.task, questions.writer
        model = "" if system is None else system.embedding.query_fingerprint
        key = self._key(condition, system, spec, model, task.fingerprint, writer.settings)
        result = self.unfinished.load(key, generation_result)
        if result is None:
            run, retrieved = (None, None) if system is None else self._passages(questions, system)
            result = generate(
                task,
                writer,
                condition=condition,
                run=run,
                retrieved=retrieved,
                system="" if system is None else system.spec.name,
                benchmark_name=spec.name,
                top_n=spec.top_n,
                cache=self.answers,
                timeout=spec.timeout,
                on_progress=lambda done, total: self.on_progress("generate", done, total),
            )
            self.unfinished.save(key, asdict(result))
        self.generation.append(result)

    def _passages(
        self, questions: LoadedQuestions, system: LoadedSystem
    ) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Return question id -> passage ids, best first, and the texts of those passages."""
        spec = questions.spec
        measured = self.retrieval.get((system.spec.name, spec.task or ""))
        if spec.kind == "code" and measured is not None and spec.top_n <= TOP:
            return measured.top, {}
        if spec.kind == "sweqa":
            index = CodeIndex(system.embedding)
            index.update_texts(dict(questions.sources), on_progress=self.on_progress)
        else:
            benchmark = next(task.benchmark for task in self.loaded.tasks if task.spec.name == spec.task)
            index = benchmark_index(benchmark, system.embedding, on_progress=self.on_progress)
        # One more than the writer is shown, because a question's own code is never shown to it.
        retriever = system.retriever(index, depth=None if system.postprocessors else spec.top_n + 1)
        passages: dict[str, list[str]] = {}
        texts: dict[str, str] = {}
        for question in questions.task.questions:
            hits = retriever.retrieve(question.text)
            for reranker in system.postprocessors:
                hits = reranker.postprocess_nodes(hits, query_str=question.text)
            passages[question.id] = [hit.node_id for hit in hits]
            texts |= {hit.node_id: hit.node.get_content() for hit in hits}
        return passages, texts

    # --- chats -------------------------------------------------------------------------------------------------------

    def measure_chats(self) -> None:
        """Have all questions of each chat answered with gold passages, with those of each system, and without any."""
        for chat in self.loaded.chats:
            systems = self.loaded.systems_of(chat.spec)
            for condition in chat.spec.conditions:
                if condition == "gold" and not any(question.targets for question in chat.questions):
                    continue
                retrieved = condition == "retrieved"
                engines: tuple[Engine, ...] = chat.spec.engines if retrieved else ("assembled",)
                for system in systems if retrieved else systems[:1]:
                    for engine in engines:
                        self._chat(chat, condition, system, engine)

    def _chat(self, chat: LoadedChat, condition: Condition, system: LoadedSystem, engine: Engine) -> None:
        code = json_hash({repository: dict(sources) for repository, sources in chat.sources.items()})
        parts = (engine, system.embedding.query_fingerprint, fingerprint_of_questions(chat.questions), code)
        key = self._key(f"chat, {condition}", system, chat.spec, *parts)
        result = self.unfinished.load(key, chat_result)
        if result is None:
            indexes = self.indexes.setdefault(system.spec.vectors, Indexes(system.embedding, self.on_progress))
            result = evaluate_chat(
                {
                    repository: build_chat(
                        condition,
                        engine,
                        sources,
                        indexes,
                        retriever_of=lambda index: system.retriever(index, depth=chat.spec.top_k),
                        rerankers=system.postprocessors,
                        max_context_tokens=chat.spec.max_context_tokens,
                        quotes=chat.quotes,
                    )
                    for repository, sources in chat.sources.items()
                },
                chat.questions,
                chat.llm,
                task=chat.spec.name,
                condition=condition,
                system=_chat_name(system, engine),
                llm_name=chat.llm_name,
                metrics=chat.spec.metrics or CHAT_METRICS,
                judge=chat.judge,
                on_progress=lambda done, total: self.on_progress("answer", done, total),
            )
            self.unfinished.save(key, asdict(result))
        self.chats.append(result)

    def _key(self, kind: str, system: LoadedSystem | None, spec: BaseModel, *more: str) -> str:
        """Return a hash of all that a result depends on."""
        return json_hash(
            [
                kind,
                None if system is None else system.spec.model_dump(),
                spec.model_dump(),
                self.suite.depth,
                self.suite.seed,
                self.suite.metrics,
                code_fingerprint(),
                *more,
            ]
        )
