"""The features of candidates, each by a value that is worked out by hand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaindex_code_retrieval.ranking.features import FEATURES, Candidate, Scores, Words, feature_matrix
from llamaindex_code_retrieval.ranking.question import Question

TRACE = (
    'Traceback (most recent call last):\n  File "/srv/app/shop/cart.py", line 11, in total\nValueError: invalid value'
)
NOTHING = Scores([], [])


def candidate(number: int = 1, **changes: Any) -> Candidate:
    """Return a method of three lines, and the node of another definition for each number."""
    return Candidate(
        number=number,
        id=f"n{number}",
        definition=(1, number),
        path="shop/cart.py",
        symbol="total",
        scope="Cart.total",
        kind="method",
        language="python",
        start_line=10,
        end_line=12,
        is_documented=False,
    )._replace(**changes)


def matrix(
    text: str,
    candidates: Sequence[Candidate],
    *,
    vectors: Sequence[Scores] = (),
    bm25: Scores = NOTHING,
    quoted: Collection[int] = (),
) -> dict[str, list[float]]:
    """Return the columns of the features, where all words are equally rare."""
    words = Words.of(text, lambda word: 1.0)
    values = feature_matrix(Question.of(text), words, candidates, vectors=vectors, bm25=bm25, quoted=quoted)
    assert values.shape == (len(candidates), len(FEATURES))
    assert np.isfinite(values).all()
    return dict(zip(FEATURES, values.T.tolist(), strict=True))


@pytest.mark.parametrize(
    ("feature", "text", "changes", "expected"),
    [
        ("symbol", "Cart.total", {}, 1),
        ("symbol", "Cart.TOTAL", {}, 1),
        ("symbol", "Cart.total", {"symbol": "totals"}, 0),
        ("symbol", "Größe.fläche", {"symbol": "FLÄCHE"}, 1),
        ("symbol_case", "Cart.total", {}, 1),
        ("symbol_case", "Cart.TOTAL", {}, 0),
        ("symbol_words", "sum the total price", {"symbol": "total_price"}, 1),
        ("symbol_words", "sum the total price", {"symbol": "totalWeight"}, 1 / 2),
        ("symbol_words", "sum the total price", {"symbol": ""}, 0),
        ("symbol_words", "how is it registered", {"symbol": "registering"}, 1),
        ("symbol_words", "读取配置", {"symbol": "读取"}, 1),
        ("symbol_cover", "sum the total price", {"symbol": "total_price"}, 2 / 3),
        ("symbol_cover", "sum the total price", {"symbol": "totalWeight"}, 0),
        ("symbol_cover", "all of them", {"symbol": "all"}, 1 / 3),
        ("qualified_name", "Cart.total", {}, 1),
        ("qualified_name", "Cart::total", {"scope": "total"}, 1),
        ("qualified_name", "cart.total", {"path": "a.py", "scope": "Box.total"}, 0),
        ("qualified_name", "Cart.total", {"symbol": "sum", "scope": "Cart.sum"}, 0),
        ("qualified_name", "total", {}, 0),
        ("scope_cover", "total of the cart", {}, 1 / 2),
        ("scope_cover", "total of the cart", {"scope": "total"}, 0),
        ("scope_cover", "total of the cart", {"scope": "total.total"}, 0),
        ("file_name", "who reads the cart items", {"path": "a/cart_items.py"}, 1),
        ("file_name", "who reads the items of a cart", {"path": "a/cart_items.py"}, 0),
        ("file_name", "is it big", {"path": "a/it.py"}, 0),
        ("file_name", "where is the cart", {"path": "src/cart/mod.rs"}, 1),
        ("file_name", "where is the mod", {"path": "src/cart/mod.rs"}, 0),
        ("file_name", "where is the mod", {"path": "mod.rs"}, 1),
        ("file_name", "der größte_preis", {"path": "src/größtePreis.py"}, 1),
        ("file_name_words", "who reads the cart", {"path": "a/cart_items.py"}, 1 / 2),
        ("file_name_words", "who reads the cart", {"path": "cart/__init__.py"}, 1),
        ("file_name_cover", "sum the items of the cart", {"path": "a/cart_items.py"}, 2 / 3),
        ("file_name_cover", "sum the items of the cart", {"path": "a/cart_total.py"}, 0),
        ("folder", "sum of the cart", {"path": "src/cart_api/sum.py"}, 1 / 2),
        ("folder", "sum of the cart", {"path": "src/cart/api/sum.py"}, 0),
        ("folder", "sum of the src", {"path": "src/cart/index.ts"}, 1),
        ("folder_cover", "sum of the cart", {"path": "src/cart/api/sum.py"}, 1 / 2),
        ("folder_cover", "sum of the cart", {"path": "cart.py"}, 0),
        ("name_cover", "sum total shop weight", {"symbol": "total", "scope": "Sum.total"}, 3 / 4),
        ("name_cover", "sum total shop weight", {"path": "x.py", "symbol": "", "scope": ""}, 0),
        ("place", "shop/cart.py", {}, 1),
        ("place", "why does cart.py fail", {}, 1),
        ("place", "why does CART.py fail", {}, 1),
        ("place", "why does my/shop/cart.py fail", {}, 1),
        ("place", r"why does C:\work\shop\cart.py fail", {}, 1),
        ("place", "why does bank/cart.py fail", {}, 0),
        ("place", "why does my_cart.py fail", {}, 0),
        ("place", TRACE, {}, 1),
        ("line", "shop/cart.py:10", {}, 1),
        ("line", "shop/cart.py:12", {}, 1),
        ("line", "shop/cart.py:13", {}, 0),
        ("line", "shop/cart.py:9", {}, 0),
        ("line", "shop/cart.py", {}, 0),
        ("line", "bank/cart.py:11", {}, 0),
        ("line", r"shop\cart.py:11", {}, 1),
        ("line", TRACE, {}, 1),
        ("language", "sum a cart in Python", {}, 1),
        ("language", "sum a cart in Go", {}, 0),
        ("code", "x", {}, 1),
        ("code", "x", {"language": "markdown"}, 0),
        ("class", "x", {"kind": "class"}, 1),
        ("class", "x", {}, 0),
        ("module", "x", {"kind": "module"}, 1),
        ("module", "x", {"kind": "window"}, 1),
        ("module", "x", {}, 0),
        ("test", "x", {"path": "tests/a.py"}, 1),
        ("test", "x", {}, 0),
        ("documented", "x", {"is_documented": True}, 1),
        ("documented", "x", {}, 0),
        ("index_file", "x", {"path": "src/cart/mod.rs"}, 1),
        ("index_file", "x", {"path": "cart/__init__.py"}, 1),
        ("index_file", "x", {"path": "mod.rs"}, 0),
        ("index_file", "x", {}, 0),
        ("main_symbol", "x", {"symbol": "CART"}, 1),
        ("main_symbol", "x", {"symbol": "CartItems", "path": "a/cart_items.py"}, 1),
        ("main_symbol", "x", {"symbol": "Cart", "path": "cart/index.js"}, 1),
        ("main_symbol", "x", {}, 0),
        ("main_symbol", "x", {"symbol": "", "path": ""}, 0),
    ],
)
def test_features_of_a_node(feature: str, text: str, changes: dict[str, Any], expected: float) -> None:
    assert matrix(text, [candidate(**changes)])[feature] == pytest.approx([expected])


def test_a_candidate_that_contains_a_quoted_text() -> None:
    assert matrix('who says "no such file"', [candidate(1), candidate(2)], quoted={2})["quoted"] == [0, 1]


def test_cosines_are_differences_to_the_best_and_ranks_fall() -> None:
    """What a search did not find has its worst cosine, no BM25 and no rank."""
    candidates = [candidate(number) for number in (1, 2, 3, 4)]
    columns = matrix("x", candidates, vectors=[Scores([3, 1, 2], [0.9, 0.7, 0.4])], bm25=Scores([4, 3], [8.0, 2.0]))
    assert columns["cosine"] == pytest.approx([-0.2, -0.5, 0, -0.5])
    assert columns["vector_rank"] == pytest.approx([30 / 31, 30 / 32, 1, 0])
    assert columns["bm25"] == pytest.approx([0, 0, 0.25, 1])
    assert columns["word_rank"] == pytest.approx([0, 0, 30 / 31, 1])


def test_cosines_of_two_models_are_compared_with_the_best_of_each() -> None:
    candidates = [candidate(number) for number in (1, 2, 3, 4)]
    columns = matrix("x", candidates, vectors=[Scores([1, 2], [0.9, 0.8]), Scores([4, 3], [0.3, 0.1])])
    assert columns["cosine"] == pytest.approx([0, -0.1, -0.2, 0])
    assert columns["vector_rank"] == pytest.approx([1, 30 / 31, 30 / 31, 1])


def test_the_candidates_of_a_file_share_its_best_and_the_mean_of_its_best_three() -> None:
    """Of the file of two, the worst cosine of all and a BM25 of 0 stand for the third."""
    candidates = [candidate(number, path="a.py" if number < 5 else "b.py") for number in range(1, 7)]
    cosines = Scores([1, 2, 3, 4, 5, 6], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    columns = matrix("x", candidates, vectors=[cosines], bm25=Scores([6, 5, 4], [4.0, 2.0, 1.0]))
    assert columns["file_cosine"] == pytest.approx([0] * 4 + [-0.4] * 2)
    assert columns["file_cosine_3"] == pytest.approx([-0.1] * 4 + [(-0.4 - 0.5 - 0.5) / 3] * 2)
    assert columns["file_bm25_3"] == pytest.approx([0.25 / 3] * 4 + [0.5] * 2)


def test_candidates_without_a_path_are_of_no_common_file() -> None:
    candidates = [candidate(number, id=f"n{number}", path="") for number in (1, 2)]
    columns = matrix("x", candidates, vectors=[Scores([1, 2], [0.9, 0.6])])
    assert columns["file_cosine"] == pytest.approx([0, -0.3])


def test_nothing_was_found() -> None:
    assert matrix("total of the cart", [])["cosine"] == []
    columns = matrix("total of the cart", [candidate()])  # by its place alone
    assert [columns[name] for name in ("cosine", "vector_rank", "bm25", "file_cosine")] == [[0]] * 4


PATHS = st.sampled_from(["", "shop/cart.py", "shop/mail.py", "cart/mod.rs", "tests/größe.py", "a"])
NAMES = st.sampled_from(["", "total", "Cart", "send_receipt", "größe", "读取"])
CANDIDATES = st.builds(candidate, path=PATHS, symbol=NAMES, scope=NAMES, end_line=st.integers(0, 40))
TEXTS = st.lists(st.sampled_from(["total", "Cart.total", "the", "cart.py:11", "größe", "读取", "in Go", '"a b"'])).map(
    " ".join
)


@given(
    found=st.lists(CANDIDATES, max_size=8),
    text=TEXTS,
    scores=st.lists(st.floats(-1, 1), min_size=8, max_size=8),
    random=st.randoms(use_true_random=False),
)
def test_the_order_of_the_candidates_does_not_matter(
    found: list[Candidate], text: str, scores: list[float], random: Any
) -> None:
    candidates = [each._replace(number=number, id=f"n{number}") for number, each in enumerate(found)]
    ordered = sorted(scores[: len(found)], reverse=True)
    vectors = [Scores(range(0, len(found), 2), ordered[: (len(found) + 1) // 2])]
    bm25 = Scores(range(len(found) // 2), [score + 2 for score in ordered[: len(found) // 2]])
    places = list(range(len(found)))
    random.shuffle(places)
    columns = matrix(text, candidates, vectors=vectors, bm25=bm25)
    shuffled = matrix(text, [candidates[place] for place in places], vectors=vectors, bm25=bm25)
    for name, values in columns.items():
        assert shuffled[name] == pytest.approx([values[place] for place in places]), name


# --- words -----------------------------------------------------------------------------------------------------------


def test_rare_words_of_a_question_are_worth_more() -> None:
    """Words of one stem are one, as rare as the rarest of them; stop words are worth nothing beside others."""
    rarities = {"route": 1.0, "routes": 2.0, "register": 6.0, "how": 9.0, "are": 9.0}
    words = Words.of("how are the routes of a route registered", lambda word: rarities.get(word, 6.0))
    assert words.weights == pytest.approx({"rout": 2 / 8, "register": 6 / 8})
    assert words.worth(words.found(frozenset({"rout", "register", "x"}))) == pytest.approx(1)
    assert words.found(frozenset({"rout", "x", "y"})) == {"rout"}
    assert words.worth(words.found(frozenset({"x"}))) == words.worth(words.found(frozenset())) == 0


def test_a_question_of_stop_words_or_of_words_without_rarity() -> None:
    assert Words.of("to be or not to be", lambda word: 1.0).weights == pytest.approx(
        {"to": 0.25, "be": 0.25, "or": 0.25, "not": 0.25}
    )
    assert Words.of("cart", lambda word: 0.0).weights == {"cart": 0}
    assert Words.of("?!", lambda word: 1.0).weights == {}


def test_only_the_beginning_of_a_long_question_is_compared() -> None:
    words = Words.of("cart " * 1_000 + "mail", lambda word: 1.0)
    assert words.weights == {"cart": 1}
