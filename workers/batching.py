"""Pure: which conversations share a padded forward pass, and how many tokens a pass may have."""

from __future__ import annotations

from collections.abc import Sequence

MEMORY_SHARE = 0.8
"""Of the free memory, what a pass may fill."""


class Budget:
    """Tokens in a forward pass: given, or found from the memory that passes took; lowered for good where one failed."""

    def __init__(self, tokens: int, most: int) -> None:
        self.tokens, self._most = tokens, most

    def measured(self, tokens: int, taken: int, free: int) -> None:
        """A pass of so many tokens took `taken` bytes at its peak, and `free` bytes were there for it."""
        if tokens and taken > 0:
            self.tokens = max(self.tokens, min(self._most, int(MEMORY_SHARE * free * tokens / taken)))

    def exceeded(self, tokens: int) -> None:
        """A pass of so many tokens did not fit: no later one is larger than half of it."""
        self.tokens = self._most = max(1, min(self.tokens, tokens) // 2)


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
