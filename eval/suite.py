"""A suite: which systems are measured on which tasks, as a TOML file, and its run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.gate import GateRules
from llamaindex_code_retrieval.eval.retrieval import METRICS
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.models.reranker_config import RerankPrecision
from llamaindex_code_retrieval.retriever import CodeRetriever, Mode

_OWN = Path(__file__).resolve().parent / "suites"


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSpec(_Spec):
    """A benchmark and the protocol it is measured by."""

    name: str
    set: str | None = None
    """Of ``$CODE_RETRIEVAL_DATA``."""
    folder: str | None = None
    """In BEIR's layout; a relative one is beside the suite."""
    repository: list[str] | None = None
    """Folders whose documented functions are the benchmark; a relative one is beside the suite."""
    package: list[str] | None = None
    """The same, by the names of installed packages."""
    split: str = "dev"
    pool_size: int = Field(0, ge=0)
    """0 is the whole pool (CasCode); 1,000 is SPENCER's protocol."""
    queries: int = Field(0, ge=0)
    """So many of them, drawn by the suite's seed; 0 is all."""

    @model_validator(mode="after")
    def _one_source(self) -> TaskSpec:
        given = [name for name in ("set", "folder", "repository", "package") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"task {self.name!r} must have one of set, folder, repository or package, got {given}")
        return self


class SystemSpec(_Spec):
    """A ``CodeRetriever`` and what follows it."""

    name: str
    model: str = "embedded"
    adapter: str | None = None
    adapters: dict[str, str] = {}
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    max_code_tokens: int | None = None
    query_encoder: str | None = None
    """A student that embeds the queries: a folder, one of ours, or ``auto``."""
    mode: Mode = "fused"
    dense_weight: float = 0.75
    bm25_weight: float = 0.25
    rerank: str | None = None
    rerank_top_n: int = Field(10, ge=1)
    rerank_k: int | None = Field(None, ge=1)
    """Hits that are reranked; by default as many as the suite's depth."""
    rerank_precision: RerankPrecision = "auto"
    early_exit: float | None = Field(None, gt=0, lt=1)
    """Confidence at which the reranker stops; by default it scores all."""
    optional: bool = False
    """Left out, with the reason in the report, where its model is not at hand."""

    def embedding(self, *, cache_folder: Path | None, device: str | None) -> CodeEmbedding:
        """Load the model."""
        return CodeEmbedding(
            self.model,
            adapter=self.adapter,
            adapters=dict(self.adapters),
            precision=self.precision,
            max_code_tokens=self.max_code_tokens,
            query_encoder=self.query_encoder,
            cache_folder=cache_folder,
            device=device,
        )

    @property
    def vectors(self) -> str:
        """Equal for systems whose vectors are equal."""
        own = (self.model, self.adapter, self.adapters, self.precision, self.max_code_tokens, self.query_encoder)
        return json.dumps(own)

    def retriever(self, index: CodeIndex, *, depth: int) -> CodeRetriever:
        """Return the retriever of an index."""
        if self.mode != "fused":
            return CodeRetriever(index, top_k=depth, mode=self.mode)
        return CodeRetriever(index, top_k=depth, dense_weight=self.dense_weight, bm25_weight=self.bm25_weight)


class GenerationSpec(_Spec):
    """Questions that a writer answers with gold, retrieved and no passages."""

    name: str
    kind: Literal["sweqa", "code", "docstring"]
    task: str | None = None
    """Of ``code``: the retrieval task whose queries are the questions. Of ``docstring``: the one whose codes are."""
    project: str | None = None
    """Of ``sweqa``: flask or requests; its sources are the installed package's, or ``repository``."""
    repository: str | None = None
    writer: str = "extractive"
    systems: list[str] = []
    """Whose hits are the retrieved passages; none named is all."""
    top_n: int = Field(5, ge=1)
    questions: int = Field(0, ge=0)
    """The first so many; 0 is all."""
    timeout: float = Field(120, gt=0)
    """Seconds for one answer."""

    @model_validator(mode="after")
    def _source(self) -> GenerationSpec:
        wanted = "project" if self.kind == "sweqa" else "task"
        if not getattr(self, wanted):
            raise ValueError(f"generation {self.name!r} of kind {self.kind!r} must name its {wanted}")
        return self


class _PublishedSpec(_Spec):
    system: str
    task: str
    metric: str
    value: float
    source: str


class _GateSpec(_Spec):
    metrics: tuple[str, ...] = ("MRR", "R@10")
    generation_metrics: tuple[str, ...] = ("rougeL",)
    tolerance: float = 0.005
    alpha: float = 0.05
    systems: tuple[str, ...] = ()


class Suite(_Spec):
    """What is measured. Names of systems, and of tasks, differ."""

    name: str
    depth: int = Field(100, ge=1)
    """Hits asked for."""
    seed: int = 0
    metrics: tuple[str, ...] = METRICS
    task: tuple[TaskSpec, ...] = ()
    system: tuple[SystemSpec, ...] = ()
    generation: tuple[GenerationSpec, ...] = ()
    published: tuple[_PublishedSpec, ...] = ()
    gate: _GateSpec = _GateSpec()
    place: Path = Path()
    """The folder that relative paths begin at."""

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        for kind, names in (
            ("system", [each.name for each in self.system]),
            ("task", [*(each.name for each in self.task), *(each.name for each in self.generation)]),
        ):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"the suite names {kind} {twice!r} twice; names must differ")
        if not self.system or not (self.task or self.generation):
            raise ValueError("a suite has one [[system]] and one [[task]] or [[generation]] at least")
        systems, tasks = {each.name for each in self.system}, {each.name for each in self.task}
        wanted = {name for each in self.generation for name in each.systems} | set(self.gate.systems)
        for name in sorted(wanted - systems):
            raise ValueError(f"system {name!r} is named, but there is none; there are {', '.join(sorted(systems))}")
        for each in self.generation:
            if each.task is not None and each.task not in tasks:
                raise ValueError(f"generation {each.name!r} names the task {each.task!r}, which the suite lacks")
        return self

    @property
    def rules(self) -> GateRules:
        """The gate's rules."""
        return GateRules(**self.gate.model_dump())


def suite_names() -> list[str]:
    """Return the names of the suites that come with the package."""
    return sorted(file.stem for file in _OWN.glob("*.toml"))


def load_suite(name_or_path: str | Path) -> Suite:
    """Read a suite by the name of one that comes with the package, or from a TOML file.

    Raises:
        ValueError: neither, not TOML, an unknown setting, or a value that breaks its rule.
    """
    path = _OWN / f"{name_or_path}.toml" if str(name_or_path) in suite_names() else Path(name_or_path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"there is no suite {str(name_or_path)!r}: it is no file, and of our own there are "
            f"{', '.join(suite_names())}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    try:
        suite = Suite.model_validate({"name": path.stem, **content, "place": path.resolve().parent})
        suite.rules  # noqa: B018  # refuses nonsense
        return suite
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, "))))
            for each in error.errors()
        )
        raise ValueError(f"{path}: {problems}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
