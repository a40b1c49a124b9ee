"""Search for the smallest student with teaching assistants (SPENCER, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# --- teaching assistants ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A student of the search: which layers it keeps, who taught it, and what it scores."""

    layers: tuple[int, ...]
    teacher: tuple[tuple[int, ...], ...]
    """The lessons back to the teacher: its own layers first, the one who taught this student last."""
    mrr: float

    @property
    def path(self) -> tuple[tuple[int, ...], ...]:
        """Who taught whom, this student last."""
        return (*self.teacher, self.layers)


@dataclass(frozen=True, slots=True)
class Search:
    """What :func:`search_assistants` found."""

    teacher_mrr: float
    tried: list[Taught]
    chosen: Taught | None
    """The smallest within the threshold; ``None`` where already the first step loses more."""


def search_assistants(
    layers: int,
    teacher_mrr: float,
    distil: Callable[[tuple[int, ...], tuple[tuple[int, ...], ...]], float],
    *,
    step: int = 1,
    threshold: float = 0.01,
) -> Search:
    """Look for the smallest student within ``threshold`` of the teacher's MRR (SPENCER, algorithm 1).

    ``distil(kept, path)`` trains a student that keeps the layers ``kept``, taught by the last one of ``path`` (the
    first is the teacher, with all its layers), and returns its MRR. Each round takes away ``step`` layers, evenly
    spread, and lets two teach the same smaller student: the larger and the smaller of the two that are left.

    The algorithm as printed is ambiguous in three places, read here as its section 2.5 says in words:
    the student replaces the teacher of the *worse* student (printed, the branch in which the smaller one taught better
    keeps the other one's student); the loop goes on while the newest student is within the threshold *and* there are
    layers to take away (printed, only the former); and its first student counts for the result only if it is within
    the threshold (printed, it is returned in any case).

    Raises:
        ValueError: a step that leaves no layer, or a threshold under 0.
    """
    if not 1 <= step < layers:
        raise ValueError(f"step must be from 1 to {layers - 1}, so that of {layers} layers some are left, got {step}")
    if threshold < 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")
    tried: list[Taught] = []

    def taught(kept: tuple[int, ...], path: tuple[tuple[int, ...], ...]) -> Taught:
        student = Taught(layers=kept, teacher=path, mrr=distil(kept, path))
        tried.append(student)
        return student

    whole = tuple(range(layers))
    larger: tuple[tuple[int, ...], ...] = (whole,)
    newest = taught(fewer(whole, step), larger)
    smaller = newest.path
    chosen = None
    while teacher_mrr - newest.mrr <= threshold:
        chosen = newest
        if len(newest.layers) <= step:
            break
        kept = fewer(newest.layers, step)
        by_larger, by_smaller = taught(kept, larger), taught(kept, smaller)
        if by_larger.mrr > by_smaller.mrr:
            newest, smaller = by_larger, by_larger.path
        else:
            newest, larger, smaller = by_smaller, smaller, by_smaller.path
    return Search(teacher_mrr, tried, chosen)


def fewer(layers: Sequence[int], step: int) -> tuple[int, ...]:
    """Return ``layers`` without ``step`` of them; those left are spread evenly, first and last included.

    >>> fewer((0, 1, 2, 3, 4, 5), 3), fewer((0, 5), 1)
    ((0, 2, 5), (0,))
    """
    left = len(layers) - step
    places = [0] if left == 1 else [round(i * (len(layers) - 1) / (left - 1)) for i in range(left)]
    return tuple(layers[place] for place in places)
