"""Pure: which conversations share a forward pass."""

from __future__ import annotations

from collections.abc import Sequence


def batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Positions of `lengths`, longest first, in batches of at most `token_budget` padded tokens.

    A batch costs its longest length times its size; a single conversation above the budget is a batch of its
    own. Ties keep their order, so the result depends on nothing but the arguments.
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    result: list[list[int]] = []
    for position in order:
        longest = lengths[result[-1][0]] if result else 0
        if result and longest * (len(result[-1]) + 1) <= token_budget:
            result[-1].append(position)
        else:
            result.append([position])
    return result


def halves(batch: Sequence[int]) -> tuple[list[int], list[int]]:
    """Two non-empty halves of a batch of at least two, after it did not fit into memory."""
    middle = (len(batch) + 1) // 2
    return list(batch[:middle]), list(batch[middle:])
