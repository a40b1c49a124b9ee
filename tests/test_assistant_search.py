"""The search for teaching assistants: which students are taught by whom, and which one is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest

from llamaindex_code_retrieval.training.assistant_search import (
    AssistantSearch,
    Layers,
    Lineage,
    TriedStudent,
    remove_layers,
    search_students,
)
from llamaindex_code_retrieval.training.curves import search_svg


def _sizes(lineage: Lineage) -> str:
    return "-".join(str(len(layers)) for layers in lineage)


def _search(layers: int, scores: Mapping[str, float], **more: Any) -> tuple[AssistantSearch, list[str]]:
    """Search with students whose MRR depends on their lineage; also return the order in which they were taught."""
    taught: list[str] = []

    def distil(kept: Layers, teachers: Lineage) -> float:
        assert teachers[0] == tuple(range(layers))
        assert set(kept) < set(teachers[-1])
        taught.append(_sizes((*teachers, kept)))
        return scores[taught[-1]]

    return search_students(layers, 0.9, distil, **more), taught


def test_the_smaller_teacher_is_better() -> None:
    """Each student teaches the next: 4 layers, then 3, then 2 by the 3, then 1 by the 2."""
    scores = {"4-3": 0.9, "4-2": 0.85, "4-3-2": 0.9, "4-3-1": 0.8, "4-3-2-1": 0.895}
    search, taught = _search(4, scores)
    assert taught == ["4-3", "4-2", "4-3-2", "4-3-1", "4-3-2-1"]
    assert search.chosen is not None
    assert _sizes(search.chosen.lineage) == "4-3-2-1"  # the fewest that can be
    assert (search.chosen.layers, search.chosen.mrr, search.teacher_mrr) == ((0,), 0.895, 0.9)


def test_the_larger_teacher_is_better() -> None:
    """The teacher continues to teach, and its student replaces the teacher of the worse student."""
    scores = {"4-3": 0.9, "4-2": 0.9, "4-3-2": 0.85, "4-1": 0.9, "4-2-1": 0.85}
    search, taught = _search(4, scores)
    assert taught == ["4-3", "4-2", "4-3-2", "4-1", "4-2-1"]
    assert search.chosen is not None
    assert _sizes(search.chosen.lineage) == "4-1"
    assert [_sizes(each.lineage) for each in search.tried] == taught


def test_a_tie_is_the_smaller_teachers() -> None:
    scores = {"3-2": 0.9, "3-1": 0.9, "3-2-1": 0.9}
    search, _ = _search(3, scores)
    assert search.chosen is not None
    assert _sizes(search.chosen.lineage) == "3-2-1"


def test_it_stops_at_the_threshold() -> None:
    # 0.9 - 0.88 exceeds 0.01: the student of 2 layers is not chosen, and no smaller one is taught.
    search, taught = _search(4, {"4-3": 0.895, "4-2": 0.87, "4-3-2": 0.88})
    assert taught == ["4-3", "4-2", "4-3-2"]
    assert search.chosen is not None
    assert _sizes(search.chosen.lineage) == "4-3"
    search, taught = _search(4, {"4-3": 0.7})
    assert taught == ["4-3"]
    assert search.chosen is None
    scores = {"4-3": 0.4, "4-2": 0.41, "4-3-2": 0.4, "4-1": 0.41, "4-2-1": 0.4}
    search, _ = _search(4, scores, threshold=0.5)
    assert search.chosen is not None
    assert len(search.chosen.layers) == 1


def test_steps_of_several_layers() -> None:
    search, taught = _search(6, {"6-4": 0.9, "6-2": 0.9, "6-4-2": 0.9}, step=2)
    assert taught == ["6-4", "6-2", "6-4-2"]
    assert [each.layers for each in search.tried] == [(0, 2, 3, 5), (0, 5), (0, 5)]
    for step in (0, 6, 7):
        with pytest.raises(
            ValueError, match=f"step must be from 1 to 5, so that some of the 6 layers remain, got {step}"
        ):
            _search(6, {}, step=step)
    for threshold in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"threshold must be 0 or a larger number, got {threshold}"):
            _search(6, {}, threshold=threshold)


@pytest.mark.parametrize("layers", range(2, 13))
def test_layers_that_remain_are_evenly_spaced(layers: int) -> None:
    whole = tuple(range(10, 10 + layers))
    for step in range(1, layers):
        rest = remove_layers(whole, step)
        assert len(rest) == layers - step
        assert list(rest) == sorted(set(rest) & set(whole))
        assert rest[0] == whole[0]
        if len(rest) > 1:
            assert rest[-1] == whole[-1]
            gaps = {second - first for first, second in pairwise(rest)}
            assert max(gaps) - min(gaps) <= 1


def test_the_drawing_names_all_students() -> None:
    tried = [
        TriedStudent(layers=(0, 2), teachers=((0, 1, 2),), mrr=0.8),
        TriedStudent(layers=(0,), teachers=((0, 1, 2),), mrr=0.7),
    ]
    search = AssistantSearch(0.9, 0.1, tried, tried[0])
    drawn = search_svg(search)
    assert drawn == search_svg(search)
    for label in (b">3<", b">3-2<", b">3-1<"):
        assert label in drawn
