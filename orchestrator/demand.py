"""Pure: how many workers a run could use, for a cluster that grows when it is asked to and shrinks when it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from orchestrator.events import Need, Want
from orchestrator.streams import StreamState

MACHINE_SECONDS = 120.0
"""What a provider takes to start a machine, at least."""


def wanted(streams: Iterable[StreamState], now: float) -> Want:
    """The workers that run, and those that would compute for at least as long as they keep one waiting.

    A stream whose times are unknown gets one until something was measured. Nothing is wanted for what has its fate.
    """
    counts: Counter[tuple[str, float, int]] = Counter()
    for stream in streams:
        running = [worker.option.placement for worker in stream.crew.values()]
        first = stream.options[0].placement
        missing = max(0, _useful(stream, now) - len(running))
        for placement in [*running, *[first] * missing]:
            counts[placement.kind, placement.gpus, placement.nodes] += 1
    return Want(tuple(Need(*key, workers=count) for key, count in sorted(counts.items())))


def _useful(stream: StreamState, now: float) -> int:
    if not stream.waiting or stream.failed is not None:
        return 0
    if not stream.timed or stream.spec.endpoint:
        return 1
    before = max(MACHINE_SECONDS, stream.load_seconds(stream.options[0]))
    return max(1, min(stream.waiting + len(stream.crew), int(stream.work(now) / before)))
