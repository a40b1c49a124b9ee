"""The specification of a suite: which systems are measured on which tasks, read from a TOML file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from llamaindex_code_retrieval._settings import Settings, check_distinct, read_toml
from llamaindex_code_retrieval.chat.llms import EXTRACTIVE
from llamaindex_code_retrieval.eval.gate import GateRules
from llamaindex_code_retrieval.eval.metrics import METRICS, ChatMetric, check_metric
from llamaindex_code_retrieval.eval.results import Condition, Engine
from llamaindex_code_retrieval.index.rank import Mode
from llamaindex_code_retrieval.models.reranker_config import RerankPrecision

_SUITES = Path(__file__).resolve().parent / "suites"


class NotAvailableError(ValueError):
    """A part of a suite is not on this machine."""


Metric = Annotated[str, AfterValidator(check_metric)]


class TaskSpec(Settings):
    """A benchmark and the protocol by which it is measured."""

    name: str
    """Name in reports and in other tables of the suite."""
    set: str | None = None
    """The name of a data set in ``$CODE_RETRIEVAL_DATA``."""
    folder: str | None = None
    """A folder in BEIR's layout; a relative path starts at the suite's folder."""
    repository: tuple[str, ...] | None = None
    """Folders whose documented functions are the benchmark; a relative path starts at the suite's folder."""
    package: tuple[str, ...] | None = None
    """Installed packages whose documented functions are the benchmark."""
    questions: str | None = None
    """A file of questions about the ``repository``, or a folder in the layout of semble's benchmark; then the
    ``repository`` is the folder with the checkouts. A relative path starts at the suite's folder."""
    only: tuple[str, ...] = ()
    """Globs of the files that are read, as in ``.gitignore``, in a task with ``questions``; by default all."""
    split: str = "dev"
    """The split of a ``set`` or a ``folder``, a file of its ``qrels/``."""
    pool_size: int = Field(default=0, ge=0)
    """Codes in a pool, at least 2 (1,000 is the protocol of SPENCER); 0 searches the whole corpus (CasCode)."""
    queries: int = Field(default=0, ge=0)
    """Queries, drawn at random by the suite's seed; 0 takes all."""
    systems: Annotated[tuple[str, ...], AfterValidator(check_distinct)] = ()
    """The systems that are measured on the task; by default all."""

    @model_validator(mode="after")
    def _check_source(self) -> TaskSpec:
        sources = [name for name in ("set", "folder", "repository", "package") if getattr(self, name)]
        if len(sources) != 1:
            raise ValueError(f"task {self.name!r} must have one of set, folder, repository or package, got {sources}")
        if self.set is None and self.folder is None:
            _refuse(self, ["split"], f"task {self.name!r} is made of source code, which has no splits")
        if self.questions is None:
            _refuse(self, ["only"], f"task {self.name!r} has no questions")
        else:
            _refuse(self, ["pool_size", "queries"], f"task {self.name!r} asks all questions in whole repositories")
            if len(self.repository or ()) != 1:
                raise ValueError(f"task {self.name!r} has questions, so repository must name one folder")
        return self


