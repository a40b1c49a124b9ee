"""The linear model of the ranking: its file, and the hits that it chooses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaindex_code_retrieval.ranking.features import FEATURES, Candidate
from llamaindex_code_retrieval.ranking.model import (
    DEFAULT_FILE,
    FORMAT,
    KINDS,
    Choice,
    RankingModel,
    default_model,
    kind_of,
)
from llamaindex_code_retrieval.ranking.question import Question

SENTENCE, NAME, PATH = (Question.of(text) for text in ("how are prices summed", "Cart.total", "shop/cart.py"))
TRACE = Question.of('Traceback (most recent call last):\n  File "/srv/shop/cart.py", line 3, in total\nKeyError: 1')


def model(*, file_penalty: float = 0.0, name_weight: float = 1.0, **weights: float) -> RankingModel:
    """Return a model in which all weights are 0 except those that are given."""
    return RankingModel(
        weights={
            "sentence": dict.fromkeys(FEATURES, 0.0) | weights,
            "name": {name: weight * name_weight for name, weight in (dict.fromkeys(FEATURES, 0.0) | weights).items()},
        },
        file_penalty=file_penalty,
    )


def candidates_of(*places: tuple[str, int]) -> list[Candidate]:
    """Return candidates by file and definition, with the ids a, b, …"""
    return [
        Candidate(number, chr(97 + number), (1, definition), path, "f", "f", "function", "python", 1, 2, False)
        for number, (path, definition) in enumerate(places)
    ]


def choose(
    sums: Sequence[float],
    *places: tuple[str, int],
    top_k: int = 10,
    file_penalty: float = 0.0,
    question: Question = SENTENCE,
) -> list[Choice]:
    """Choose of candidates with these sums."""
    features = np.zeros((len(sums), len(FEATURES)))
    features[:, FEATURES.index("cosine")] = sums
    chooser = model(file_penalty=file_penalty, cosine=1.0)
    return chooser.choose(question, candidates_of(*places), features, top_k=top_k)


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_saved_model_is_loaded_as_it_was(tmp_path: Path) -> None:
    saved = RankingModel(
        weights=model(cosine=1.5, test=-0.25, name_weight=2).weights, file_penalty=3.5, trained_on={"questions": 7}
    )
    saved.save(tmp_path / "ranking.json")
    assert RankingModel.load(tmp_path / "ranking.json") == saved
    assert saved.vector("name")[FEATURES.index("cosine")] == 3
    assert saved.vector("sentence").tolist() == [{"cosine": 1.5, "test": -0.25}.get(name, 0) for name in FEATURES]


def test_the_default_model_is_read_once() -> None:
    assert default_model() is default_model()
    assert default_model() == RankingModel.load(DEFAULT_FILE)


def _set(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(saved: dict[str, Any]) -> None:
        for key in keys[:-1]:
            saved = saved[key]
        saved[keys[-1]] = to

    return change


def _drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(saved: dict[str, Any]) -> None:
        for key in keys[:-1]:
            saved = saved[key]
        del saved[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", to=FORMAT + 1), f"is of format {FORMAT + 1}, this version reads {FORMAT}"),
        (_drop("format"), "lacks format"),
        (_drop("weights"), "lacks weights"),
        (_drop("file_penalty"), "lacks file_penalty"),
        (_drop("weights", "name"), "weights are needed for the kinds sentence, name, wrong or missing: 'name'"),
        (_set("weights", "code", to={}), "wrong or missing: 'code'"),
        (_set("weights", to=[1, 2]), "weights, those of each kind and trained_on must be objects"),
        (_set("weights", "name", to=3), "must be objects"),
        (_set("weights", "name", to=list(FEATURES)), "must be objects"),
        (_drop("weights", "name", "line"), "no weight for 'line' of kind 'name'"),
        (_set("weights", "sentence", "magic", to=1), "unknown feature 'magic' of kind 'sentence'"),
        (_set("weights", "sentence", "line", to=float("nan")), "'line' of kind 'sentence' must be a finite number"),
        (_set("weights", "name", "line", to=float("inf")), "'line' of kind 'name' must be a finite number, got inf"),
        (_set("weights", "name", "line", to="1"), "must be a finite number, got '1'"),
        (_set("weights", "name", "line", to=None), "must be a finite number, got None"),
        (_set("weights", "name", "line", to=True), "must be a finite number, got True"),
        (_set("file_penalty", to=-1), "file_penalty must be a finite number >= 0, got -1"),
        (_set("file_penalty", to=float("nan")), "file_penalty must be a finite number >= 0, got nan"),
        (_set("file_penalty", to=float("inf")), "file_penalty must be a finite number >= 0, got inf"),
        (_set("file_penalty", to="3"), "file_penalty must be a finite number >= 0, got '3'"),
        (_set("trained_on", to=[]), "trained_on must be objects"),
    ],
)
def test_wrong_files_are_refused(change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    saved = json.loads(DEFAULT_FILE.read_text())
    change(saved)
    path = tmp_path / "ranking.json"
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=message) as error:
        RankingModel.load(path)
    assert str(path) in str(error.value)
    assert "make one with code-retrieval train-ranking, or leave it out to use the default" in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"3", b"null"])
def test_what_is_no_model_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "ranking.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"ranking\.json (cannot be read|is not valid JSON|must hold a JSON).*train-ranking"
    ):
        RankingModel.load(path)
    with pytest.raises(ValueError, match="cannot be read"):
        RankingModel.load(tmp_path)


def test_a_model_built_in_python_is_checked() -> None:
    with pytest.raises(ValueError, match="must be a finite number, got nan"):
        model(line=math.nan)
    with pytest.raises(ValueError, match="unknown feature 'lines'"):
        model(lines=1)
    with pytest.raises(ValueError, match="file_penalty must be a finite number >= 0, got -1"):
        model(file_penalty=-1)


# --- the choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Cart.total", "name"),
        ("shop/cart.py", "name"),
        (TRACE.text, "name"),
        ("how are prices summed", "sentence"),
        ("def total(self):\n    return sum(self.prices)\n", "sentence"),
        ("", "sentence"),
    ],
)
def test_the_shape_of_a_question_chooses_the_weights(text: str, kind: str) -> None:
    assert kind_of(Question.of(text)) == kind
    assert kind in KINDS


def test_names_and_sentences_have_weights_of_their_own() -> None:
    features = np.zeros((2, len(FEATURES)))
    features[1, FEATURES.index("symbol")] = 1
    chooser = model(symbol=1.0, name_weight=-1.0)
    candidates = candidates_of(("a.py", 1), ("b.py", 2))
    assert [choice.place for choice in chooser.choose(SENTENCE, candidates, features, top_k=2)] == [1, 0]
    assert [choice.place for choice in chooser.choose(NAME, candidates, features, top_k=2)] == [0, 1]


def test_the_score_is_the_share_in_a_softmax_over_all_candidates() -> None:
    chosen = choose([0.0, math.log(3), math.log(4)], ("a.py", 1), ("b.py", 2), ("c.py", 3), top_k=2)
    assert [choice.place for choice in chosen] == [2, 1]
    assert [choice.score for choice in chosen] == pytest.approx([4 / 8, 3 / 8])


def test_the_parts_of_a_definition_are_one_hit() -> None:
    """The best part stands for all; the same number in another file is another definition."""
    parts = (("a.py", 1), ("a.py", 1), ("b.py", 2), ("a.py", 1))
    chosen = choose([1.0, 3.0, 2.0, 2.5], *parts)
    assert [(choice.place, choice.others) for choice in chosen] == [(1, (3, 0)), (2, ())]


def test_further_hits_of_a_file_lose_the_penalty_for_each_before() -> None:
    places = [("a.py", 1), ("a.py", 2), ("a.py", 3), ("b.py", 4), ("b.py", 5), ("c.py", 6)]
    chosen = choose([9.0, 8.0, 7.5, 6.8, 6.7, 5.0], *places, file_penalty=1.5)
    # penalised: 9, 8 - 1.5, 7.5 - 3, 6.8, 6.7 - 1.5, 5
    assert [choice.place for choice in chosen] == [0, 3, 1, 4, 5, 2]
    total = sum(math.exp(value) for value in [9.0, 8.0, 7.5, 6.8, 6.7, 5.0])
    expected = [math.exp(value) / total for value in [9, 6.8, 6.5, 5.2, 5, 4.5]]
    assert [choice.score for choice in chosen] == pytest.approx(expected)


@pytest.mark.parametrize(("question", "is_penalised"), [(PATH, False), (TRACE, False), (NAME, True), (SENTENCE, True)])
def test_questions_for_a_file_may_get_many_hits_of_it(question: Question, is_penalised: bool) -> None:
    chosen = choose([3.0, 2.0, 1.0], ("a.py", 1), ("a.py", 2), ("b.py", 3), file_penalty=5, question=question)
    assert [choice.place for choice in chosen] == ([0, 2, 1] if is_penalised else [0, 1, 2])


def test_nodes_without_a_path_are_of_no_common_file() -> None:
    chosen = choose([3.0, 2.0, 1.0], ("", 1), ("", 2), ("b.py", 3), file_penalty=5)
    assert [choice.place for choice in chosen] == [0, 1, 2]


def test_ties_are_broken_by_id() -> None:
    places = [("b.py", 1), ("a.py", 2), ("b.py", 3), ("c.py", 4)]
    assert [choice.place for choice in choose([1.0] * 4, *places)] == [0, 1, 2, 3]
    assert [choice.place for choice in choose([1.0] * 4, *places, file_penalty=0.5)] == [0, 1, 3, 2]


def test_equal_features_tie_wherever_they_stand() -> None:
    """A product of a matrix and a vector may round equal rows differently."""
    draw = np.random.default_rng(0)
    for count in range(2, 60):
        weights = dict(zip(FEATURES, draw.standard_normal(len(FEATURES)).tolist(), strict=True))
        features = np.tile(draw.standard_normal(len(FEATURES)), (count, 1))
        candidates = candidates_of(*((f"{number}.py", number) for number in range(count)))
        chosen = model(**weights).choose(SENTENCE, candidates, features, top_k=count)
        assert [choice.place for choice in chosen] == list(range(count))


def test_no_candidates() -> None:
    assert choose([]) == []


CASES = st.lists(
    st.tuples(st.floats(-20, 20), st.sampled_from(["", "a.py", "b.py"]), st.integers(0, 5)), min_size=1, max_size=14
)


@given(case=CASES, penalty=st.sampled_from([0.0, 0.7, 30.0]), question=st.sampled_from([SENTENCE, NAME, PATH]))
def test_laws_of_the_choice(case: list[tuple[float, str, int]], penalty: float, question: Question) -> None:
    """Every candidate once, scores fall and add up to 1 at most, and fewer hits are the first of more."""
    sums = [value for value, _, _ in case]
    paths = sorted({path for _, path, _ in case})  # a definition is in one file
    places = [(path, definition + 10 * paths.index(path)) for _, path, definition in case]
    chosen = choose(sums, *places, file_penalty=penalty, question=question, top_k=14)
    assert sorted(place for choice in chosen for place in (choice.place, *choice.others)) == list(range(len(case)))
    scores = [choice.score for choice in chosen]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 + 1e-9 for score in scores)
    assert sum(scores) <= 1 + 1e-9
    if penalty == 0 and len(set(places)) == len(places):
        assert sum(scores) == pytest.approx(1)
    for top_k in (1, 3, 10):
        assert choose(sums, *places, file_penalty=penalty, question=question, top_k=top_k) == chosen[:top_k]
