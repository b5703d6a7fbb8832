"""Pure: which conversations share a forward pass, and which of their tokens it computes.

A pass is one sequence of tokens without padding. In the order of their ids, each conversation takes over the longest
beginning that it shares with the one before it, so that a prefix of many is computed once (a trie in one sequence);
its other tokens attend to their own path alone and keep the position they have in the conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_SHARED = 4
"""Tokens from which a shared beginning pays for gathering its keys; fewer are computed again."""

KIN = 16
"""Tokens shared beyond what all rows share from which conversations are kept in one pass."""

HEADER = 64
"""At most so many tokens that all rows share are put down to the chat template, and not to a common prompt."""

Range = tuple[int, int]
"""Half-open, of a pass's tokens."""


@dataclass(frozen=True)
class Branch:
    """A conversation in a pass: `path` are the ranges that hold its tokens in order, `new` the one of its own."""

    row: int
    path: tuple[Range, ...]
    new: Range

    @property
    def length(self) -> int:
        """Its number of tokens, shared ones included."""
        return sum(stop - start for start, stop in self.path)


@dataclass(frozen=True)
class Packed:
    """A pass's tokens, the position of each in its conversation, and the conversations."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    branches: tuple[Branch, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Number and greatest length of the conversations."""
        return len(self.branches), max(branch.length for branch in self.branches)

    @property
    def pairs(self) -> int:
        """Pairs of a computed token and one that it attends to, itself included."""
        return sum(
            ends(branch.length) - ends(branch.length - (branch.new[1] - branch.new[0])) for branch in self.branches
        )


def pack(rows: Sequence[Sequence[int]], *, sharing: bool = True) -> Packed:
    """All rows in one pass; a row is never empty. Without `sharing` every row computes all its tokens."""
    ids: list[int] = []
    positions: list[int] = []
    branches: list[Branch] = []
    before: Sequence[int] = ()
    for row in _sorted(rows):
        shared = worth(common(before, rows[row])) if sharing else 0
        new = (len(ids), len(ids) + len(rows[row]) - shared)
        kept = _first(branches[-1].path, shared) if shared else ()
        branches.append(Branch(row, (*kept, *([new] if new[0] < new[1] else [])), new))
        ids += rows[row][shared:]
        positions += range(shared, len(rows[row]))
        before = rows[row]
    return Packed(tuple(ids), tuple(positions), tuple(branches))


def places(packed: Packed, positions: Sequence[Sequence[int]]) -> list[int]:
    """Where a pass holds the tokens at these positions of each row."""
    found: list[int] = []
    for branch in packed.branches:
        path = [place for held in branch.path for place in range(*held)]
        found += [path[position] for position in positions[branch.row]]
    return found


def passes(rows: Sequence[Sequence[int]], token_budget: int, *, sharing: bool = True) -> list[list[int]]:
    """The rows of each pass, at most `token_budget` computed tokens in each, longest conversations first.

    Rows that share a beginning stay together where the budget allows; a single conversation above the budget has a
    pass of its own. The result depends on nothing but the arguments.
    """
    result: list[list[int]] = []
    room = 0
    for group in _groups(rows) if sharing else _longest_first([[row] for row in range(len(rows))], rows):
        costs = _costs(rows, group)
        if result and sum(costs) <= room:
            result[-1] += group
            room -= sum(costs)
            continue
        for number, (row, cost) in enumerate(zip(group, costs, strict=True)):
            if number and cost <= room:
                result[-1].append(row)
                room -= cost
            else:
                result.append([row])
                room = token_budget - len(rows[row])
    return result


def ends(length: int) -> int:
    """Pairs of a token and one that it attends to, in a conversation of that length alone."""
    return length * (length + 1) // 2


def distinct(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that have to be computed when every shared beginning is computed once: the nodes of the rows' trie."""
    order = _sorted(rows)
    before = [(), *(rows[row] for row in order)]
    return sum(len(rows[row]) - common(last, rows[row]) for last, row in zip(before, order, strict=False))


def common(one: Sequence[object], other: Sequence[object]) -> int:
    """The length of the longest common beginning, by bisection on slices."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def worth(shared: int) -> int:
    """The shared tokens that are taken over."""
    return shared if shared >= MIN_SHARED else 0


def _sorted(rows: Sequence[Sequence[int]]) -> list[int]:
    return sorted(range(len(rows)), key=lambda row: tuple(rows[row]))


def _groups(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows in the order of their ids, divided where they share no more than all do; the longest groups first."""
    order = _sorted(rows)
    header = min(common(rows[order[0]], rows[order[-1]]), HEADER) if order else 0
    groups: list[list[int]] = []
    for row in order:
        if groups and common(rows[groups[-1][-1]], rows[row]) - header >= KIN:
            groups[-1].append(row)
        else:
            groups.append([row])
    return _longest_first(groups, rows)


def _longest_first(groups: Sequence[list[int]], rows: Sequence[Sequence[int]]) -> list[list[int]]:
    return sorted(groups, key=lambda group: -max(len(rows[row]) for row in group))


def _costs(rows: Sequence[Sequence[int]], group: Sequence[int]) -> list[int]:
    """Computed tokens of each row of a group, after the one before it."""
    before = [(), *(rows[row] for row in group)]
    return [len(rows[row]) - worth(common(last, rows[row])) for last, row in zip(before, group, strict=False)]


def _first(path: Sequence[Range], count: int) -> tuple[Range, ...]:
    """The ranges of a path's first `count` tokens."""
    kept: list[Range] = []
    for start, stop in path:
        taken = min(count, stop - start)
        if taken:
            kept.append((start, start + taken))
        count -= taken
    return tuple(kept)