class SystemSpec(Settings):
    """A retriever and, optionally, the reranker that follows it."""

    name: str
    """Name in reports and in other tables of the suite."""
    model: str = "embedded"
    """The base: ``embedded``, a folder, or a hub name."""
    adapter: str | None = None
    """The adapter of queries and codes: one that comes with the package, a folder, a hub name, or ``none``; by default
    the one that comes with the package for this base."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """Language -> adapter of its codes, in place of ``adapter``."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the encoder; ``auto`` takes ``bf16`` where the device computes it natively, and ``fp32``
    elsewhere."""
    max_code_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a code, the rest is cut; by default the limit of the model or its adapter."""
    query_encoder: str | None = None
    """A distilled encoder of the queries: one that comes with the package, a folder, or ``auto``."""
    mode: Mode = "fused"
    """``dense`` ranks by cosine, ``bm25`` by words, ``fused`` fuses the two rankings."""
    dense_weight: float = Field(default=0.75, ge=0, allow_inf_nan=False)
    """Weight of the dense ranking in ``fused``. Where nodes have paths, this or ``bm25_weight`` replaces the ranking
    model by reciprocal rank fusion."""
    bm25_weight: float = Field(default=0.25, ge=0, allow_inf_nan=False)
    """Weight of the BM25 ranking in ``fused``."""
    rerank: str | None = None
    """A reranker that comes with the package, a folder, or a hub name. The shipped one keeps the order of hits that are
    parts of files, so with it questions about repositories are ranked as without."""
    rerank_top_n: int = Field(default=10, ge=1)
    """Hits that the reranker keeps."""
    rerank_k: int | None = Field(default=None, ge=1)
    """Hits that the reranker reads; by default the suite's depth."""
    rerank_precision: RerankPrecision = "auto"
    """Arithmetic of the reranker: ``auto``, ``fp32``, ``bf16`` or ``int8``."""
    early_exit: float | None = Field(default=None, gt=0, lt=1)
    """Confidence at which the reranker stops scoring, one of those that it was calibrated for; by default it scores
    every hit."""
    optional: bool = False
    """Skip the system, with the reason in the report, if its model is not available."""

    @model_validator(mode="after")
    def _check_effects(self) -> SystemSpec:
        if self.mode != "fused":
            reason = f"system {self.name!r} has mode {self.mode!r}, which weights no rankings"
            _refuse(self, ["dense_weight", "bm25_weight"], reason)
        elif not (self.dense_weight or self.bm25_weight):
            raise ValueError(f"system {self.name!r} has no weight over 0; set dense_weight or bm25_weight")
        if self.mode == "bm25":
            _refuse(self, ["query_encoder"], f"system {self.name!r} has mode 'bm25', which encodes no queries")
        if self.rerank is None:
            options = ["rerank_top_n", "rerank_k", "rerank_precision", "early_exit"]
            _refuse(self, options, f"system {self.name!r} has no reranker; add rerank")
        return self

    @property
    def vectors(self) -> str:
        """A key of the settings that determine the vectors: systems with equal keys share an embedding and an index."""
        settings = (self.model, self.adapter, self.adapters, self.precision, self.max_code_tokens, self.query_encoder)
        return json.dumps(settings)


class GenerationSpec(Settings):
    """Questions that a writer answers with gold, retrieved and no passages."""

    name: str
    """Name in reports."""
    kind: Literal["sweqa", "code", "docstring"]
    """``sweqa``: questions about a project. ``code``: write the function that a query describes. ``docstring``:
    describe a function."""
    task: str | None = None
    """The task whose queries (``code``) or codes (``docstring``) are the questions."""
    project: str | None = None
    """The project of ``sweqa``: flask or requests."""
    repository: str | None = None
    """The folder with the project's sources, relative to the suite's folder; by default the installed package."""
    writer: str = "extractive"
    """Who answers: ``extractive``, which quotes the passages, or an LLM such as ``ollama:MODEL``."""
    systems: Annotated[tuple[str, ...], AfterValidator(check_distinct)] = ()
    """The systems whose hits are the retrieved passages; by default all."""
    top_n: int = Field(default=5, ge=1)
    """Passages that the writer is shown."""
    questions: int = Field(default=0, ge=0)
    """The first so many questions; 0 takes all."""
    timeout: float = Field(default=120, gt=0)
    """Seconds for one answer."""

    @model_validator(mode="after")
    def _check_source(self) -> GenerationSpec:
        required = "project" if self.kind == "sweqa" else "task"
        if not getattr(self, required):
            raise ValueError(f"generation {self.name!r} of kind {self.kind!r} must name its {required}")
        unused = ["task"] if self.kind == "sweqa" else ["project", "repository"]
        _refuse(self, unused, f"generation {self.name!r} is of kind {self.kind!r}")
        return self


