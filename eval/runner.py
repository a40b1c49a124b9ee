"""Run a suite: measure each system on each task and keep unfinished work."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from llama_index.core.schema import Document, TextNode
from pydantic import BaseModel

import llamaindex_code_retrieval
from llamaindex_code_retrieval._io import Progress, json_hash, short_hash, write_atomically
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.datasets import Benchmark, data_folder, documented_functions, load_beir
from llamaindex_code_retrieval.eval.generation import AnswerCache, Condition, generate
from llamaindex_code_retrieval.eval.questions import GenerationTask, code_from_description, docstring_from_code, sweqa
from llamaindex_code_retrieval.eval.rerank_curve import CurveReport, checked_ks, rerank_curve
from llamaindex_code_retrieval.eval.results import (
    GenerationResult,
    Published,
    Report,
    RetrievalResult,
    generation_result,
    retrieval_result,
)
from llamaindex_code_retrieval.eval.retrieval import benchmark_index, evaluate_retrieval
from llamaindex_code_retrieval.eval.suite import GenerationSpec, Suite, SystemSpec, TaskSpec
from llamaindex_code_retrieval.eval.writers import load_writer
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.sources import read_sources
from llamaindex_code_retrieval.models.scoring import shares_base
from llamaindex_code_retrieval.reranker import CodeReranker

T = TypeVar("T")
_UNFINISHED, _UNFINISHED_CURVES = "unfinished", "unfinished-curves"  # either survives the other's end


@dataclass(slots=True)
class Outcome:
    """A finished run: the report, and the codes that it shows some of."""

    report: Report
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Task -> corpus id -> code."""


