"""A linear model of features, saved as JSON, and the choice of hits by its scores."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import read_json, write_atomically
from llamaindex_code_retrieval.ranking.features import FEATURES, Candidate
from llamaindex_code_retrieval.ranking.question import Question

FORMAT = 1
"""Version of the file; a file of another version is refused."""
DEFAULT_FILE = Path(__file__).with_name("default.json")
KINDS = ("sentence", "name")
"""The kinds of questions that have weights of their own."""

Kind = Literal["sentence", "name"]


class Choice(NamedTuple):
    """A candidate that is returned."""

    place: int
    """In the list of candidates."""
    score: float
    others: tuple[int, ...]
    """Places of other parts of its definition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingModel:
    """Weights of the features for each kind of question.

    The kinds are "name" for questions that are identifiers, paths or stack traces, and "sentence" for all others.

    Raises:
        ValueError: a weight is missing, not finite or of an unknown feature or kind, or ``file_penalty`` is negative.
    """

    weights: Mapping[Kind, Mapping[str, float]]
    file_penalty: float = 0.0
    """Each further hit of a file loses this times the number of its hits that stand before it."""
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    """What the weights were fitted to; it has no effect."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) ^ set(KINDS)):
            raise ValueError(f"weights are needed for the kinds {', '.join(KINDS)}, wrong or missing: {unknown[0]!r}")
        for kind, weights in self.weights.items():
            for name in sorted(set(weights) ^ set(FEATURES)):
                is_unknown = name in weights
                raise ValueError(f"{'unknown feature' if is_unknown else 'no weight for'} {name!r} of kind {kind!r}")
            for name, weight in weights.items():
                if not _is_finite(weight):
                    raise ValueError(f"the weight of {name!r} of kind {kind!r} must be a finite number, got {weight!r}")
        if not (_is_finite(self.file_penalty) and self.file_penalty >= 0):
            raise ValueError(f"file_penalty must be a finite number >= 0, got {self.file_penalty!r}")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that ``code-retrieval train-ranking`` wrote.

        Raises:
            ValueError: it is missing, not such a file, or of another version.
        """
        way_out = "make one with code-retrieval train-ranking, or leave it out to use the default"
        try:
            saved = read_json(path, remedy=way_out, keys=("format", "weights", "file_penalty"))
        except OSError as error:
            raise ValueError(f"ranking file {path} cannot be read ({error}); {way_out}") from error
        if saved["format"] != FORMAT:
            raise ValueError(
                f"ranking file {path} is of format {saved['format']!r}, this version reads {FORMAT}; {way_out}"
            )
        weights, trained_on = saved["weights"], saved.get("trained_on", {})
        kinds = weights.values() if isinstance(weights, dict) else ()
        try:
            if not all(isinstance(each, dict) for each in (weights, *kinds, trained_on)):
                raise ValueError("weights, those of each kind and trained_on must be objects")
            return cls(weights=weights, file_penalty=saved["file_penalty"], trained_on=trained_on)
        except ValueError as error:
            raise ValueError(f"ranking file {path} is not valid: {error}; {way_out}") from error

    def save(self, path: str | Path) -> None:
        """Write the model."""
        saved = {
            "format": FORMAT,
            "weights": {kind: dict(self.weights[kind]) for kind in self.weights},
            "file_penalty": self.file_penalty,
            "trained_on": dict(self.trained_on),
        }
        write_atomically(Path(path), json.dumps(saved, indent=2) + "\n")

    def vector(self, kind: Kind) -> NDArray[np.float64]:
        """Return the weights of a kind, shape ``(len(FEATURES),)``."""
        weights = self.weights[kind]
        return np.array([weights[name] for name in FEATURES])

    def choose(
        self, question: Question, candidates: Sequence[Candidate], features: NDArray[np.floating[Any]], *, top_k: int
    ) -> list[Choice]:
        """Return the best candidates by their weighted sums of ``features``, best first, ties by id.

        The best part of a definition is returned for all its parts. Each further hit of a file loses ``file_penalty``
        for each of its hits before, unless the question asks for a file. The score is the sum's share in a softmax over
        all candidates.
        """
        # Unlike `@`, the same for equal features wherever they stand: their ids must decide.
        sums = np.einsum("ij,j->i", features, self.vector(kind_of(question)))
        penalty = 0.0 if question.shape in ("path", "trace") else self.file_penalty
        order = sorted(range(len(candidates)), key=lambda place: (-sums[place], candidates[place].id))
        of_definitions: dict[tuple[int, int], list[int]] = {}
        for place in order:
            of_definitions.setdefault(candidates[place].definition, []).append(place)
        of_files: dict[str, list[list[int]]] = {}
        for places in of_definitions.values():
            first = candidates[places[0]]
            of_files.setdefault(first.path or first.id, []).append(places)
        total = float(np.logaddexp.reduce(sums)) if len(sums) else 0.0
        heap = [(-float(sums[best[0][0]]), candidates[best[0][0]].id, file, 0) for file, best in of_files.items()]
        heapq.heapify(heap)
        chosen: list[Choice] = []
        while heap and len(chosen) < top_k:
            negative, _, file, number = heapq.heappop(heap)
            place, *others = of_files[file][number]
            chosen.append(Choice(place, math.exp(-negative - total), tuple(others)))
            if number + 1 < len(of_files[file]):
                place = of_files[file][number + 1][0]
                penalised = float(sums[place]) - penalty * (number + 1)
                heapq.heappush(heap, (-penalised, candidates[place].id, file, number + 1))
        return chosen


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def kind_of(question: Question) -> Kind:
    """Return which weights rank the candidates of a question."""
    return "name" if question.shape in ("identifier", "path", "trace") else "sentence"


@lru_cache(maxsize=1)
def default_model() -> RankingModel:
    """Return the model that comes with the package."""
    return RankingModel.load(DEFAULT_FILE)