class ChatSpec(Settings):
    """Questions about repositories that a chat answers with gold, retrieved and no passages, and cites."""

    name: str
    """Name in reports."""
    set: str | None = None
    """The name of a data set in ``$CODE_RETRIEVAL_DATA`` whose ``answers.jsonl`` has the questions."""
    questions: str | None = None
    """A file of questions, one JSON object a line; a relative path starts at the suite's folder."""
    repositories: str | None = None
    """The folder with the checkouts, by name; a relative path starts at the suite's folder. By default
    ``$CODE_RETRIEVAL_REPOSITORIES``."""
    projects: Annotated[tuple[str, ...], AfterValidator(check_distinct)] = ()
    """The repositories whose questions are asked; by default all."""
    limit: int = Field(default=0, ge=0)
    """The first so many questions of each repository; 0 takes all."""
    llm: str = EXTRACTIVE
    """Who answers: ``extractive``, which quotes the passages, or an LLM such as ``ollama:MODEL``."""
    judge: str | None = None
    """An LLM that grades the answers from 1 to 5; by default none does."""
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1), AfterValidator(check_distinct)] = get_args(
        Condition
    )
    """Which passages the LLM is shown: ``gold``, ``retrieved`` and ``none``."""
    engines: Annotated[tuple[Engine, ...], Field(min_length=1), AfterValidator(check_distinct)] = ("assembled",)
    """How the retrieved passages are made: ``assembled`` or ``hits``, the hits as they are. LlamaIndex's defaults are
    ``sentence`` and ``code``, by the splitter, and ``sentence-citation`` and ``code-citation`` with its
    ``CitationQueryEngine``; of a system they use the embedding alone."""
    metrics: Annotated[tuple[ChatMetric, ...], AfterValidator(check_distinct)] = ()
    """Metrics; every question must have what they need, a reference answer or targets. By default each is measured of
    the questions that have it."""
    systems: Annotated[tuple[str, ...], AfterValidator(check_distinct)] = ()
    """The systems that retrieve; by default all. ``gold`` uses the index of the first."""
    top_k: int = Field(default=10, ge=1)
    """Hits of a question."""
    max_context_tokens: int = Field(default=3000, ge=1)
    """Tokens of the passages in a prompt."""
    max_answer_tokens: int = Field(default=512, ge=1)
    """Tokens of an answer."""
    context_window: int = Field(default=8192, ge=1)
    """Tokens of a prompt and its answer."""
    timeout: float = Field(default=120, gt=0)
    """Seconds for one answer of a server."""

    @model_validator(mode="after")
    def _check_source(self) -> ChatSpec:
        if bool(self.set) == bool(self.questions):
            raise ValueError(f"chat {self.name!r} must have one of set and questions")
        if "retrieved" not in self.conditions:
            _refuse(self, ["engines", "top_k"], f"chat {self.name!r} retrieves nothing")
        if "grade" in self.metrics and self.judge is None:
            raise ValueError(f"chat {self.name!r} has no judge for the metric 'grade'; add judge")
        if self.llm == EXTRACTIVE:
            options = ["max_answer_tokens", "context_window", *([] if self.judge else ["timeout"])]
            _refuse(self, options, f"chat {self.name!r} uses no LLM")
            for engine in self.engines:
                if engine.endswith("-citation"):
                    raise ValueError(f"chat {self.name!r} needs an LLM for the engine {engine!r}; set llm")
        return self


class PublishedSpec(Settings):
    """A figure from a paper or a model card, shown beside the measured ones."""

    system: str
    """The model, in free words."""
    task: str
    """The benchmark, in free words."""
    metric: str
    """The metric, in free words."""
    value: float = Field(allow_inf_nan=False)
    """The figure, usually from 0 to 1."""
    source: str
    """The paper or the model card."""


