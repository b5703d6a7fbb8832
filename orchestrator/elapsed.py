"""Time as the scheduler counts it: from ticks of a clock that may jump.

A step is never negative and never above `JUMP_SECONDS`, so a clock that jumps, or a driver that was asleep, can make a
shard look late by a minute at most.
"""

from __future__ import annotations

JUMP_SECONDS = 60.0


class Elapsed:
    """Seconds since the first tick."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last: float | None = None

    def tick(self, now: float) -> None:
        """The clock says `now`."""
        step = now - self._last if self._last is not None else 0.0
        self._last = now
        self.seconds += min(max(step, 0.0), JUMP_SECONDS)