def run_suite(
    suite: Suite,
    *,
    out: str | Path | None = None,
    cache_folder: Path | None = None,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> Outcome:
    """Measure every system on every task.

    With ``out`` each result is kept there as soon as it is there, and an interrupted run of the same suite, models,
    sets and package goes on behind the last one. Sets that are not at hand, and optional models, are left out with the
    reason in ``report.skipped``.

    Raises:
        ValueError: nothing of the suite can be run; a model or reranker that is not optional is not to be had; what
            the parts of the suite raise.
    """
    kept = None if out is None else Path(out) / _UNFINISHED
    return _Run(suite, kept, cache_folder, device, on_progress or (lambda stage, done, total: None)).go()


def run_curves(
    suite: Suite,
    ks: Sequence[int],
    *,
    latency_queries: int = 20,
    out: str | Path | None = None,
    cache_folder: Path | None = None,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> CurveReport:
    """Measure every system with a reranker on every retrieval task at each K, see :func:`rerank_curve`.

    The first stage is asked for as many hits as the suite's depth, and at least the largest K; ``rerank_top_n``,
    ``rerank_k`` and ``early_exit`` of a system have no part in it. With ``out`` the log-odds of all pairs are kept
    there until all is done, and an interrupted run goes on from them.

    Raises:
        ValueError: K's that are none, see :func:`parse_ks`; no task, or no system with a reranker; what
            :func:`run_suite` raises.
    """
    kept = None if out is None else Path(out) / _UNFINISHED_CURVES
    run = _Run(suite, kept, cache_folder, device, on_progress or (lambda stage, done, total: None))
    return run.curves(checked_ks(ks), latency_queries=latency_queries)


class _Run:
    def __init__(
        self,
        suite: Suite,
        kept: Path | None,
        cache_folder: Path | None,
        device: str | None,
        on_progress: Progress,
    ) -> None:
        self.suite = suite
        self.kept = kept
        self.cache_folder = cache_folder
        self.device = device
        self.on_progress = on_progress
        self.skipped: dict[str, str] = {}
        self.embeddings: dict[str, CodeEmbedding] = {}
        self.benchmarks: dict[str, Benchmark] = {}
        self.found: dict[tuple[str, str], RetrievalResult] = {}
        self.generated: list[GenerationResult] = []

    def go(self) -> Outcome:
        started = time.perf_counter()
        systems = self._load(self.suite.system)
        for task in self.suite.task:
            if task.name in self.benchmarks:
                for same in _by_vectors(systems):
                    self._measure(task, same)
        for spec in self.suite.generation:
            self._generate(spec, [system for system in systems if not spec.systems or system.name in spec.systems])
        if not self.found and not self.generated:
            raise self._nothing()
        report = Report(
            suite=self.suite.name,
            **_surroundings(),
            retrieval=list(self.found.values()),
            generation=self.generated,
            published=[Published(**each.model_dump()) for each in self.suite.published],
            skipped=self.skipped,
            seconds=round(time.perf_counter() - started, 1),
        )
        self._forget()
        return Outcome(report, {name: dict(benchmark.corpus) for name, benchmark in self.benchmarks.items()})

    def _load(self, systems: Iterable[SystemSpec]) -> list[SystemSpec]:
        """Load all benchmarks, and the models of ``systems``; return those that can be run."""
        for task in self.suite.task:
            benchmark = self._benchmark(task)
            if benchmark is not None:
                self.benchmarks[task.name] = benchmark
        return [system for system in systems if self._loaded(system)]

    def _nothing(self) -> ValueError:
        reasons = "; ".join(f"{what}: {why}" for what, why in self.skipped.items())
        return ValueError(f"nothing of the suite {self.suite.name!r} can be run here ({reasons})")

    # --- curves ------------------------------------------------------------------------------------------------------

    def curves(self, ks: Sequence[int], *, latency_queries: int) -> CurveReport:
        started = time.perf_counter()
        cascades = [system for system in self.suite.system if system.rerank is not None]
        if not cascades or not self.suite.task:
            lacks = "[[task]] to measure on" if cascades else "system with a reranker, so there is no K to vary"
            raise ValueError(
                f'the suite {self.suite.name!r} has no {lacks}; add a [[task]] and, to a [[system]], rerank = "..."'
            )
        systems = self._load(cascades)
        depth = max(self.suite.depth, *ks)
        curves = []
        for task in self.suite.task:
            if task.name not in self.benchmarks:
                continue
            for same in _by_vectors(systems):
                benchmark, embedding = self.benchmarks[task.name], self.embeddings[same[0].vectors]
                index = self._indexes(embedding)
                for system in same:
                    for reranker in self._rerankers(system) or []:
                        facts = (reranker.fingerprint, embedding.query_fingerprint, benchmark.fingerprint)
                        limits = (reranker.max_tokens, reranker.precision, depth)
                        key = json_hash(["curve", system.name, task.name, *facts, *limits])
                        curve = rerank_curve(
                            lambda pool, system=system, index=index: system.retriever(index(pool), depth=depth),  # type: ignore[misc]
                            reranker,
                            benchmark,
                            ks,
                            system=system.name,
                            task=task.name,
                            pool_size=task.pool_size,
                            seed=self.suite.seed,
                            latency_queries=latency_queries,
                            kept=None if self.kept is None else self.kept / f"{key}.json",
                            on_progress=self.on_progress,
                        )
                        curves.append(curve)
        if not curves:
            raise self._nothing()
        self._forget()
        seconds = round(time.perf_counter() - started, 1)
        return CurveReport(
            suite=self.suite.name, **_surroundings(), curves=curves, skipped=self.skipped, seconds=seconds
        )

    # --- retrieval ---------------------------------------------------------------------------------------------------

    def _benchmark(self, task: TaskSpec) -> Benchmark | None:
        if task.set is not None:
            folder = data_folder(task.set)
            if folder is None:
                self.skipped[task.name] = f"there is no {task.set}/ in $CODE_RETRIEVAL_DATA"
                return None
            benchmark = load_beir(folder, split=task.split)
        elif task.folder is not None:
            benchmark = load_beir(self.suite.place / task.folder, split=task.split)
        else:
            folders = [self.suite.place / path for path in task.repository or ()]
            for name in task.package or ():
                package = _package(name)
                if package is None:
                    self.skipped[task.name] = f"the package {name} is not installed"
                    return None
                folders.append(package)
            benchmark = documented_functions(read_sources(folders), name=task.name)
        return benchmark.sample(task.queries, seed=self.suite.seed) if task.queries else benchmark

    def _loaded(self, system: SystemSpec) -> bool:
        if system.vectors not in self.embeddings:
            try:
                self.embeddings[system.vectors] = system.embedding(cache_folder=self.cache_folder, device=self.device)
            except (ValueError, OSError) as error:
                if not system.optional:
                    raise
                self.skipped[system.name] = str(error)
                return False
        return True

    def _measure(self, task: TaskSpec, systems: list[SystemSpec]) -> None:
        """Measure systems that share their vectors, so that the codes are indexed once."""
        benchmark, embedding = self.benchmarks[task.name], self.embeddings[systems[0].vectors]
        index = self._indexes(embedding)
        for system in systems:
            depth = self._depth(system)
            key = self._key("retrieval", system, task, embedding.query_fingerprint, benchmark.fingerprint)
            result = self._kept(key, retrieval_result)
            if result is None:
                rerankers = self._rerankers(system)
                if rerankers is None:
                    continue
                result = evaluate_retrieval(
                    lambda pool, system=system, depth=depth: system.retriever(index(pool), depth=depth),  # type: ignore[misc]
                    benchmark,
                    system=system.name,
                    task=task.name,
                    depth=depth,
                    pool_size=task.pool_size,
                    seed=self.suite.seed,
                    metrics=self.suite.metrics,
                    postprocessors=rerankers,
                    fingerprint=embedding.query_fingerprint,
                    on_progress=lambda done, total: self.on_progress("evaluate", done, total),
                )
                self._keep(key, asdict(result))
            self.found[system.name, task.name] = result

    def _indexes(self, embedding: CodeEmbedding) -> Callable[[Benchmark], CodeIndex]:
        """Return what indexes a pool when it is first asked for."""
        indexes: dict[str, CodeIndex] = {}

        def index(pool: Benchmark) -> CodeIndex:
            if pool.name not in indexes:
                made = benchmark_index(pool, embedding, on_progress=self.on_progress)
                made.embedding = embedding.uncached()  # a query that the cache answers would take no time
                indexes[pool.name] = made
            return indexes[pool.name]

        return index

    def _depth(self, system: SystemSpec) -> int:
        return self.suite.depth if system.rerank is None else system.rerank_k or self.suite.depth

    def _rerankers(self, system: SystemSpec) -> list[CodeReranker] | None:
        if system.rerank is None:
            return []
        embedding = self.embeddings[system.vectors]
        try:
            reranker = CodeReranker(
                system.rerank,
                embedding=embedding if shares_base(system.rerank, embedding.encoder) else None,
                top_n=system.rerank_top_n,
                early_exit=system.early_exit,
                precision=system.rerank_precision,
                device=self.device,
            )
            return [reranker]
        except (ValueError, OSError) as error:
            if not system.optional:
                raise
            self.skipped[system.name] = str(error)
            return None

    # --- generation --------------------------------------------------------------------------------------------------

    def _generate(self, spec: GenerationSpec, systems: list[SystemSpec]) -> None:
        task = self._questions(spec)
        if task is None:
            return
        if spec.questions:
            task = replace(task, questions=task.questions[: spec.questions])
        writer = load_writer(spec.writer, timeout=spec.timeout)
        asked: list[tuple[Condition, SystemSpec | None]] = [("retrieved", system) for system in systems]
        if any(question.gold for question in task.questions):
            asked.insert(0, ("gold", None))
        asked.append(("none", None))
        for condition, system in asked:
            model = "" if system is None else self.embeddings[system.vectors].query_fingerprint
            key = self._key(condition, system, spec, model, task.fingerprint, writer.settings)
            result = self._kept(key, generation_result)
            if result is None:
                result = generate(
                    task,
                    writer,
                    condition=condition,
                    run=None if system is None else self._passages(spec, task, system),
                    system="" if system is None else system.name,
                    benchmark_name=spec.name,
                    top_n=spec.top_n,
                    cache=None if self.cache_folder is None else AnswerCache(self.cache_folder / "answers"),
                    timeout=spec.timeout,
                    on_progress=lambda done, total: self.on_progress("generate", done, total),
                )
                self._keep(key, asdict(result))
            self.generated.append(result)

    def _questions(self, spec: GenerationSpec) -> GenerationTask | None:
        if spec.kind == "sweqa":
            folder, sources = data_folder("sweqa"), self._project(spec)
            if folder is None or sources is None:
                self.skipped[spec.name] = (
                    "there is no sweqa/ in $CODE_RETRIEVAL_DATA"
                    if folder is None
                    else f"the sources of {spec.project} are not at hand; install it, or name them as repository"
                )
                return None
            parser = CodeNodeParser()
            documents = [
                Document(text=text, id_=path, metadata={"path": path}) for path, text in read_sources([sources])
            ]
            nodes = [node for node in parser.get_nodes_from_documents(documents) if isinstance(node, TextNode)]
            return sweqa(folder / "answers.jsonl", spec.project or "", nodes)
        benchmark = self.benchmarks.get(spec.task or "")
        if benchmark is None:
            self.skipped[spec.name] = f"its task {spec.task} is left out"
            return None
        make = code_from_description if spec.kind == "code" else docstring_from_code
        return make(benchmark, name=spec.name)

    def _project(self, spec: GenerationSpec) -> Path | None:
        if spec.repository is None:
            return _package(spec.project or "")
        folder = self.suite.place / spec.repository
        return folder if folder.is_dir() else None

    def _passages(self, spec: GenerationSpec, task: GenerationTask, system: SystemSpec) -> Mapping[str, list[str]]:
        """Return question id -> passage ids, best first."""
        measured = self.found.get((system.name, spec.task or ""))
        if spec.kind == "code" and measured is not None:
            return measured.top
        embedding = self.embeddings[system.vectors]
        if spec.kind == "sweqa":
            index = CodeIndex(embedding)
            index.update_texts(dict(read_sources([self._project(spec) or Path()])), on_progress=self.on_progress)
        else:
            index = benchmark_index(self.benchmarks[spec.task or ""], embedding, on_progress=self.on_progress)
        rerankers = self._rerankers(system) or []
        # A question may lie in the corpus itself, and is not shown to its own writer: hence one more.
        retriever = system.retriever(index, depth=self._depth(system) if rerankers else spec.top_n + 1)
        passages: dict[str, list[str]] = {}
        for question in task.questions:
            hits = retriever.retrieve(question.text)
            for reranker in rerankers:
                hits = reranker.postprocess_nodes(hits, query_str=question.text)
            passages[question.id] = [hit.node_id for hit in hits]
        return passages

    # --- what an interrupted run has done already --------------------------------------------------------------------

    def _key(self, kind: str, system: SystemSpec | None, spec: BaseModel, *more: str) -> str:
        facts = [
            kind,
            None if system is None else system.model_dump(),
            spec.model_dump(),
            self.suite.depth,
            self.suite.seed,
            self.suite.metrics,
            _code_fingerprint(),
            *more,
        ]
        return json_hash(facts)

    def _kept(self, key: str, made: Callable[[dict[str, Any]], T]) -> T | None:
        try:
            return None if self.kept is None else made(json.loads((self.kept / f"{key}.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _keep(self, key: str, facts: dict[str, Any]) -> None:
        if self.kept is not None:
            self.kept.mkdir(parents=True, exist_ok=True)
            write_atomically(self.kept / f"{key}.json", json.dumps(facts))

    def _forget(self) -> None:
        if self.kept is not None:
            shutil.rmtree(self.kept, ignore_errors=True)


def _by_vectors(systems: Iterable[SystemSpec]) -> list[list[SystemSpec]]:
    """Return systems in groups that share their vectors."""
    groups: dict[str, list[SystemSpec]] = {}
    for system in systems:
        groups.setdefault(system.vectors, []).append(system)
    return list(groups.values())


def _package(name: str) -> Path | None:
    """Return the folder of an installed package, without importing it."""
    found = importlib.util.find_spec(name)
    places = [] if found is None else list(found.submodule_search_locations or ())
    return Path(places[0]) if places else None


@cache
def _code_fingerprint() -> str:
    """Return a hash of this package's code: results of another version are measured again."""
    root = Path(llamaindex_code_retrieval.__file__).parent
    return short_hash(file.read_bytes() for file in sorted(root.rglob("*.py")))


def _surroundings() -> dict[str, Any]:
    """Return date, machine and versions of a report."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": {name: version(name) for name in ("llamaindex-code-retrieval", "llama-index-core", "torch")},
    }


def _machine() -> str:
    import torch

    names = [platform.processor() or platform.machine()]
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", cpus.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        names = [found[1]] if found else names
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return f"{', '.join(names)}, {os.cpu_count()} cores, Python {platform.python_version()}"
