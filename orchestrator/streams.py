"""One model's queue and record: what waits, what flies, what became of the rest, and how long it will take.

Costs are predicted seconds on the stream's first way to run (`options[0]`); `scale` corrects them by what was
measured. Where nothing was predicted a shard costs its characters and a load `LOAD_SHARDS` shards, until measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.cost import CPU, Placement
from orchestrator.pieces import Piece, Pieces
from orchestrator.plan import StreamPlan
from workers.protocol import ModelSpec, Request, Shard, ShardReport

LOAD_SHARDS = 4
LATE = 1.5
"""A shard that takes so many times what was predicted is a straggler."""

Phase = Literal["linting", "loading", "busy"]


@dataclass(frozen=True)
class Option:
    """A way to run a stream: `ratio` is its time for a shard as against the stream's first option."""

    placement: Placement
    ratio: float


@dataclass
class WorkerState:
    """A living worker; `began` is when it began what it does: its piece, or its load. `ahead` it has been given too."""

    stream: str
    option: Option
    nodes: tuple[str, ...]
    phase: Phase
    piece: Piece | None = None
    began: float = 0.0
    ahead: Piece | None = None

    @property
    def pieces(self) -> list[Piece]:
        """What it was given, in the order in which it does it."""
        return [piece for piece in (self.piece, self.ahead) if piece is not None]


