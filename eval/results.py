"""Results of evaluations as plain values, which are saved as JSON and compared with a baseline. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeVar, get_args

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.eval.metrics import GenerationMetric, reciprocal_rank

T = TypeVar("T")
FORMAT = 1
TOP = 10
"""Hits of each query that a result keeps."""
Condition = Literal["gold", "retrieved", "none"]
"""Which passages a writer is shown: those that hold the answer, those that a system retrieved, or none."""
Engine = Literal["assembled", "hits", "sentence", "code", "sentence-citation", "code-citation"]
"""How a chat makes its context and asks the LLM.

``assembled`` is the chat of this package, and ``hits`` the same with hits as they are instead of passages that are
assembled from them. The others are LlamaIndex's defaults over nodes of its ``SentenceSplitter`` or ``CodeSplitter``: a
``ContextChatEngine``, or a ``CitationQueryEngine``.
"""


def protocol_name(pool_size: int, seed: int) -> str:
    """Return how the codes were searched, for :attr:`RetrievalResult.protocol`.

    >>> protocol_name(0, 0), protocol_name(1000, 3)
    ('whole', 'pools of 1000 (seed 3)')
    """
    return f"pools of {pool_size} (seed {seed})" if pool_size else "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalResult:
    """One system on one benchmark. Dictionaries by query are in the order of the benchmark.

    Of questions about repositories the codes are nodes, and the relevant codes are the targets of a question.
    """

    system: str
    task: str
    benchmark: str
    benchmark_fingerprint: str
    protocol: str
    """``whole``, or ``pools of 1000 (seed 0)``."""
    depth: int
    """Hits that the system was asked for; a code that is not among them counts as not found."""
    codes: int
    duplicates: int
    """Codes that differ from another one at most in white space."""
    values: dict[str, dict[str, float]]
    """Metric -> query id -> value from 0 to 1."""
    collapsed: dict[str, float]
    """Metric -> mean if equal codes count as one."""
    ranks: dict[str, int | None]
    """Query id -> rank of its first relevant code, from 1; ``None`` if it was not found."""
    top: dict[str, list[str]]
    """Query id -> its first ``TOP`` corpus ids; of questions about repositories the places (``path:1-20``)."""
    queries: dict[str, str]
    """Query id -> text."""
    languages: dict[str, str] = field(default_factory=dict)
    """Query id -> language of its relevant code, where it is known."""
    categories: dict[str, str] = field(default_factory=dict)
    """Query id -> category, of questions about repositories."""
    milliseconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Stage (``embed``, ``search``, a postprocessor's name, ``total``) -> ``p50`` and ``p95`` of one query."""
    fingerprint: str = ""
    """Fingerprint of the model that made the vectors, if there is one."""

    @property
    def means(self) -> dict[str, float]:
        """Metric -> mean over the queries."""
        return {metric: fmean(values.values()) for metric, values in self.values.items()}

    def by_category(self) -> dict[str, RetrievalResult]:
        """Return the result of each category, with the category in the task; empty if there are fewer than two."""
        categories = sorted(set(self.categories.values()))
        return {each: self._part(each) for each in categories} if len(categories) > 1 else {}

    def _part(self, category: str) -> RetrievalResult:
        queries = {query: text for query, text in self.queries.items() if self.categories[query] == category}
        return replace(
            self,
            task=f"{self.task} ({category})",
            values={metric: {query: values[query] for query in queries} for metric, values in self.values.items()},
            ranks={query: self.ranks[query] for query in queries},
            top={query: self.top[query] for query in queries},
            queries=queries,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question answered under one condition."""

    question: str
    reference: str
    answer: str
    passages: list[str]
    """Ids of the passages that the writer was shown, best first."""
    error: str = ""
    """Why there is no answer; every metric of the question is then 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """One writer's answers to one task's questions under one condition."""

    system: str
    """The system that retrieved the passages; "" under the conditions ``gold`` and ``none``."""
    task: str
    benchmark: str
    benchmark_fingerprint: str
    condition: str
    """Which passages the writer was shown: ``gold``, ``retrieved`` or ``none``."""
    writer: str
    values: dict[str, dict[str, float]]
    """Metric (``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``, ``bleu``, ``chrf``, ``exact``) -> question id -> value
    from 0 to 1."""
    answers: dict[str, Answer]
    """By question id."""

    @property
    def means(self) -> dict[str, float]:
        """Metric -> mean over the questions."""
        return {metric: fmean(values.values()) for metric, values in self.values.items()}

    @property
    def failed(self) -> int:
        """Number of questions without an answer."""
        return sum(bool(answer.error) for answer in self.answers.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """One question of a chat, answered under one condition. Places are written as in ``src/app.py:10-20``."""

    question: str
    reference: str
    """Empty if there is none."""
    answer: str
    targets: list[str]
    """Places that answer the question."""
    hits: list[str]
    """The first ``TOP`` places that were found, best first; only under the condition ``retrieved``."""
    passages: list[str]
    """Places that the LLM was shown."""
    cited: list[str]
    """Citations of what was in the prompt."""
    not_in_prompt: list[str]
    """Citations of what was not."""
    error: str = ""
    """Why there is no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResult:
    """One chat's answers to the questions of one task under one condition."""

    system: str
    """The system that found the passages, with the engine after a comma if that is not ``assembled``; "" under the
    conditions ``gold`` and ``none``."""
    task: str
    benchmark: str
    benchmark_fingerprint: str
    condition: Condition
    llm: str
    """The specification of the LLM, without folders."""
    values: dict[str, dict[str, float]]
    """Metric -> question id -> value. A metric lacks the questions that it says nothing of, such as the precision of an
    answer that cites nothing."""
    answers: dict[str, ChatAnswer]
    """By question id."""

    @property
    def means(self) -> dict[str, float]:
        """Metric -> mean over the questions that it has."""
        return {metric: fmean(values.values()) for metric, values in self.values.items()}

    @property
    def failed(self) -> int:
        """Number of questions without an answer."""
        return sum(bool(answer.error) for answer in self.answers.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A figure from a paper or a model card, which was not measured here."""

    system: str
    task: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results of one run of a suite."""

    suite: str
    date: str
    machine: str
    versions: dict[str, str]
    retrieval: list[RetrievalResult] = field(default_factory=list)
    generation: list[GenerationResult] = field(default_factory=list)
    chat: list[ChatResult] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """The name of a part of the suite that was left out -> why."""
    seconds: float = 0.0

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, atomically."""
        write_atomically(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    def slim(self) -> Report:
        """Return the report with only what a comparison needs: without answers, and with the first hit of a query."""
        return replace(
            self,
            retrieval=[
                replace(result, top={query: ids[:1] for query, ids in result.top.items()}) for result in self.retrieval
            ],
            generation=[replace(result, answers={}) for result in self.generation if result.condition == "retrieved"],
            chat=[replace(result, answers={}) for result in self.chat if result.condition == "retrieved"],
        )

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report that :meth:`save` wrote.

        Raises:
            ValueError: the file is missing, is not a report, or has another format.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            content["retrieval"] = [retrieval_result(each) for each in content["retrieval"]]
            content["generation"] = [generation_result(each) for each in content["generation"]]
            content["chat"] = [chat_result(each) for each in content.get("chat", ())]
            content["published"] = [_from_dict(Published, each) for each in content["published"]]
            return _from_dict(cls, content)
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error}); write one with --update-baseline") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a report of this version ({error}); write a new one with --update-baseline"
            ) from error


CURVE_METRICS = ("MRR", "R@1", "R@5", "R@10")
"""Metrics of each point of a curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The cascade at one K: the first K hits as the reranker orders them, then the rest as the first stage does."""

    k: int
    """0 is the first stage alone."""
    early_exit: float | None = None
    """Confidence at which scoring stops; hits that are not scored keep the order of the first stage."""
    top_n: int | None = None
    """Number of hits for which early exit was calibrated."""
    metrics: dict[str, float]
    """``CURVE_METRICS`` over the whole ranking."""
    pairs: float
    """Scored pairs per query, on average."""
    milliseconds: dict[str, float]
    """``p50`` and ``p95`` of reranking one query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One system on one benchmark by increasing K, followed by early exit at the largest K."""

    system: str
    task: str
    benchmark: str
    benchmark_fingerprint: str
    protocol: str
    """``whole``, or ``pools of 1000 (seed 0)``."""
    depth: int
    """Hits that the first stage was asked for; a code that is not among them counts as not found."""
    codes: int
    queries: int
    fingerprint: str
    """Fingerprint of the model that made the vectors."""
    reranker: str
    reranker_fingerprint: str
    precision: str
    """The reranker's ``precision`` setting."""
    max_tokens: int
    rank_weight: float
    first_stage: dict[str, float]
    """``p50`` and ``p95`` of one query in milliseconds, its embedding included."""
    timed: int
    """Queries that the time was measured on."""
    calibration_error: float | None
    """Expected calibration error that the reranker's calibration states, on its own held-out queries."""
    error: float | None
    """Expected calibration error of all pairs scored here; ``None`` if the first stage found nothing."""
    points: list[CurvePoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveReport:
    """All curves of one run of a suite."""

    suite: str
    date: str
    machine: str
    versions: dict[str, str]
    curves: list[Curve]
    skipped: dict[str, str] = field(default_factory=dict)
    """The name of a part of the suite that was left out -> why."""
    seconds: float = 0.0

    def json(self) -> str:
        """Return the report as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def retrieval_result(content: Mapping[str, Any]) -> RetrievalResult:
    """Return the result that ``dataclasses.asdict`` turned into ``content``."""
    return _from_dict(RetrievalResult, content)


def generation_result(content: Mapping[str, Any]) -> GenerationResult:
    """Return the result that ``dataclasses.asdict`` turned into ``content``."""
    answers = {id_: _from_dict(Answer, answer) for id_, answer in content["answers"].items()}
    return _from_dict(GenerationResult, {**content, "answers": answers})


def chat_result(content: Mapping[str, Any]) -> ChatResult:
    """Return the result that ``dataclasses.asdict`` turned into ``content``."""
    answers = {id_: _from_dict(ChatAnswer, answer) for id_, answer in content["answers"].items()}
    return _from_dict(ChatResult, {**content, "answers": answers})


def _from_dict(kind: type[T], content: Mapping[str, Any]) -> T:
    known = fields(kind)  # type: ignore[arg-type]  # T is one of the dataclasses above
    required = {each.name for each in known if each.default is MISSING and each.default_factory is MISSING}
    if wrong := sorted((required - set(content)) | (set(content) - {each.name for each in known})):
        raise ValueError(f"{kind.__name__} has missing or unknown fields: {', '.join(wrong)}")
    return kind(**content)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedResult:
    """A result that a run is going to have, as far as it is known before the measurement."""

    system: str
    task: str
    benchmark: str
    benchmark_fingerprint: str
    metrics: tuple[str, ...] = get_args(GenerationMetric)
    protocol: str = ""
    """Of retrieval."""
    depth: int = 0
    """Of retrieval."""
    writer: str = ""
    """Of generation."""
    llm: str = ""
    """Of a chat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of one system on one task, compared with the baseline."""

    system: str
    task: str
    metric: str
    before: float
    after: float
    low: float
    """95 % interval of the mean difference, by paired bootstrap."""
    high: float
    p_worse: float
    """Of a paired randomisation test against "not worse", corrected by Holm over all comparisons of the gate."""
    queries: int
    detectable: float | None
    """Smallest drop that the gate detects with 80 % power on these queries; ``None`` if it cannot be estimated because
    no query changed, or if no drop can be significant on so few queries."""
    regression: bool
    """The drop exceeds the tolerance and is significant."""
    inconclusive: bool
    """The drop exceeds the tolerance but is not significant: there are too few queries to tell."""
    changed: list[Change] = field(default_factory=list)
    """Queries whose rank changed, the largest change of reciprocal rank first; empty for generation."""

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A query whose first relevant code has another rank than in the baseline; ``None`` means not found."""

    query: str
    text: str
    before: int | None
    after: int | None
    first: str | None
    """The corpus id that is now ranked first."""

    @property
    def gain(self) -> float:
        """Increase of the reciprocal rank; negative if it fell."""
        return reciprocal_rank(self.after) - reciprocal_rank(self.before)


def largest_losses(changes: Sequence[Change], *, limit: int = 20) -> list[Change]:
    """Return the changes to a lower reciprocal rank, the largest loss first."""
    lost = [change for change in changes if change.gain < 0]
    return sorted(lost, key=lambda change: (change.gain, change.query))[:limit]
