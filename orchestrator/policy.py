"""Which model gets the next worker, and where. Pure functions of the streams' states and of what is free.

1. The *horizon* is the time in which everything that is to do would be done if it could be spread evenly.
2. A model of a higher priority comes first, in everything that follows.
3. A model without a worker gets one before others get a second; the one that would take longest comes first.
4. But a model that with its workers would end after the horizon gets a further worker in that same order.
5. Where no model without a worker could use a free device, it joins the model with the most time left per worker,
   if loading ends before the queue does and the worker then has time for a shard.
6. A queue that is empty gets a further worker only for a straggler's shard that it would have in half the time.
7. Of the devices a model can use, the one that costs the fewest GPU seconds and still ends before the horizon;
   where none does, the one that ends first. Of the nodes, the one with the least room to spare.
8. A worker keeps its model until the queue is empty; then its device is free for any model.
9. A worker takes the costliest shard first; a slow one, or one on a node that goes away, the costliest that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from orchestrator.cost import Placement
from orchestrator.ledger import Ledger
from orchestrator.streams import Option, StreamState, WorkerState

SLOW = 1.5
"""A worker that takes so many times as long as its model's fastest is slow."""

Room = Callable[[Placement], tuple[str, ...] | None]


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


def next_worker(streams: Iterable[StreamState], ledger: Ledger, view: View) -> Choice | None:
    """The most urgent worker that can be started now."""
    candidates = [stream for stream in streams if stream.failed is None and (stream.waiting or stream.crew)]
    ends = {gpus: horizon(candidates, ledger, gpus, view.now) for gpus in (True, False)}
    room = _remembered(ledger.find)
    best: tuple[tuple[int, float, str], Choice] | None = None
    held_back = _reserved(candidates, ledger)
    for stream in candidates:
        for urgency, choice in _offers(stream, ends, room, view, held_back):
            rank = (stream.priority, urgency, stream.spec.fingerprint)
            if best is None or rank > best[0]:
                best = rank, choice
    return best[1] if best else None


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


def _reserved(streams: Sequence[StreamState], ledger: Ledger) -> dict[str, int]:
    """Kinds of devices that a model without a worker could use, with the highest priority among those."""
    waiting: dict[str, int] = {}
    for stream in streams:
        if stream.waiting and not stream.crew:
            for option in stream.options:
                if ledger.fits(option.placement):
                    kind = option.placement.kind
                    waiting[kind] = max(stream.priority, waiting.get(kind, stream.priority))
    return waiting


def _offers(
    stream: StreamState, ends: dict[bool, float], room: Room, view: View, reserved: dict[str, int]
) -> Iterator[tuple[float, Choice]]:
    """The ways to give a stream a further worker now, each with the seconds that make it urgent."""
    if not stream.crew:
        option = _where(stream, ends, room, view)
        if option is not None:
            seconds = stream.load_seconds(option) + stream.work(view.now) * option.ratio
            yield seconds, Choice(stream, option, room(option.placement) or ())
        return
    if not stream.linted or stream.loads >= view.max_loads or stream.spec.endpoint:
        return
    loading = sum(worker.phase == "loading" for worker in stream.crew.values())
    left = stream.work(view.now) / stream.rate()
    for option in stream.options:
        overdue = left > ends[option.placement.gpus > 0]
        if not overdue and reserved.get(option.placement.kind, -inf) >= stream.priority:
            continue
        nodes = room(option.placement)
        if nodes is not None and _helps(stream, option, left, loading, view):
            yield left, Choice(stream, option, nodes)


def _where(stream: StreamState, ends: dict[bool, float], room: Room, view: View) -> Option | None:
    """The free device for a model's first worker."""
    found = []
    for option in stream.options:
        load = stream.load_seconds(option)
        if load < view.left and room(option.placement) is not None:
            end = load + stream.work(view.now) * option.ratio
            late = end > ends[option.placement.gpus > 0]
            found.append((late, end if late else end * option.placement.gpus, end, option))
    return min(found, key=lambda item: item[:3])[3] if found else None


def _helps(stream: StreamState, option: Option, left: float, loading: int, view: View) -> bool:
    """Whether one more worker would end a stream sooner."""
    load = stream.load_seconds(option)
    if load >= view.left:
        return False
    if not stream.waiting:
        return loading == 0 and stream.straggler(option, load, view.now) is not None
    queue = stream.queued_cost * stream.scale
    shard = queue / stream.waiting * option.ratio
    return loading < stream.waiting and queue / stream.rate() > load and load + shard < left


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


def needs(stream: StreamState, ledger: Ledger) -> str:
    """Why a model has no place."""
    gpus = min(option.placement.gpus for option in stream.options)
    if gpus == 0:
        return "needs a CPU slot, the cluster has none"
    kinds = " or ".join(sorted({option.placement.kind for option in stream.options if option.placement.kind}))
    return f"needs {gpus:g} GPUs{f' of {kinds}' if kinds else ''}, the cluster has {ledger.size(gpus=True)}"


def _remembered(find: Room) -> Room:
    """`find`, asked once for placements that take the same."""
    known: dict[tuple[str, float, int], tuple[str, ...] | None] = {}

    def room(placement: Placement) -> tuple[str, ...] | None:
        key = (placement.kind, placement.gpus, placement.nodes)
        if key not in known:
            known[key] = find(placement)
        return known[key]

    return room
