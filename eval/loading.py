"""Load all that a suite needs before anything is measured: benchmarks, questions, writers and models.

What can fail fails here, and what is not available is skipped here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llama_index.core.schema import Document, TextNode

from llamaindex_code_retrieval._io import json_hash
from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.chat.tasks import LLMs, LoadedChat, load_chat
from llamaindex_code_retrieval.eval.datasets import Benchmark, data_folder, documented_functions, load_beir
from llamaindex_code_retrieval.eval.questions import GenerationTask, code_from_description, docstring_from_code, sweqa
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestions, fingerprint_of, load_questions
from llamaindex_code_retrieval.eval.repository_retrieval import question_sources
from llamaindex_code_retrieval.eval.suite import (
    ChatSpec,
    GenerationSpec,
    NotAvailableError,
    Suite,
    SystemSpec,
    TaskSpec,
)
from llamaindex_code_retrieval.eval.writers import Writer, load_writer
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.sources import read_sources
from llamaindex_code_retrieval.languages.table import LANGUAGES
from llamaindex_code_retrieval.models.catalog import BASES, NO_ADAPTER
from llamaindex_code_retrieval.models.locate import (
    is_hub_name,
    is_static_model,
    locate_adapter,
    locate_model,
    locate_query_encoder,
    locate_reranker,
)
from llamaindex_code_retrieval.models.scoring import shares_base
from llamaindex_code_retrieval.reranker import CodeReranker
from llamaindex_code_retrieval.retriever import CodeRetriever


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A retrieval task and its benchmark."""

    spec: TaskSpec
    benchmark: Benchmark


@dataclass(frozen=True, slots=True)
class LoadedRepository:
    """The questions about one repository, and the files that are searched."""

    questions: RepositoryQuestions
    sources: Mapping[str, str]
    """Path -> text; paths are relative to the ``root`` of the questions."""


@dataclass(frozen=True, slots=True)
class LoadedRepositoryTask:
    """A task of questions about repositories."""

    spec: TaskSpec
    repositories: list[LoadedRepository]

    @property
    def questions(self) -> list[RepositoryQuestions]:
        """The questions about each repository."""
        return [each.questions for each in self.repositories]

    @property
    def fingerprint(self) -> str:
        """A hash of the questions; see :func:`.fingerprint_of`."""
        return fingerprint_of(self.questions)

    @property
    def source_fingerprint(self) -> str:
        """A hash of the files that are searched."""
        return json_hash([dict(each.sources) for each in self.repositories])


@dataclass(frozen=True, slots=True)
class LoadedSystem:
    """A system and its models; systems with equal ``spec.vectors`` share one embedding."""

    spec: SystemSpec
    embedding: CodeEmbedding
    reranker: CodeReranker | None
    depth: int
    """Hits that its retriever returns."""

    @property
    def postprocessors(self) -> list[CodeReranker]:
        """The reranker, if there is one."""
        return [] if self.reranker is None else [self.reranker]

    def retriever(self, index: CodeIndex, *, depth: int | None = None) -> CodeRetriever:
        """Return the retriever of an index, for ``depth`` hits in place of the system's own depth."""
        spec, top_k = self.spec, depth or self.depth
        if spec.mode != "fused":
            return CodeRetriever(index, top_k=top_k, mode=spec.mode)
        if {"dense_weight", "bm25_weight"}.isdisjoint(spec.model_fields_set):
            return CodeRetriever(index, top_k=top_k)
        return CodeRetriever(index, top_k=top_k, dense_weight=spec.dense_weight, bm25_weight=spec.bm25_weight)


@dataclass(frozen=True, slots=True)
class LoadedQuestions:
    """The questions of a generation task, and who answers them."""

    spec: GenerationSpec
    task: GenerationTask
    writer: Writer
    sources: Mapping[str, str]
    """Path -> text of the project that ``sweqa`` asks about; empty for the other kinds."""


@dataclass(frozen=True, slots=True)
class LoadedSuite:
    """The parts of a suite that can be measured here."""

    suite: Suite
    tasks: list[LoadedTask] = field(default_factory=list)
    repository_tasks: list[LoadedRepositoryTask] = field(default_factory=list)
    systems: list[LoadedSystem] = field(default_factory=list)
    questions: list[LoadedQuestions] = field(default_factory=list)
    chats: list[LoadedChat] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """The name of a part that is left out -> why."""

    def systems_of(self, spec: TaskSpec | GenerationSpec | ChatSpec) -> list[LoadedSystem]:
        """Return the systems that a task names, or all if it names none."""
        return [system for system in self.systems if not spec.systems or system.spec.name in spec.systems]

    def systems_by_vectors(self, spec: TaskSpec) -> list[list[LoadedSystem]]:
        """Return the systems of a task in groups that share their vectors, so that the codes are indexed once."""
        groups: dict[str, list[LoadedSystem]] = {}
        for system in self.systems_of(spec):
            groups.setdefault(system.spec.vectors, []).append(system)
        return list(groups.values())