class Suite(Settings):
    """What is measured. The names of systems must differ, and so must those of tasks and generation tasks."""

    name: str
    """The heading of reports; by default the name of the file without ``.toml``."""
    depth: int = Field(default=100, ge=1)
    """Hits that each retriever returns."""
    seed: int = 0
    """Seed of the pools and of the queries that are drawn."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1), AfterValidator(check_distinct)] = METRICS
    """Metrics of retrieval: ``MRR``, ``MAP`` and ``nDCG``, each also with ``@k``, and ``R@k``."""
    task: tuple[TaskSpec, ...] = ()
    """The ``[[task]]`` tables."""
    system: tuple[SystemSpec, ...] = ()
    """The ``[[system]]`` tables; at least one, with one ``[[task]]``, ``[[generation]]`` or ``[[chat]]``."""
    generation: tuple[GenerationSpec, ...] = ()
    """The ``[[generation]]`` tables."""
    chat: tuple[ChatSpec, ...] = ()
    """The ``[[chat]]`` tables."""
    published: tuple[PublishedSpec, ...] = ()
    """The ``[[published]]`` tables."""
    gate: GateRules = GateRules()
    """The ``[gate]`` table."""

    @model_validator(mode="after")
    def _check_names(self) -> Suite:
        if not self.system or not (self.task or self.generation or self.chat):
            raise ValueError("a suite must have at least one [[system]] and one [[task]], [[generation]] or [[chat]]")
        systems, tasks = [each.name for each in self.system], [each.name for each in self.task]
        _check_distinct("system", systems)
        _check_distinct("task", [*tasks, *(each.name for each in self.generation), *(each.name for each in self.chat)])
        for place, names in (
            *((f"task {each.name!r}", each.systems) for each in self.task),
            *((f"generation {each.name!r}", each.systems) for each in self.generation),
            *((f"chat {each.name!r}", each.systems) for each in self.chat),
            ("the gate", self.gate.systems),
        ):
            for name in names:
                if name not in systems:
                    raise ValueError(f"{place} names the system {name!r}; the suite has {', '.join(systems)}")
        for each in self.generation:
            if each.task is not None and each.task not in tasks:
                known = ", ".join(tasks) or "none"
                raise ValueError(f"generation {each.name!r} names the task {each.task!r}; the suite has {known}")
            if any(task.name == each.task and task.questions is not None for task in self.task):
                raise ValueError(
                    f"generation {each.name!r} names the task {each.task!r}, which has questions and no codes; "
                    "name a task with codes"
                )
        return self

    @model_validator(mode="after")
    def _check_gate(self) -> Suite:
        if "metrics" in self.gate.model_fields_set:
            for metric in self.gate.metrics:
                if metric not in self.metrics:
                    raise ValueError(
                        f"the gate names the metric {metric!r}, which the suite does not measure; "
                        f"it measures {', '.join(self.metrics)}"
                    )
        return self

    def relative_to(self, folder: Path) -> Suite:
        """Return the suite with relative paths of tasks and projects starting at ``folder``."""
        tasks, generation = [], []
        for task in self.task:
            paths = {
                "folder": task.folder and str(folder / task.folder),
                "questions": task.questions and str(folder / task.questions),
                "repository": task.repository and tuple(str(folder / path) for path in task.repository),
            }
            tasks.append(task.model_copy(update=paths))
        for spec in self.generation:
            repository = spec.repository and str(folder / spec.repository)
            generation.append(spec.model_copy(update={"repository": repository}))
        chat = [
            spec.model_copy(
                update={
                    "questions": spec.questions and str(folder / spec.questions),
                    "repositories": spec.repositories and str(folder / spec.repositories),
                }
            )
            for spec in self.chat
        ]
        return self.model_copy(update={"task": tuple(tasks), "generation": tuple(generation), "chat": tuple(chat)})


def _refuse(spec: Settings, options: Sequence[str], reason: str) -> None:
    """Raise a ValueError if one of ``options``, which have no effect for this ``reason``, was set."""
    without_effect = [option for option in options if option in spec.model_fields_set]
    if without_effect:
        raise ValueError(f"{' and '.join(without_effect)} would have no effect: {reason}")


def _check_distinct(kind: str, names: Sequence[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"the suite names {kind} {repeated!r} twice; names must differ")


def load_suite(name_or_path: str | Path) -> Suite:
    """Read a suite by the name of one that comes with the package, or from a TOML file.

    A file with ``extends = "embedded"`` (a name, or a file beside it) starts from that suite; its own tables replace
    those of the same name. Relative paths start at the folder of the file that is loaded, whose name without ``.toml``
    is the suite's name unless a file gives another.

    Raises:
        ValueError: there is no such suite, it is not TOML, it has an unknown setting, or a value breaks its rule.
    """
    path, content = read_toml(name_or_path, folder=_SUITES, what="suite")
    try:
        return Suite(**{"name": path.stem, **content}).relative_to(path.resolve().parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
