"""Pure: how a sweep spreads over a cluster, how long it takes, and how short it could be.

Work is divisible down to a shard, so a model may have replicas, each of which pays for loading its weights again. For a
given end the longest work comes first: a worker goes where what is left of its model just fits, else to the emptiest
devices, which do what they can. The earliest end that leaves nothing over is the forecast. It is held against a lower
bound that no schedule can beat.

A model on a fraction of a GPU is planned as the whole GPU for that fraction of the time, which is the same to the GPU;
no end is promised before the bound, which knows that the model itself takes the whole time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.bound import lower_bound, node_sizes
from orchestrator.cost import Offer, Placement

STEPS = 40
"""Bisections at most."""
PRECISION = 1e-3
"""Of the end, relative: where bisecting stops."""
NOTHING = 1e-9
"""The part of a stream's work below which it is done."""


@dataclass(frozen=True)
class Share:
    """What one worker does of a stream, in seconds from the start of the sweep."""

    stream: str
    placement: Placement
    start: float
    end: float

    @property
    def device_hours(self) -> float:
        """Of the GPUs or CPU slots that it keeps busy."""
        return max(1.0, self.placement.gpus) * (self.end - self.start) / 3600


@dataclass(frozen=True)
class Forecast:
    """A sweep on a cluster: the workers of every stream, and the bound under their end, in seconds.

    `impossible` are the streams that no device of the cluster can hold.
    """

    shares: Mapping[str, tuple[Share, ...]]
    makespan: float
    bound: float
    impossible: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Makespan over lower bound; 1 where nothing is to do."""
        return self.makespan / self.bound if self.bound else 1.0


@dataclass
class _Node:
    """When each device of one node is free, earliest first."""

    kind: str
    free: list[float]

    def start(self, width: int) -> float:
        """When so many of its devices are free together."""
        return self.free[width - 1] if width <= len(self.free) else math.inf

    def take(self, width: int, end: float) -> None:
        self.free = sorted([*self.free[width:], *[end] * width])


@dataclass(frozen=True)
class _Step:
    """A worker that could come next, and the part of its stream that it would do."""

    placement: Placement
    nodes: tuple[_Node, ...]
    width: int
    start: float
    end: float
    part: float


def forecast(streams: Mapping[str, Sequence[Placement]], offers: Sequence[Offer]) -> Forecast:
    """The shortest schedule found; the placements of a stream are alternatives, and its workers may mix several."""
    fitting = {name: [one for one in found if _has_room(one, offers)] for name, found in streams.items()}
    impossible = tuple(name for name, found in fitting.items() if not found)
    todo = {name: [_whole(one) for one in found] for name, found in fitting.items() if found}
    least = lower_bound([fitting[name] for name in todo], offers)
    if not least:
        return Forecast({name: () for name in todo}, 0.0, 0.0, impossible)
    low, high = least, least * (1 + PRECISION)
    while (best := _filled(todo, offers, high)) is None:
        low, high = high, least + 2 * (high - least)
    for _ in range(STEPS):
        if high - low <= PRECISION * high:
            break
        middle = (low + high) / 2
        found = _filled(todo, offers, middle)
        low, high, best = (middle, high, best) if found is None else (low, middle, found)
    shares: dict[str, tuple[Share, ...]] = {}
    for share in sorted(best, key=lambda share: (share.start, share.end)):
        original = fitting[share.stream][todo[share.stream].index(share.placement)]
        shares[share.stream] = (*shares.get(share.stream, ()), replace(share, placement=original))
    return Forecast(shares, max(least, *(share.end for share in best)), least, impossible)


def _chain(placement: Placement) -> float:
    return placement.load_seconds + max(placement.shard_seconds, default=0.0)


def _whole(placement: Placement) -> Placement:
    """A fraction of a GPU as the whole one for that fraction of the time."""
    if not 0 < placement.gpus < 1:
        return placement
    seconds = tuple(placement.gpus * one for one in placement.shard_seconds)
    return replace(placement, gpus=1, load_seconds=placement.gpus * placement.load_seconds, shard_seconds=seconds)


def _has_room(placement: Placement, offers: Sequence[Offer]) -> bool:
    """Whether the cluster is large enough for one worker."""
    each = math.ceil(placement.width / placement.nodes)
    return sum(kind == placement.kind and size >= each for kind, size in node_sizes(offers)) >= placement.nodes


def _filled(streams: Mapping[str, Sequence[Placement]], offers: Sequence[Offer], end: float) -> list[Share] | None:
    """Workers that do everything by `end`, those on several nodes and the longest work first; None without room."""
    nodes = [_Node(kind, [0.0] * size) for kind, size in node_sizes(offers)]
    sizes = {name: (min(one.width for one in found), _work(found)) for name, found in streams.items()}
    shares: list[Share] = []
    for name in sorted(streams, key=lambda name: (-sizes[name][0], -sizes[name][1], name)):
        left = 1.0
        while left > NOTHING:
            steps = [step for one in streams[name] for step in _steps(one, nodes, left, end)]
            if not steps:
                return None
            step = max(steps, key=lambda step: (step.part >= left - NOTHING, step.part, -step.end))
            for node in step.nodes:
                node.take(step.width, step.end)
            shares.append(Share(name, step.placement, step.start, step.end))
            left -= step.part
    return shares


def _work(placements: Sequence[Placement]) -> float:
    """Seconds of a stream on the device that is fastest for it."""
    return min(one.load_seconds + sum(one.shard_seconds) for one in placements)


def _steps(placement: Placement, nodes: Sequence[_Node], left: float, end: float) -> Iterator[_Step]:
    """At most one next worker: where the rest just fits, else on the emptiest nodes, where a shard at least fits."""
    width = math.ceil(placement.width / placement.nodes)
    starts = sorted(
        ((node.start(width), at) for at, node in enumerate(nodes) if node.kind == placement.kind),
        key=lambda pair: pair[0],
    )
    if len(starts) < placement.nodes:
        return
    work = sum(placement.shard_seconds)
    rest = placement.load_seconds + left * work
    fitting = [at for at, (start, _) in enumerate(starts) if start + rest <= end]
    last = max(placement.nodes - 1, fitting[-1] if fitting else 0)
    chosen = starts[last - placement.nodes + 1 : last + 1]
    start = chosen[-1][0]
    if start + rest <= end:
        part = left
    elif work and start + _chain(placement) <= end:
        part = (end - start - placement.load_seconds) / work
    else:
        return
    until = start + placement.load_seconds + part * work
    yield _Step(placement, tuple(nodes[at] for _, at in chosen), width, start, until, part)
