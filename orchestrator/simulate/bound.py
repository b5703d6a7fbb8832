"""A lower bound under every schedule's end, faults or not: pure.

Say that a sweep ends after `end` seconds. A worker then computes for at most `end - load` seconds, so a stream with
`work` seconds to do needs at least `work / (end - load)` workers, at least one, and each of them loads. That fixes the
GPU seconds that a stream takes; where it may go on several kinds of device a linear program splits it so that the
fullest kind is as empty as can be (rounding the workers down to a fraction, which can only lower the bound). If they do
not fit in what the cluster has in that time, the sweep cannot end then. Nor can it while one stream, alone on the whole
cluster, would not be done, nor before a load and the longest shard. The least `end` that nothing excludes is the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from orchestrator.cost import Placement
from orchestrator.events import Node

PRECISION = 1e-3


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

    def area(self, end: float) -> float:
        """GPU seconds that a whole stream takes here if all is to end at `end`; the workers may be a fraction."""
        load = self.placement.load_seconds
        return self.placement.gpus * (self.work + load * max(1.0, self.work / (end - load)))


def lower_bound(streams: Iterable[Sequence[Placement]], nodes: Sequence[Node]) -> float:
    """Seconds before which no schedule of the streams, each with its alternatives, can end on the nodes."""
    ways = [[_way(placement, nodes) for placement in placements] for placements in streams]
    usable = [[way for way in options if way.workers] for options in ways]
    if not all(usable):
        raise ValueError("a stream has no place on these nodes")
    sizes = _sizes(nodes)
    low, high = 0.0, sum(min(way.placement.load_seconds + way.work for way in options) for options in usable)
    while high - low > PRECISION * high:
        end = (low + high) / 2
        low, high = (low, end) if _possible(usable, sizes, end) else (end, high)
    return low


def _way(placement: Placement, nodes: Sequence[Node]) -> Way:
    of_kind = [node.gpus for node in nodes if node.kind == placement.kind]
    share = placement.gpus / placement.nodes
    each = sum(math.floor(gpus / share) if share >= 1 else gpus * math.floor(1 / share) for gpus in of_kind)
    seconds = placement.shard_seconds
    soonest = placement.load_seconds + min(seconds)
    return Way(placement, sum(seconds), max(seconds), soonest, each // placement.nodes)


def _sizes(nodes: Sequence[Node]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for node in nodes:
        sizes[node.kind] = sizes.get(node.kind, 0) + node.gpus
    return sizes


def _possible(streams: Sequence[Sequence[Way]], sizes: Mapping[str, int], end: float) -> bool:
    """Whether nothing that is known rules out an end at `end`."""
    if not all(any(way.placement.load_seconds + way.longest <= end for way in options) for options in streams):
        return False
    open_ways = [[way for way in options if way.soonest <= end] for options in streams]
    alone = (
        sum(way.workers * (end - way.placement.load_seconds) / way.work for way in options) for options in open_ways
    )
    return all(part >= 1 for part in alone) and _fits(open_ways, sizes, end)


def _fits(streams: Sequence[Sequence[Way]], sizes: Mapping[str, int], end: float) -> bool:
    if all(len(options) == 1 for options in streams):
        taken = dict.fromkeys(sizes, 0.0)
        for (way,) in streams:
            load = way.placement.load_seconds
            loads = load * max(1, math.ceil(way.work / (end - load)))
            taken[way.placement.kind] += way.placement.gpus * (way.work + loads)
        return all(taken[kind] <= size * end for kind, size in sizes.items())
    return _fullest(streams, sizes, end) <= end


def _fullest(streams: Sequence[Sequence[Way]], sizes: Mapping[str, int], end: float) -> float:
    """Seconds of the kind of device that is busy longest when the streams are split as well as can be."""
    columns = [(number, way) for number, options in enumerate(streams) for way in options]
    whole = np.zeros((len(streams), len(columns) + 1))
    kinds = {kind: row for row, kind in enumerate(sizes)}
    busy = np.zeros((len(kinds), len(columns) + 1))
    busy[:, -1] = [-size for size in sizes.values()]
    for column, (number, way) in enumerate(columns):
        whole[number, column] = 1.0
        busy[kinds[way.placement.kind], column] = way.area(end)
    goal = np.zeros(len(columns) + 1)
    goal[-1] = 1.0
    found = linprog(goal, busy, np.zeros(len(kinds)), whole, np.ones(len(streams)), method="highs")
    return float(found.fun)