def load_parts(suite: Suite, *, cache_folder: Path | None, device: str | None) -> LoadedSuite:
    """Load the benchmarks, questions, writers and models of a suite.

    Data sets, packages and projects that are missing are skipped, and so are the models of optional systems.

    Raises:
        ValueError: nothing is left to measure, a name is unknown, or a part cannot be read or loaded.
        ImportError: a package that the metrics or a writer need is not installed.
    """
    check_installed("ir_measures", extra="eval", purpose="computing metrics")
    if suite.generation:
        check_installed("sacrebleu", extra="eval", purpose="scoring answers")
    if suite.generation or suite.chat:
        check_installed("rouge_score", extra="eval", purpose="scoring answers")
    loaded = LoadedSuite(suite)
    systems = [spec for spec in suite.system if _models_exist(spec, loaded.skipped)]
    for task in suite.task:
        try:
            if task.questions is None:
                loaded.tasks.append(LoadedTask(task, _load_benchmark(task, seed=suite.seed)))
            else:
                [folder] = task.repository or ()
                repositories = load_repositories(task.questions, folder, SourceOptions(only=task.only))
                loaded.repository_tasks.append(LoadedRepositoryTask(task, repositories))
        except NotAvailableError as reason:
            loaded.skipped[task.name] = str(reason)
    for spec in suite.generation:
        try:
            loaded.questions.append(_load_questions(spec, loaded))
        except NotAvailableError as reason:
            loaded.skipped[spec.name] = str(reason)
    llms: LLMs = {}
    for chat in suite.chat:
        try:
            loaded.chats.append(load_chat(chat, llms, cache_folder=cache_folder))
        except NotAvailableError as reason:
            loaded.skipped[chat.name] = str(reason)
    searched = loaded.tasks or loaded.repository_tasks or loaded.chats
    if searched or loaded.questions:
        _check_languages(systems, loaded.tasks)
        loaded.systems.extend(_load_systems(systems, loaded, cache_folder=cache_folder, device=device))
    if not (loaded.questions or (loaded.systems and searched)):
        reasons = "; ".join(f"{what}: {why}" for what, why in loaded.skipped.items())
        raise ValueError(f"nothing of the suite {suite.name!r} can be run here ({reasons})")
    return loaded


# --- benchmarks and questions ----------------------------------------------------------------------------------------


def _load_benchmark(task: TaskSpec, *, seed: int) -> Benchmark:
    """Read or make the benchmark of a task, and check that its queries and pools can be drawn."""
    if task.set is not None:
        folder = data_folder(task.set)
        if folder is None:
            raise NotAvailableError(f"there is no {task.set}/ in $CODE_RETRIEVAL_DATA")
        benchmark = load_beir(folder, split=task.split)
    elif task.folder is not None:
        benchmark = load_beir(task.folder, split=task.split)
    else:
        folders = [Path(path) for path in task.repository or ()] + [_package(name) for name in task.package or ()]
        benchmark = documented_functions(read_sources(folders), name=task.name)
    if task.queries:
        benchmark = benchmark.sample(task.queries, seed=seed)
    if task.pool_size:
        benchmark.pools(task.pool_size, seed=seed)
    return benchmark


def load_repositories(
    questions: str | Path, folder: str | Path, options: SourceOptions | None = None
) -> list[LoadedRepository]:
    """Read questions and the files of their repositories.

    ``folder`` is the repository of a file of questions; of a folder with questions about several repositories it holds
    a checkout of each, by name. ``options`` say which files are read.

    Raises:
        FileNotFoundError, ValueError: see :func:`.load_questions`; a checkout or a target is missing.
    """
    repositories, has_several = load_questions(questions), Path(questions).is_dir()
    folders = {each.name: Path(folder, each.name) if has_several else Path(folder) for each in repositories}
    if missing := [str(each) for each in folders.values() if not each.is_dir()]:
        raise NotAvailableError(f"there is no folder {' or '.join(missing)} with the repository of {questions}")
    return [LoadedRepository(each, question_sources(each, folders[each.name], options)) for each in repositories]


def _package(name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):  # of a parent package, or not a module's name
        spec = None
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if not folders:
        raise NotAvailableError(f"the package {name} is not installed")
    return Path(folders[0])


