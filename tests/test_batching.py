"""Batches: every conversation in exactly one, within the budget, and the same whenever they are made."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.batching import Budget, batches

LENGTHS = st.lists(st.integers(0, 300), max_size=60)
BUDGETS = st.integers(1, 1000)


@given(LENGTHS, BUDGETS)
def test_batches_are_a_partition(lengths: list[int], budget: int) -> None:
    made = batches(lengths, budget)
    assert sorted(position for batch in made for position in batch) == list(range(len(lengths)))
    assert all(made)


@given(LENGTHS, BUDGETS)
def test_a_batch_keeps_the_budget_unless_it_is_a_single_conversation(lengths: list[int], budget: int) -> None:
    for batch in batches(lengths, budget):
        padded = max(lengths[position] for position in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


@given(LENGTHS, BUDGETS)
def test_the_longest_come_first_and_ties_keep_their_order(lengths: list[int], budget: int) -> None:
    order = [position for batch in batches(lengths, budget) for position in batch]
    assert order == sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))


@given(LENGTHS, BUDGETS)
def test_no_batch_could_have_taken_the_next_conversation(lengths: list[int], budget: int) -> None:
    """Otherwise one conversation a batch would pass all other tests."""
    made = batches(lengths, budget)
    for batch in made[:-1]:
        assert lengths[batch[0]] * (len(batch) + 1) > budget


@given(LENGTHS, BUDGETS)
def test_batches_depend_on_nothing_but_their_arguments(lengths: list[int], budget: int) -> None:
    assert batches(tuple(lengths), budget) == batches(lengths, budget)


def test_batches_of_a_small_example() -> None:
    assert batches([3, 9, 3, 5, 5], 10) == [[1], [3, 4], [0, 2]]
    assert batches([3, 9, 3, 5, 5], 18) == [[1, 3], [4, 0, 2]]
    assert batches([], 10) == []


@given(st.lists(st.integers(1, 300), max_size=60))
def test_a_budget_of_one_gives_singles(lengths: list[int]) -> None:
    longest_first = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    assert batches(lengths, 1) == [[position] for position in longest_first]


@given(st.integers(1, 10_000), st.lists(st.integers(1, 10_000), min_size=1, max_size=20))
def test_a_budget_that_failed_falls_to_half_and_never_rises_again(tokens: int, failed: list[int]) -> None:
    budget = Budget(tokens, 50_000)
    for size in failed:
        before = budget.tokens
        budget.exceeded(size)
        assert budget.tokens <= max(1, min(before, size) // 2)
        assert budget.tokens >= 1
        after = budget.tokens
        budget.measured(1000, 1000, 10**9)
        assert budget.tokens == after


def test_a_budget_grows_to_what_the_free_memory_holds_and_not_beyond_its_most() -> None:
    budget = Budget(8192, 32_768)
    budget.measured(8192, 8192 * 1000, 20_000 * 1000)
    assert budget.tokens == 16_000
    budget.measured(8192, 8192 * 1000, 10_000 * 1000)
    assert budget.tokens == 16_000, "a fuller moment does not lower it"
    budget.measured(8192, 8192 * 1000, 10**9)
    assert budget.tokens == 32_768


def test_a_fixed_budget_does_not_grow() -> None:
    budget = Budget(4096, 4096)
    budget.measured(100, 100, 10**12)
    assert budget.tokens == 4096
