"""Batches: every conversation in exactly one, within the budget, and the same whenever they are made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.batching import batches, halves

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


@given(st.lists(st.integers(), min_size=2, max_size=50))
def test_halves_are_not_empty_and_keep_the_order(batch: list[int]) -> None:
    first, second = halves(batch)
    assert first + second == batch
    assert first
    assert second
    assert len(first) - len(second) in (0, 1)


@pytest.mark.parametrize("size", [2, 3, 64, 100])
def test_halving_ends_with_singles(size: int) -> None:
    parts, rounds = [list(range(size))], 0
    while any(len(part) > 1 for part in parts):
        parts = [half for part in parts for half in (halves(part) if len(part) > 1 else [part])]
        rounds += 1
    assert [part[0] for part in parts] == list(range(size))
    assert 2**rounds < 2 * size
