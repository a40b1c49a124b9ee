from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaindex_code_retrieval.languages.bodies import without_signature_and_returns
from llamaindex_code_retrieval.training.augmentation import hard_positive, rewrite_query
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.sampling import (
    check_trainable,
    mix_kinds,
    sample_pool,
    select_languages,
    split_by_repository,
)

pairs_of_anything = st.lists(
    st.builds(Pair, query=st.text(), code=st.text(), repository=st.text(max_size=5), path=st.text(max_size=5)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(pairs=pairs_of_anything, share=st.sampled_from([0.1, 0.5, 0.9]), seed=st.integers(0, 9))
def test_a_split_never_shares_a_repository(pairs: list[Pair], share: float, seed: int) -> None:
    single = len({pair.repository for pair in pairs}) == 1

    def unit(pair: Pair) -> tuple[str, str]:
        return ("", pair.path or pair.code) if single or not pair.repository else ("repository", pair.repository)

    if len({unit(pair) for pair in pairs}) < 2:
        return
    train, held_out = split_by_repository(pairs, held_out=share, seed=seed)
    assert train
    assert held_out
    assert Counter([*train, *held_out]) == Counter(pairs)
    assert not {unit(pair) for pair in train} & {unit(pair) for pair in held_out}
    assert (train, held_out) == split_by_repository(pairs, held_out=share, seed=seed)


def test_the_share_is_met_and_the_seed_matters() -> None:
    pairs = [Pair(query="q", code="c", repository=f"r{n % 100}") for n in range(1_000)]
    splits = [split_by_repository(pairs, held_out=0.2, seed=seed)[1] for seed in range(3)]
    assert [len(held_out) for held_out in splits] == [200] * 3
    assert len({frozenset(pair.repository for pair in held_out) for held_out in splits}) == 3


def test_one_file_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        split_by_repository([Pair(query="q", code="c", repository="r", path="p")] * 5)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        split_by_repository([], held_out=1)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([Pair(query="q", code="c")] * 3, "3 pairs are fewer than a batch of 4; lower batch_size"),
        ([Pair(query="q", code=f"c{n}") for n in range(8)], "all 8 pairs have the same query, 'q'"),
        ([Pair(query=f"q{n}", code="c") for n in range(8)], "all 8 pairs have the same code, 'c'"),
    ],
)
def test_pairs_without_negatives_are_refused(pairs: list[Pair], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_trainable(pairs, batch_size=4)
    check_trainable([Pair(query=f"q{n % 2}", code=f"c{n % 2}") for n in range(4)], batch_size=4)


def test_a_language_without_pairs_is_refused() -> None:
    pairs = [Pair(query="q", code="c", language="go"), Pair(query="q", code="c")]
    assert select_languages(pairs, ["go"]) == pairs[:1]
    assert select_languages(pairs, []) == pairs
    with pytest.raises(ValueError, match=r"no pair of language 'php'; the sources have \(not stated\), go"):
        select_languages(pairs, ["php"])


FUNCTIONS = {
    "python": "def f(x):\n    y = 1\n    if x:\n        y = 2\n    return y",
    "java": "public int f(int x) {\n  int y = x;\n  return y;\n}",
    "javascript": "const f = (x) => {\n  let y = x;\n  return y;\n};",
    "typescript": "f(x: number): number {\n  let y = x;\n  return y;\n}",
    "go": "func (s *S) F(x int) int {\n\ty := x\n\treturn y\n}",
    "ruby": "def f(x)\n  y = x\n  return y\nend",
    "php": "public function f($x) {\n  $y = $x;\n  return $y;\n}",
    "c": "int f(int x) {\n  int y = x;\n  return y;\n}",
    "cpp": "int S::f(int x) const {\n  int y = x;\n  return y;\n}",
    "csharp": "public int F(int x)\n{\n    int y = x;\n    return y;\n}",
    "rust": "pub fn f(&self, x: i32) -> i32 {\n    let y = x;\n    return y;\n}",
}
BODIES = {
    "python": "y = 1\nif x:\n    y = 2",
    "javascript": "let y = x;",
    "typescript": "let y = x;",
    "go": "y := x",
    "ruby": "y = x",
    "php": "$y = $x;",
    "rust": "let y = x;",
}


@pytest.mark.parametrize("language", FUNCTIONS)
def test_hard_positive_is_the_body_without_returns(language: str) -> None:
    body = without_signature_and_returns(FUNCTIONS[language], language)
    assert body == BODIES.get(language, "int y = x;")
    assert hard_positive(FUNCTIONS[language], language) == body


def test_bodies_keep_macros_that_are_left_out_for_parsing() -> None:
    source = "int f(int x) API_PURE {\n  LOG_ENTRY(x)\n  x += 1;\n  return x;\n}"
    assert without_signature_and_returns(source, "c") == "LOG_ENTRY(x)\nx += 1;"


@pytest.mark.parametrize("code", ["def f(x):\n    return x", "y = 1", "?? not ( code", ""])
def test_hard_positive_of_nothing_else_is_the_code(code: str) -> None:
    assert hard_positive(code, "python") == code
    assert hard_positive(code, "") == code


@given(query=st.text(), seed=st.integers(0, 99))
def test_a_rewritten_query_differs_by_one_word_at_most(query: str, seed: int) -> None:
    before, after = Counter(query.split()), Counter(rewrite_query(query, random.Random(seed)).split())
    assert (before - after).total() + (after - before).total() <= 1
    assert bool(after) == bool(before)


def test_all_three_rewrites_occur() -> None:
    lengths = Counter(len(rewrite_query("a b c", random.Random(seed)).split()) for seed in range(300))
    assert min(lengths[2], lengths[3], lengths[4]) > 60
    assert rewrite_query("word", random.Random(0)) == "word word"


def test_near_duplicates_share_a_cluster() -> None:
    lines = [f"x{n} = y{n} + {n}" for n in range(40)]
    codes = [
        "\n".join(lines),
        "other code here",
        "\n\n".join(lines),
        "\n".join([*lines[:-1], "z = 1"]),
        "other code there",
    ]
    assert near_duplicate_clusters(codes) == [0, 1, 0, 0, 4]
    assert near_duplicate_clusters(["", "", "a"]) == [0, 0, 2]
    assert near_duplicate_clusters([]) == []
    with pytest.raises(ValueError, match="at most 1, got 2"):
        near_duplicate_clusters([], threshold=2)


def test_a_sampled_pool_holds_all_relevant_codes() -> None:
    held_out = [Pair(query=f"q{n % 6}", code=f"c{n}") for n in range(12)]
    others = [f"other {n}" for n in range(50)]
    relevant, pool = sample_pool(held_out, others, queries=4, codes=20, seed=0)
    assert len(relevant) == 4
    assert all(relevant[query] == {f"c{query[1:]}", f"c{int(query[1:]) + 6}"} for query in relevant)
    assert len(pool) == 20
    assert pool == sorted(set(pool))
    assert set(pool) <= {*others, *(pair.code for pair in held_out)}
    assert {code for codes in relevant.values() for code in codes} <= set(pool)
    assert sample_pool(held_out, others, queries=4, codes=20, seed=0) == (relevant, pool)
    assert sample_pool(held_out, others, queries=4, codes=20, seed=1) != (relevant, pool)
    # relevant codes are kept even if they alone exceed the size of the pool
    assert len(sample_pool(held_out, others, queries=6, codes=5, seed=0)[1]) == 12


def test_kinds_are_mixed_by_weight() -> None:
    pairs = [Pair(query=f"q{n}", code=f"c{n}", kind=("doc", "commit", "test")[n % 3]) for n in range(30)]
    mixed = mix_kinds(pairs, {"doc": 0.3, "commit": 2.5}, seed=0)
    assert Counter(pair.kind for pair in mixed) == {"doc": 3, "commit": 25, "test": 10}
    uses = Counter(pair.query for pair in mixed if pair.kind == "commit")
    assert sorted(uses.values()) == [2] * 5 + [3] * 5
    assert mixed == sorted(mixed, key=pairs.index)
    assert mixed == mix_kinds(pairs, {"commit": 2.5, "doc": 0.3}, seed=0) != mix_kinds(pairs, {"doc": 0.3}, seed=1)
    assert mix_kinds(pairs, {}, seed=0) == pairs
    assert {pair.kind for pair in mix_kinds(pairs, {"doc": 0, "section": 0}, seed=0)} == {"commit", "test"}


def test_a_weight_without_pairs_is_refused() -> None:
    pairs = [Pair(query="q", code="c", kind="doc")]
    with pytest.raises(ValueError, match=r"the kind 'commit' has the weight 0.5, but no pair of it .* 1 doc"):
        mix_kinds(pairs, {"commit": 0.5}, seed=0)
    with pytest.raises(ValueError, match="the weights of all kinds of the 1 pairs are 0"):
        mix_kinds(pairs, {"doc": 0}, seed=0)
