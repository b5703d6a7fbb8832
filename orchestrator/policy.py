"""Which model gets the next worker, and where. Pure functions of the streams' states and of what is free.

1. The *horizon* is the time in which everything that is to do would be done if it could be spread evenly.
2. A model of a higher priority comes first, in everything that follows.
3. A model without a worker gets one before others get a second; the one that would take longest comes first.
4. But a model that with its workers would end after the horizon gets a further worker in that same order.
5. Where no model without a worker could use a free device, it joins the model with the most time left per worker, if
   the queue lasts longer than the load and the worker then computes for long enough (`PAYS`).
6. A queue that is empty gets a further worker only for a straggler's shard that it would have in half the time.
7. Of the devices a model can use, the one that costs the fewest GPU seconds and still ends before the horizon;
   where none does, the one that ends first. Of the nodes, the one with the least room to spare.
8. A device is kept for a model that is in its preflight, where that model comes before the others.
9. A worker keeps its model until the queue is empty; then its device is free for any model.
10. It takes the costliest shard first; a slow one, or one on a node that goes away, the costliest that fits.
11. Where shards are so short that hearing of each would count (`SHORT`), it has one more ahead, until few are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from orchestrator.cost import Placement
from orchestrator.ledger import Ledger
from orchestrator.streams import Option, StreamState, WorkerState

PAYS, PAYS_LAST, NEAR = 1.0, 0.25, 0.8
"""A further worker must compute for such a part of its load; of a model that is near the last to end, for less.

Not where nothing was predicted: then the load is a guess, and so is what the machine can hold."""
SHORT, ENOUGH = 2.0, 4
"""Seconds of a shard below which a worker has one ahead; shards that must wait for each worker of the model."""
SLOW = 1.5
"""A worker that takes so many times as long as its model's fastest is slow."""

Room = Callable[[StreamState, Placement], tuple[str, ...] | None]


@dataclass(frozen=True)
class Choice:
    """A worker to start."""

    stream: StreamState
    option: Option
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """What is known of the run when a worker is chosen: seconds since it began, seconds to its deadline."""

    now: float
    left: float
    max_loads: int


@dataclass(frozen=True)
class Outlook:
    """What one choice is made on: the horizons of GPUs and of CPUs, the end of the longest model, what is free."""

    view: View
    ends: Mapping[bool, float]
    last: float
    room: Room
    reserved: Mapping[str, int]


def next_worker(streams: Iterable[StreamState], ledger: Ledger, view: View) -> Choice | None:
    """The most urgent worker that can be started now.

    A further worker of a model whose preflight still runs cannot be started, but its kind of device is kept for it.
    """
    candidates = [stream for stream in streams if stream.failed is None and (stream.waiting or stream.crew)]
    room = _remembered(ledger)
    if not any(room(stream, option.placement) for stream in candidates for option in stream.options):
        return None
    outlook = Outlook(
        view,
        {gpus: horizon(candidates, ledger, gpus, view.now) for gpus in (True, False)},
        max((_end(stream, view.now) for stream in candidates), default=0.0),
        room,
        _reserved(candidates, ledger, view.now),
    )
    offers = [
        ((stream.priority, urgency, stream.spec.fingerprint), choice)
        for stream in candidates
        if stream.resting <= view.now
        for urgency, choice in _offers(stream, outlook)
    ]
    kept: set[str] = set()
    for _, choice in sorted(offers, key=lambda offer: offer[0], reverse=True):
        kind = choice.option.placement.kind
        if not choice.stream.crew or (choice.stream.linted and kind not in kept):
            return choice
        kept.add(kind)
    return None


def _end(stream: StreamState, now: float) -> float:
    """When a stream would end with the workers it has, or with one."""
    return stream.left(now) if stream.crew else stream.load_seconds(stream.options[0]) + stream.work(now)


def horizon(streams: Sequence[StreamState], ledger: Ledger, gpus: bool, now: float) -> float:
    """Seconds in which the streams' work would be done if it could be spread evenly over all devices."""
    area = 0.0
    for stream in streams:
        first = stream.options[0]
        if (first.placement.gpus > 0) == gpus:
            load = 0.0 if stream.crew else stream.load_seconds(first)
            area += (load + stream.work(now)) * (first.placement.gpus or 1)
    size = ledger.size(gpus)
    return area / size if size else inf


def _reserved(streams: Sequence[StreamState], ledger: Ledger, now: float) -> dict[str, int]:
    """Kinds of devices that a model without a worker could use, with the highest priority among those."""
    waiting: dict[str, int] = {}
    for stream in streams:
        if stream.waiting and not stream.crew and stream.resting <= now:
            for option in stream.options:
                if ledger.fits(option.placement):
                    kind = option.placement.kind
                    waiting[kind] = max(stream.priority, waiting.get(kind, stream.priority))
    return waiting