def _load_questions(spec: GenerationSpec, loaded: LoadedSuite) -> LoadedQuestions:
    sources: dict[str, str] = {}
    if spec.kind == "sweqa":
        sources = _project_sources(spec)
        task = _sweqa_questions(spec, sources)
    else:
        benchmark = next((each.benchmark for each in loaded.tasks if each.spec.name == spec.task), None)
        if benchmark is None:
            raise NotAvailableError(f"its task {spec.task} is left out")
        make = code_from_description if spec.kind == "code" else docstring_from_code
        task = make(benchmark, name=spec.name)
    if spec.questions > len(task.questions):
        raise ValueError(
            f"generation {spec.name!r} asks for {spec.questions} questions, and there are {len(task.questions)}; "
            "ask for fewer, or for all of them by leaving questions out"
        )
    if spec.questions:
        task = replace(task, questions=task.questions[: spec.questions])
    return LoadedQuestions(spec, task, load_writer(spec.writer, timeout=spec.timeout), sources)


def _project_sources(spec: GenerationSpec) -> dict[str, str]:
    try:
        folder = _package(spec.project or "") if spec.repository is None else Path(spec.repository)
    except NotAvailableError:
        folder = Path()
    if not folder.is_dir() or folder == Path():
        raise NotAvailableError(
            f"the sources of {spec.project} are not available; install it, or name them as repository"
        )
    return dict(read_sources([folder]))


def _sweqa_questions(spec: GenerationSpec, sources: Mapping[str, str]) -> GenerationTask:
    folder = data_folder("sweqa")
    if folder is None:
        raise NotAvailableError("there is no sweqa/ in $CODE_RETRIEVAL_DATA")
    documents = [Document(text=text, id_=path, metadata={"path": path}) for path, text in sources.items()]
    # Gold passages are whole functions; what a system retrieves are nodes of its own index.
    nodes = [node for node in CodeNodeParser().get_nodes_from_documents(documents) if isinstance(node, TextNode)]
    return sweqa(folder / "answers.jsonl", spec.project or "", nodes)


# --- models ----------------------------------------------------------------------------------------------------------


def _models_exist(spec: SystemSpec, skipped: dict[str, str]) -> bool:
    """Look up the names of a system's models, so that a wrong one fails before any model is loaded."""
    finders: list[tuple[str | None, Callable[[str], Path]]] = [
        (None if spec.model in BASES else spec.model, locate_model),
        *((adapter, locate_adapter) for adapter in (spec.adapter, *spec.adapters.values())),
        (spec.rerank, locate_reranker),
        (spec.query_encoder, locate_query_encoder),
    ]
    try:
        for name, find in finders:
            if name not in (None, NO_ADAPTER, "auto") and not is_hub_name(name):
                find(name)
    except (ValueError, OSError) as error:
        if not spec.optional:
            raise ValueError(f"system {spec.name!r}: {error}") from error
        skipped[spec.name] = str(error)
        return False
    return True


def _check_languages(systems: list[SystemSpec], tasks: list[LoadedTask]) -> None:
    known = {*LANGUAGES, *(language for task in tasks for language in task.benchmark.languages.values())}
    for system in systems:
        for language in system.adapters:
            if language not in known:
                raise ValueError(
                    f"system {system.name!r} has an adapter for the unknown language {language!r}; "
                    f"known are {', '.join(sorted(known))}"
                )


def _load_systems(
    specs: list[SystemSpec], loaded: LoadedSuite, *, cache_folder: Path | None, device: str | None
) -> Iterator[LoadedSystem]:
    embeddings: dict[str, CodeEmbedding] = {}
    for spec in specs:
        try:
            embedding = embeddings.get(spec.vectors) or _load_embedding(spec, cache_folder, device)
            embeddings[spec.vectors] = embedding
            reranker = None if spec.rerank is None else _load_reranker(spec, embedding, device)
        except (ValueError, OSError) as error:
            if not spec.optional:
                raise
            loaded.skipped[spec.name] = str(error)
            continue
        depth = loaded.suite.depth if spec.rerank_k is None else spec.rerank_k
        yield LoadedSystem(spec, embedding, reranker, depth)


def _load_embedding(spec: SystemSpec, cache_folder: Path | None, device: str | None) -> CodeEmbedding:
    if is_static_model(spec.model):  # it uses neither, and other systems of the suite may
        cache_folder = device = None
    return CodeEmbedding(
        spec.model,
        adapter=spec.adapter,
        adapters=dict(spec.adapters),
        precision=spec.precision,
        max_code_tokens=spec.max_code_tokens,
        query_encoder=spec.query_encoder,
        cache_folder=cache_folder,
        device=device,
    )


def _load_reranker(spec: SystemSpec, embedding: CodeEmbedding, device: str | None) -> CodeReranker:
    name = spec.rerank or ""
    shared = shares_base(name, embedding.encoder, precision=spec.rerank_precision)
    return CodeReranker(
        name,
        embedding=embedding if shared else None,
        top_n=spec.rerank_top_n,
        early_exit=spec.early_exit,
        precision=spec.rerank_precision,
        device=device,
    )
