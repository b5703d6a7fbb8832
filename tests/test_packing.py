"""The packing of conversations into passes: nothing lost, nothing computed twice, every token in its place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers import packing

ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 60), st.lists(st.integers(0, 3), min_size=1, max_size=40)).map(
        lambda made: tuple([7 + made[0]] * made[1] + made[2])
    ),
    min_size=1,
    max_size=12,
)
"""Conversations that often share a long beginning."""


@given(ROWS)
def test_a_path_spells_its_conversation(rows: list[tuple[int, ...]]) -> None:
    packed = packing.pack(rows)
    assert sorted(branch.row for branch in packed.branches) == list(range(len(rows)))
    for branch in packed.branches:
        places = [place for start, stop in branch.path for place in range(start, stop)]
        assert tuple(packed.ids[place] for place in places) == rows[branch.row]
        assert [packed.positions[place] for place in places] == list(range(len(rows[branch.row])))
        assert branch.length == len(rows[branch.row])
        assert places == sorted(places), "a token attends only to what stands before it"


@given(ROWS)
def test_every_token_of_a_pass_is_new_to_exactly_one_conversation(rows: list[tuple[int, ...]]) -> None:
    packed = packing.pack(rows)
    new = [place for branch in packed.branches for place in range(*branch.new)]
    assert new == list(range(len(packed.ids)))
    assert packing.distinct(rows) <= len(packed.ids) <= sum(map(len, rows))
    assert len(packed.ids) - packing.distinct(rows) < packing.MIN_SHARED * len(rows)


@given(ROWS, st.integers(1, 300), st.booleans())
def test_passes_hold_every_row_once_within_the_budget(rows: list[tuple[int, ...]], budget: int, sharing: bool) -> None:
    found = packing.passes(rows, budget, sharing=sharing)
    assert sorted(row for rows_of in found for row in rows_of) == list(range(len(rows)))
    for rows_of in found:
        size = len(packing.pack([rows[row] for row in rows_of], sharing=sharing).ids)
        assert size <= budget or len(rows_of) == 1
    assert packing.passes(rows, budget, sharing=sharing) == found


@given(ROWS)
def test_without_sharing_every_row_computes_all_its_tokens(rows: list[tuple[int, ...]]) -> None:
    packed = packing.pack(rows, sharing=False)
    assert len(packed.ids) == sum(map(len, rows))
    assert all(branch.path == (branch.new,) for branch in packed.branches)
    assert packed.pairs == sum(packing.ends(len(row)) for row in rows)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(20, 60)), min_size=2, max_size=8, unique_by=lambda one: one[0])
)
def test_pairs_stay_together_and_a_header_of_all_keeps_nothing_together(sizes: list[tuple[int, int]]) -> None:
    """A template's header is shared by all rows: what keeps a pair in one pass is the prompt behind it."""
    header = tuple(range(1000, 1030))
    rows = [(*header, *[prompt] * size, *end) for prompt, size in sizes for end in ((77, 78), (79,))]
    for budget in (150, 400):
        where = {row: at for at, of in enumerate(packing.passes(rows, budget)) for row in of}
        assert all(where[2 * pair] == where[2 * pair + 1] for pair in range(len(sizes)))


@given(ROWS)
def test_distinct_tokens_are_the_nodes_of_the_trie(rows: list[tuple[int, ...]]) -> None:
    assert packing.distinct(rows) == len({row[:size] for row in rows for size in range(1, len(row) + 1)})


@given(ROWS, ROWS)
def test_common_beginning(some: list[tuple[int, ...]], more: list[tuple[int, ...]]) -> None:
    one, other = some[0], more[0]
    size = packing.common(one, other)
    assert one[:size] == other[:size]
    assert size == min(len(one), len(other)) or one[size] != other[size]


def test_a_pair_shares_its_prompt() -> None:
    prompt = tuple(range(100))
    packed = packing.pack([(*prompt, 200, 201), (*prompt, 300)])
    assert len(packed.ids) == 103
    assert packed.branches[1].path == ((0, 100), (102, 103))
