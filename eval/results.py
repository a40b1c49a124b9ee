"""What an evaluation found, as plain values that are saved as JSON and compared with a baseline. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.eval.metrics import reciprocal_rank

T = TypeVar("T")
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalResult:
    """One system on one benchmark. Dictionaries by query are in the order of the benchmark."""

    system: str
    task: str
    benchmark: str
    benchmark_fingerprint: str
    protocol: str
    """``whole``, or ``pools of 1000 (seed 0)``."""
    depth: int
    """Hits asked for; what is not among them counts as not found."""
    codes: int
    duplicates: int
    """Codes that equal another one but for white space."""
    values: dict[str, dict[str, float]]
    """Metric -> query id -> value from 0 to 1."""
    collapsed: dict[str, float]
    """Metric -> mean with equal codes counted as one."""
    ranks: dict[str, int | None]
    """Query id -> rank of its first relevant code, from 1."""
    top: dict[str, list[str]]
    """Query id -> its first ten corpus ids."""
    queries: dict[str, str]
    languages: dict[str, str] = field(default_factory=dict)
    """Query id -> language of its relevant code, where it is known."""
    milliseconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Stage (``embed``, ``search``, a postprocessor's name, ``total``) -> ``p50`` and ``p95`` of one query."""
    fingerprint: str = ""
    """Of the model that made the vectors, where there is one."""

    @property
    def means(self) -> dict[str, float]:
        """Metric -> mean over the queries."""
        return {metric: fmean(values.values()) for metric, values in self.values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question answered under one condition."""

    question: str
    reference: str
    answer: str
    passages: list[str]
    """Ids of what the writer was shown, best first."""
    error: str = ""
    """Why there is no answer; it then counts with every metric 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """One writer's answers to one task's questions under one condition."""

    system: str
    """The retriever's system, or "" where none is asked (conditions ``gold`` and ``none``)."""
    task: str
    benchmark: str
    benchmark_fingerprint: str
    condition: str
    """``gold``, ``retrieved`` or ``none``: which passages the writer was shown."""
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
class Published:
    """A figure out of a paper or a model card, never measured here."""

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
    published: list[Published] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """What of the suite was left out, and why."""
    seconds: float = 0.0

    def save(self, path: str | Path) -> None:
        """Write all of it as JSON, atomically."""
        write_atomically(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    def slim(self) -> Report:
        """Return what a later run is compared with: no answers' texts, and of the hits the first alone."""
        return replace(
            self,
            retrieval=[
                replace(each, top={query: ids[:1] for query, ids in each.top.items()}) for each in self.retrieval
            ],
            generation=[replace(each, answers={}) for each in self.generation if each.condition == "retrieved"],
        )

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: there is no such file, it is no report, or of another format.
        """
        try:
            facts = json.loads(Path(path).read_text(encoding="utf-8"))
            if facts.pop("format") != FORMAT:
                raise ValueError(f"it is not of format {FORMAT}")
            facts["retrieval"] = [retrieval_result(each) for each in facts["retrieval"]]
            facts["generation"] = [generation_result(each) for each in facts["generation"]]
            facts["published"] = [_made(Published, each) for each in facts["published"]]
            return _made(cls, facts)
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error}); write one with --update-baseline") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no report of this version ({error}); make it anew with --update-baseline"
            ) from error


def retrieval_result(facts: Mapping[str, Any]) -> RetrievalResult:
    """Return what ``asdict`` made plain."""
    return _made(RetrievalResult, facts)


def generation_result(facts: Mapping[str, Any]) -> GenerationResult:
    """Return what ``asdict`` made plain."""
    answers = {id_: _made(Answer, answer) for id_, answer in facts["answers"].items()}
    return _made(GenerationResult, {**facts, "answers": answers})


def _made(kind: type[T], facts: Mapping[str, Any]) -> T:
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]  # T is one of the dataclasses above
    if set(facts) != names:
        raise ValueError(f"{kind.__name__} has {', '.join(sorted(set(facts) ^ names))} too many or too few")
    return kind(**facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of one system on one task, now and in the baseline."""

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
    """Queries whose rank changed, the most changed one first; empty for generation."""

    @property
    def difference(self) -> float:
        """Return after minus before."""
        return self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A query whose first relevant code has another rank than in the baseline; ``None`` is not found."""

    query: str
    text: str
    before: int | None
    after: int | None
    first: str | None
    """Corpus id that is ranked first now."""

    @property
    def gain(self) -> float:
        """By how much the reciprocal rank rose; negative where it fell."""
        return reciprocal_rank(self.after) - reciprocal_rank(self.before)


def worst(changes: Sequence[Change], *, most: int = 20) -> list[Change]:
    """Return the changes that cost reciprocal rank, the costliest first."""
    lost = [change for change in changes if change.gain < 0]
    return sorted(lost, key=lambda change: (change.gain, change.query))[:most]
