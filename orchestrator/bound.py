"""A lower bound under every schedule's end, faults or not: pure. The forecast and the simulator are held against it.

Say that a sweep ends after `end` seconds. A worker then computes for at most `end - load` seconds, so a stream with
`work` seconds to do needs at least `work / (end - load)` workers, at least one, and each of them loads. That fixes the
device seconds that a stream takes. One that has a single kind of device takes them there, with a whole number of
workers; where there are several a linear programme splits it so that the fullest kind is as empty as can be, with
fractions of workers, which can only lower the bound. If that does not fit into what the cluster has in that time, the
sweep cannot end then. Nor can it while one stream, alone on the whole cluster, would not be done, nor before a load and
the longest shard. The least `end` that nothing excludes is the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.cost import Offer, Placement

PRECISION = 1e-4
"""Of the bound, relative: where bisecting stops."""
SLACK = 1e-9
"""Relative: what floating point may add to a device that is exactly full."""


@dataclass(frozen=True)
class Way:
    """A placement on a cluster: seconds of all shards and of the longest one, of a load and the shortest one, and how
    many workers there could be.
    """

    placement: Placement
    work: float
    longest: float
    soonest: float
    workers: int

    def share(self, end: float) -> float:
        """The part of the stream that so many workers would do by `end`."""
        return self.workers * (end - self.placement.load_seconds) / self.work if self.work else 1.0

    def area(self, end: float, whole: bool) -> float:
        """Device seconds that a whole stream takes here if all is to end at `end`; `whole` workers, or a fraction."""
        load = self.placement.load_seconds
        workers = max(1.0, self.work / (end - load)) if self.work else 1.0
        return self.placement.width * (self.work + load * (math.ceil(workers * (1 - SLACK)) if whole else workers))


def lower_bound(streams: Iterable[Sequence[Placement]], offers: Sequence[Offer]) -> float:
    """Seconds before which no schedule of the streams, each with its alternatives, can end on the devices.

    `ValueError` where a stream has no place there.
    """
    nodes = list(node_sizes(offers))
    usable = [[way for one in found if (way := _way(one, nodes)).workers] for found in streams]
    if not all(usable):
        raise ValueError("a stream has no place on these nodes")
    counts: dict[str, int] = {}
    for kind, size in nodes:
        counts[kind] = counts.get(kind, 0) + size
    low = max((min(way.placement.load_seconds + way.longest for way in found) for found in usable), default=0.0)
    if low <= 0 or _possible(usable, counts, low):
        return low
    high = 2 * low
    while not _possible(usable, counts, high):
        low, high = high, 2 * high
    while high - low > PRECISION * high:
        end = (low + high) / 2
        low, high = (low, end) if _possible(usable, counts, end) else (end, high)
    return low


def node_sizes(offers: Iterable[Offer]) -> Iterator[tuple[str, int]]:
    """Kind and devices of each node of some offers; the last of an offer may have fewer."""
    for offer in offers:
        for start in range(0, offer.count, offer.node):
            yield offer.kind, min(offer.node, offer.count - start)


def _way(placement: Placement, nodes: Iterable[tuple[str, int]]) -> Way:
    share = placement.width / placement.nodes
    sizes = [size for kind, size in nodes if kind == placement.kind]
    each = sum(math.floor(size / share) if share >= 1 else size * math.floor(1 / share) for size in sizes)
    seconds = placement.shard_seconds
    soonest = placement.load_seconds + min(seconds, default=0.0)
    workers = each // placement.nodes if sum(size >= share for size in sizes) >= placement.nodes else 0
    return Way(placement, sum(seconds), max(seconds, default=0.0), soonest, workers)


def _possible(streams: Sequence[Sequence[Way]], counts: Mapping[str, int], end: float) -> bool:
    """Whether nothing that is known rules out an end at `end`."""
    if not all(any(way.placement.load_seconds + way.longest <= end for way in found) for found in streams):
        return False
    in_time = [[way for way in found if way.soonest <= end] for found in streams]
    return all(sum(way.share(end) for way in found) >= 1 - SLACK for found in in_time) and _fits(in_time, counts, end)


def _fits(streams: Sequence[Sequence[Way]], counts: Mapping[str, int], end: float) -> bool:
    """Whether the devices have the seconds; what is taken is counted as a part of what there is until `end`."""
    taken = dict.fromkeys(counts, 0.0)
    for found in streams:
        if len(found) == 1:
            kind = found[0].placement.kind
            taken[kind] += found[0].area(end, whole=True) / (counts[kind] * end)
    free = [found for found in streams if len(found) > 1]
    fullest = max(taken.values())
    return fullest <= 1 + SLACK and (not free or _fullest(free, counts, taken, end) <= 1 + SLACK)


def _fullest(
    streams: Sequence[Sequence[Way]], counts: Mapping[str, int], taken: Mapping[str, float], end: float
) -> float:
    """The taken part of the kind that is busiest when the streams are split as well as can be."""
    from scipy.optimize import linprog  # a third of a second, which no other verb should pay

    columns = [(number, way) for number, found in enumerate(streams) for way in found]
    whole = np.zeros((len(streams), len(columns) + 1))
    kinds = {kind: row for row, kind in enumerate(counts)}
    busy = np.zeros((len(kinds), len(columns) + 1))
    busy[:, -1] = -1.0
    for column, (number, way) in enumerate(columns):
        kind = way.placement.kind
        whole[number, column] = 1.0
        busy[kinds[kind], column] = way.area(end, whole=False) / (counts[kind] * end)
    goal = np.zeros(len(columns) + 1)
    goal[-1] = 1.0
    room = np.array([-taken[kind] for kind in counts])
    found = linprog(goal, busy, room, whole, np.ones(len(streams)), method="highs")
    return float(found.fun)
