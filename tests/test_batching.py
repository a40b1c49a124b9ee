"""Batches by their laws: every text once, within the budget, at no more cost than promised."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from llamaindex_code_retrieval.models.batching import batch_budget, even_batches, tight_batches, token_budget_batches

LENGTHS = st.lists(st.integers(1, 300), max_size=40)


@given(lengths=LENGTHS, budget=st.integers(1, 1000), overhead=st.integers(0, 100))
def test_tight_batches_hold_all_once_within_budget_and_cost_no_more(
    lengths: list[int], budget: int, overhead: int
) -> None:
    def cost(batches: Sequence[Sequence[int]]) -> int:
        return sum(len(batch) * max(lengths[i] for i in batch) + overhead for batch in batches)

    tight = tight_batches(lengths, budget, overhead=overhead)
    assert sorted(i for batch in tight for i in batch) == list(range(len(lengths)))
    for batch in tight:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    assert cost(tight) <= cost(list(token_budget_batches(lengths, budget)))
    assert cost(tight) <= cost([[i] for i in range(len(lengths))])


@given(lengths=LENGTHS, budget=st.integers(1, 1000), workers=st.integers(1, 5))
def test_even_batches_hold_all_once_within_budget_longest_first(lengths: list[int], budget: int, workers: int) -> None:
    batches = even_batches(lengths, budget, workers=workers)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= budget
        assert [lengths[i] for i in batch] == sorted((lengths[i] for i in batch), reverse=True)


@given(lengths=LENGTHS, workers=st.integers(1, 5))
def test_even_batches_differ_by_no_more_than_a_text(lengths: list[int], workers: int) -> None:
    batches = even_batches(lengths, 1 << 20, workers=workers)
    costs = [sum(lengths[i] + lengths[i] ** 2 / 512 for i in batch) for batch in batches]
    assert len(batches) <= workers
    assert all(batches)
    if batches:
        longest = max(lengths)
        assert max(costs) - min(costs) <= longest + longest**2 / 512 + 1e-6


def test_workers_share_batches_evenly_and_no_batch_is_too_small_to_be_worth_it() -> None:
    assert len(even_batches([100] * 30, 1000, workers=2)) == 4  # three would do for the budget
    assert len(even_batches([100] * 30, 1000, workers=1)) == 3
    assert len(even_batches([64] * 5, 4096, workers=8)) == 2
    assert even_batches([], 4096, workers=2) == []


def test_the_budget_of_a_padded_batch_leaves_one_and_a_half_for_each_worker() -> None:
    assert batch_budget(4096, 1300, workers=2) == 433
    assert batch_budget(4096, 100_000, workers=2) == 4096
    assert batch_budget(4096, 200, workers=2) == 128, "a batch has to be worth calling the model"
    assert batch_budget(64, 200, workers=2) == 64, "the caller's limit holds"
    assert batch_budget(4096, 1300, workers=1) == 4096
