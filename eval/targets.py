"""Targets of questions about repositories, the hits that cover them, and their NDCG. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llamaindex_code_retrieval.eval.metrics import evaluate_run


class Place(NamedTuple):
    """Where a hit stands: its file, and its first and last line, counted from 1."""

    path: str
    start_line: int
    end_line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.start_line}-{self.end_line}"


@dataclass(frozen=True, slots=True)
class Target:
    """A file of a repository that answers a question, or some of its lines, counted from 1.

    Raises:
        ValueError: the path is empty, or is not relative with forward slashes; one of the two lines is missing or
            below 1, or the last line stands before the first.
    """

    path: str
    start_line: int | None = None
    end_line: int | None = None

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if "\\" in self.path or any(part in ("", ".", "..") for part in parts):
            raise ValueError(
                f"path must be relative to the repository, with forward slashes, as in src/app.py, got {self.path!r}"
            )
        if self.start_line is None and self.end_line is None:
            return
        if self.start_line is None or self.end_line is None:
            raise ValueError("start_line and end_line need each other; give both, or none for the whole file")
        if not 1 <= self.start_line <= self.end_line:
            raise ValueError(
                f"start_line must be at least 1 and end_line not before it, got {self.start_line} and {self.end_line}"
            )

    def __str__(self) -> str:
        return self.path if self.start_line is None else f"{self.path}:{self.start_line}-{self.end_line}"

    def is_in(self, path: str) -> bool:
        """Return whether ``path`` is the target's file; one of the two paths may lack leading folders.

        >>> [Target("src/app.py").is_in(path) for path in ("src/app.py", "app.py", "my/src/app.py", "my_app.py")]
        [True, True, True, False]
        """
        return f"/{path}".endswith(f"/{self.path}") or self.path.endswith(f"/{path}")

    def is_covered_by(self, place: Place) -> bool:
        """Return whether a hit is in the target's file and, where the target names lines, touches them."""
        if not self.is_in(place.path):
            return False
        if self.start_line is None or self.end_line is None:
            return True
        return place.start_line <= self.end_line and place.end_line >= self.start_line


def rank_targets(hits: Sequence[Place], targets: Sequence[Target]) -> tuple[list[str], dict[str, int]]:
    """Return the ranking and the judgements of one question, for :func:`.metrics.per_query_metrics`.

    Each target is a relevant id. In the ranking it has the place of the first hit that covers it. Of several targets
    that are first covered by the same hit one has this place and the others are not found, as in semble's benchmark.

    >>> rank_targets([Place("a.py", 1, 20), Place("b.py", 5, 9)], [Target("b.py"), Target("c.py")])
    (['hit 1', 'target 1'], {'target 1': 1, 'target 2': 1})
    """
    ranking = [f"hit {rank}" for rank in range(1, len(hits) + 1)]
    judgements = {f"target {number}": 1 for number in range(1, len(targets) + 1)}
    for id_, target in zip(judgements, targets, strict=True):
        first = next((i for i, hit in enumerate(hits) if target.is_covered_by(hit)), None)
        if first is not None and ranking[first] not in judgements:
            ranking[first] = id_
    return ranking, judgements


def ndcg(hits: Sequence[Place], targets: Sequence[Target], *, k: int = 10) -> float:
    """Return the NDCG@k of one question; see :func:`rank_targets`.

    Raises:
        ValueError: there are no targets.
        ImportError: ``ir_measures`` is not installed.

    >>> round(ndcg([Place("src/a.py", 1, 20), Place("src/b.py", 5, 9)], [Target("b.py")]), 4)
    0.6309
    """
    ranking, judgements = rank_targets(hits, targets)
    metric = f"nDCG@{k}"
    return evaluate_run({"question": ranking}, {"question": judgements}, metrics=[metric])[metric]
