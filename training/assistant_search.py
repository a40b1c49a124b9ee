"""The search for the smallest student with teaching assistants (SPENCER: Gu et al. 2025, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Layers = tuple[int, ...]
"""Which layers of the teacher's base a model keeps, counted from 0."""

Lineage = tuple[Layers, ...]
"""The layers of the teacher, of each assistant after it, and of the model that the last of them taught."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedStudent:
    """A student of the search."""

    layers: Layers
    teachers: Lineage
    """The layers of the teacher first, those of the model that taught this student last."""
    mrr: float

    @property
    def lineage(self) -> Lineage:
        """The teachers and this student."""
        return (*self.teachers, self.layers)


@dataclass(frozen=True, slots=True)
class AssistantSearch:
    """The result of :func:`search_students`."""

    teacher_mrr: float
    threshold: float
    tried: list[TriedStudent]
    chosen: TriedStudent | None
    """The smallest student within the threshold; ``None`` where the first one loses more."""


def check_search(layers: int, *, step: int, threshold: float) -> None:
    """Refuse settings of a search over a teacher with so many layers.

    Raises:
        ValueError: ``step`` leaves no layer, or ``threshold`` is negative or not a number.
    """
    if not 1 <= step < layers:
        raise ValueError(f"step must be from 1 to {layers - 1}, so that some of the {layers} layers remain, got {step}")
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be 0 or a larger number, got {threshold}")


def search_students(
    layers: int,
    teacher_mrr: float,
    distil: Callable[[Layers, Lineage], float],
    *,
    step: int = 1,
    threshold: float = 0.01,
) -> AssistantSearch:
    """Return the smallest student whose MRR is at most ``threshold`` below the teacher's.

    ``distil(layers, teachers)`` trains a student with these layers, taught by the last of ``teachers``, and returns its
    MRR. Each round removes ``step`` layers, evenly spaced, and has two models teach a student of the new size: the
    larger and the smaller one of those that are kept as teachers.

    The printed algorithm is ambiguous in three places and is read as section 2.5 describes it. The student replaces the
    teacher of the *worse* student (printed: where the smaller model taught better, the other one's student is kept).
    The loop continues while the newest student is within the threshold *and* layers can be removed (printed: the former
    only). The first student is a result only if it is within the threshold (printed: always).

    Raises:
        ValueError: as :func:`check_search`.
    """
    check_search(layers, step=step, threshold=threshold)
    whole = tuple(range(layers))
    larger: Lineage = (whole,)
    newest = _try(distil, remove_layers(whole, step), larger)
    smaller = newest.lineage
    tried, chosen = [newest], None
    while teacher_mrr - newest.mrr <= threshold:
        chosen = newest
        if len(newest.layers) <= step:
            break
        layers_left = remove_layers(newest.layers, step)
        by_larger, by_smaller = _try(distil, layers_left, larger), _try(distil, layers_left, smaller)
        tried += [by_larger, by_smaller]
        if by_larger.mrr > by_smaller.mrr:
            newest = by_larger
        else:
            newest, larger = by_smaller, smaller
        smaller = newest.lineage
    return AssistantSearch(teacher_mrr, threshold, tried, chosen)


def _try(distil: Callable[[Layers, Lineage], float], layers: Layers, teachers: Lineage) -> TriedStudent:
    return TriedStudent(layers=layers, teachers=teachers, mrr=distil(layers, teachers))


def remove_layers(layers: Sequence[int], count: int) -> Layers:
    """Return ``layers`` without ``count`` of them; the rest is evenly spaced, first and last included.

    >>> remove_layers((0, 1, 2, 3, 4, 5), 3), remove_layers((0, 5), 1)
    ((0, 2, 5), (0,))
    """
    rest = len(layers) - count
    places = [0] if rest == 1 else [round(i * (len(layers) - 1) / (rest - 1)) for i in range(rest)]
    return tuple(layers[place] for place in places)