@dataclass
class StreamState:
    """A stream. `failed` is the reason why the model was given up; `shunned` are nodes where its workers ended.

    No worker of it is started before `resting`, in seconds since the run began.
    """

    spec: ModelSpec
    total: int
    options: tuple[Option, ...]
    predicted: bool
    priority: int = 0
    linted: bool = False
    loads: int = 0
    strikes: int = 0
    struck: int = 0
    resting: float = 0.0
    shunned: set[str] = field(default_factory=set)
    done: int = 0
    tokens: int = 0
    seconds: float = 0.0
    duplicates: int = 0
    failures: list[tuple[Shard, str]] = field(default_factory=list)
    quarantined: list[tuple[Request, str]] = field(default_factory=list)
    failed: str | None = None
    crew: dict[int, WorkerState] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    pieces: Pieces = field(default_factory=Pieces)
    _costs_done: float = 0.0
    _load_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failed_rows(self) -> int:
        """Rows that were given up, without those in quarantine."""
        return sum(len(shard.requests) for shard, _ in self.failures)

    @property
    def left_rows(self) -> int:
        """Rows that have no fate yet."""
        return self.total - self.done - self.failed_rows - len(self.quarantined)

    @property
    def waiting(self) -> int:
        """Shards in the queue."""
        return len(self.pieces)

    @property
    def timed(self) -> bool:
        """Whether costs can be told in seconds."""
        return self.predicted or self._costs_done > 0

    @property
    def scale(self) -> float:
        """Seconds per unit of cost: measured, against a prediction that counts as much as one shard."""
        prior = self.options[0].placement.shard_seconds[0] if self.predicted else 0.0
        total = self._costs_done + prior
        return (self.seconds + prior) / total if total and self.timed else 1.0

    def seconds_for(self, cost: float, option: Option) -> float:
        """How long a worker computes at so much."""
        return cost * option.ratio * self.scale

    def load_seconds(self, option: Option) -> float:
        """How long a load takes: as measured on that kind of device, else as predicted."""
        known = self._load_seconds.get(option.placement.kind)
        if known is not None and self.timed:
            return known
        return option.placement.load_seconds * (1.0 if self.predicted else self.scale)

    def loaded(self, option: Option, seconds: float) -> None:
        """Note a load; strikes are counted from here again."""
        self.loads = 0
        self._load_seconds[option.placement.kind] = seconds

    def fly(self, number: int, worker: WorkerState, piece: Piece, now: float) -> None:
        """Note that a worker was given a piece; it begins with it, or has it ahead."""
        if worker.piece is None:
            worker.phase, worker.piece, worker.began = "busy", piece, now
        else:
            worker.ahead = piece
        self.pieces.fly(piece, number)

    def land(self, number: int, worker: WorkerState, piece: Piece, now: float) -> Piece | None:
        """Note that a worker has a piece no more, and begins what it has ahead; the piece, if now nobody has it."""
        if worker.piece is piece:
            worker.piece, worker.began = worker.ahead, now
        worker.ahead = None
        return self.pieces.land(piece, number)

    def score(self, piece: Piece, report: ShardReport, option: Option) -> bool:
        """Count a piece's rows, once; False for a second result."""
        if self.pieces.settled(piece):
            self.duplicates += 1
            return False
        self.pieces.settle(piece)
        self.failures += [(replace(piece.shard, requests=(asked,)), reason) for asked, reason in report.unscored]
        self.done += report.rows
        self.tokens += report.tokens
        self.seconds += report.seconds
        self._costs_done += piece.cost * option.ratio
        self.strikes = 0
        return True

    def useless(self) -> list[int]:
        """Workers of an empty queue that make a second result, or load weights where nothing flies."""
        if self.waiting:
            return []
        flying = {
            number: not all(map(self.pieces.settled, worker.pieces))
            for number, worker in self.crew.items()
            if worker.pieces
        }
        alone = not any(flying.values())
        return [number for number in self.crew if not flying.get(number, not alone)]

    def rest(self) -> list[Piece]:
        """Everything without a fate, each piece once; it is settled by this."""
        flying = [piece for worker in self.crew.values() for piece in worker.pieces]
        rest = {piece.name: piece for piece in [*self.pieces, *flying] if not self.pieces.settled(piece)}
        for piece in rest.values():
            self.pieces.settle(piece)
        return list(rest.values())

    def rate(self) -> float:
        """Units of cost that all workers do together in a second of the first option."""
        return sum(1 / worker.option.ratio for worker in self.crew.values())

    def flying_seconds(self, now: float) -> float:
        """What workers still compute at, in seconds of the first option."""
        begun = sum(
            max(0.0, worker.piece.cost * self.scale - (now - worker.began) / worker.option.ratio)
            for worker in self.crew.values()
            if worker.piece is not None and not self.pieces.settled(worker.piece)
        )
        ahead = (worker.ahead for worker in self.crew.values() if worker.ahead is not None)
        return begun + sum(piece.cost * self.scale for piece in ahead if not self.pieces.settled(piece))

    def work(self, now: float) -> float:
        """Everything that is to do, in seconds of one worker of the first option."""
        return self.pieces.cost * self.scale + self.flying_seconds(now)

    def left(self, now: float) -> float:
        """Seconds until the stream is done by the workers it has, who may have to load first."""
        return (self.work(now) + self.loading_cost(now)) / self.rate()

    def loading_cost(self, now: float) -> float:
        """What workers would do in the time that they still load, in seconds of the first option."""
        return sum(
            max(0.0, self.load_seconds(worker.option) - (now - worker.began)) / worker.option.ratio
            for worker in self.crew.values()
            if worker.phase != "busy"
        )

    def remaining(self, worker: WorkerState, now: float) -> float:
        """When a busy worker will have done its piece; one that is late is thought to need as long again."""
        if worker.piece is None:
            return 0.0
        expected, ran = self.seconds_for(worker.piece.cost, worker.option), now - worker.began
        return max(0.0, expected - ran) if ran <= LATE * expected else ran

    def straggler(self, option: Option, before: float, now: float) -> Piece | None:
        """The piece that a worker here would have long before the one who has it: half the time or less.

        `before` are the seconds until the worker could begin. None under suspicion: it would cost two workers.
        """
        if not self.timed:
            return None
        late = [
            (self.remaining(worker, now) + (self.seconds_for(piece.cost, worker.option) if after else 0.0), piece)
            for worker in self.crew.values()
            for after, piece in enumerate(worker.pieces)
            if not self.pieces.settled(piece) and self.pieces.copies(piece) == 1 and not self.attempts.get(piece.name)
        ]
        useful = [item for item in late if item[0] > 2 * (before + self.seconds_for(item[1].cost, option))]
        return max(useful)[1] if useful else None


def state_of(plan: StreamPlan, priority: int) -> StreamState:
    """The state in which a stream begins."""
    placements = plan.placements or (_unknown(plan),)
    totals = [sum(placement.shard_seconds) for placement in placements]
    options = tuple(
        Option(placement, total / totals[0] if totals[0] else 1.0)
        for placement, total in zip(placements, totals, strict=True)
    )
    state = StreamState(plan.spec, len(plan.owed), options, bool(plan.placements), priority)
    costs = placements[0].shard_seconds
    for number, (cost, shard) in enumerate(zip(costs, plan.shards, strict=True)):
        state.pieces.put(Piece(cost, -number, shard.id, shard))
    return state


def _unknown(plan: StreamPlan) -> Placement:
    costs = tuple(float(shard.characters) for shard in plan.shards)
    return Placement("" if plan.spec.gpus else CPU, plan.spec.gpus, 1, LOAD_SHARDS * sum(costs) / len(costs), costs)