def _offers(stream: StreamState, outlook: Outlook) -> Iterator[tuple[float, Choice]]:
    """The ways to give a stream a further worker now, each with the seconds that make it urgent."""
    if not stream.crew:
        option = _where(stream, outlook)
        if option is not None:
            seconds = stream.load_seconds(option) + stream.work(outlook.view.now) * option.ratio
            yield seconds, Choice(stream, option, outlook.room(stream, option.placement) or ())
        return
    if stream.loads >= outlook.view.max_loads or stream.spec.endpoint:
        return
    left = stream.left(outlook.view.now)
    for option in stream.options:
        overdue = left > outlook.ends[option.placement.gpus > 0]
        if not overdue and outlook.reserved.get(option.placement.kind, -inf) >= stream.priority:
            continue
        nodes = outlook.room(stream, option.placement)
        if nodes is not None and _helps(stream, option, left, outlook):
            yield left, Choice(stream, option, nodes)


def _where(stream: StreamState, outlook: Outlook) -> Option | None:
    """The free device for a model's first worker."""
    found = []
    for option in stream.options:
        load = stream.load_seconds(option)
        if load < outlook.view.left and outlook.room(stream, option.placement) is not None:
            end = load + stream.work(outlook.view.now) * option.ratio
            late = end > outlook.ends[option.placement.gpus > 0]
            found.append((late, end if late else end * option.placement.gpus, end, option))
    return min(found, key=lambda item: item[:3])[3] if found else None


def _helps(stream: StreamState, option: Option, left: float, outlook: Outlook) -> bool:
    """Whether one more worker would end a stream sooner, and compute for long enough to pay for its load."""
    load, now = stream.load_seconds(option), outlook.view.now
    loading = sum(worker.phase != "busy" for worker in stream.crew.values())
    if load >= outlook.view.left:
        return False
    if not stream.waiting:
        return loading == 0 and stream.straggler(option, load, now) is not None
    queue, rate = stream.pieces.cost * stream.scale, stream.rate()
    shard = queue / stream.waiting * option.ratio
    emptied = (queue + stream.loading_cost(now)) / rate
    joined = (left * rate + load / option.ratio) / (rate + 1 / option.ratio)
    pays = PAYS_LAST if stream.predicted and left > NEAR * outlook.last else PAYS
    return loading < stream.waiting and emptied > load and load + shard < left and joined > (1 + pays) * load


def longest_piece(stream: StreamState, worker: WorkerState, until: float | None, now: float) -> float:
    """The cost up to which a worker should take a piece."""
    limit = inf
    if until is not None:
        pace = worker.option.ratio * stream.scale
        limit = (until - now) / pace if stream.timed and pace else 0.0
    fastest = min(other.option.ratio for other in stream.crew.values())
    if worker.option.ratio > SLOW * fastest and stream.timed:
        left = stream.work(now) / stream.rate()
        limit = min(limit, left / (worker.option.ratio * stream.scale))
    return limit


def looks_ahead(stream: StreamState, worker: WorkerState) -> bool:
    """Whether a busy worker should have a further piece ahead; not where that could be its own once more."""
    if worker.piece is None or worker.ahead is not None or not stream.timed or stream.pieces.waits(worker.piece):
        return False
    short = stream.seconds_for(worker.piece.cost, worker.option) < SHORT
    return short and stream.waiting >= ENOUGH * len(stream.crew)


def homeless(streams: Iterable[StreamState], ledger: Ledger) -> list[StreamState]:
    """Streams that wait and that none of the nodes that stay could hold."""
    waiting = [stream for stream in streams if stream.waiting]
    return [stream for stream in waiting if not any(ledger.fits(option.placement) for option in stream.options)]


def needs(stream: StreamState, ledger: Ledger) -> str:
    """Why a model has no place."""
    gpus = min(option.placement.gpus for option in stream.options)
    if gpus == 0:
        return "needs a CPU slot, the cluster has none"
    kinds = " or ".join(sorted({option.placement.kind for option in stream.options if option.placement.kind}))
    return f"needs {gpus:g} GPUs{f' of {kinds}' if kinds else ''}, the cluster has {ledger.size(gpus=True)}"


def _remembered(ledger: Ledger) -> Room:
    """Where there is room, asked once for placements that take the same."""
    known: dict[tuple[str, float, int, frozenset[str]], tuple[str, ...] | None] = {}

    def room(stream: StreamState, placement: Placement) -> tuple[str, ...] | None:
        key = (placement.kind, placement.gpus, placement.nodes, frozenset(stream.shunned))
        if key not in known:
            known[key] = ledger.find(placement, stream.shunned)
        return known[key]

    return room
