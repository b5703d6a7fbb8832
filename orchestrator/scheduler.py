"""Who does what next: a pure state machine. Events in, commands out; no clock, no I/O, no Ray.

`policy` says which model gets the next worker, `faults` what a fault costs. A shard goes back to the queue when its
worker is lost or fails; one that has met `max_attempts` such ends is cut in two, and what kills again is cut again,
down to the row, which is quarantined with its reason. Loads have as many attempts, counted from the last that
succeeded; a model whose files could not be had rests before the next. Preemptions count as nothing. A GPU that failed
is not used before it was checked. The first result of a shard counts. What cannot be done is recorded with its reason
and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator import faults, policy
from orchestrator.elapsed import Elapsed
from orchestrator.events import (
    Assign,
    Capacity,
    Check,
    Command,
    Done,
    Event,
    Failed,
    GpuChecked,
    Lint,
    Linted,
    Load,
    Lost,
    NodeDraining,
    NodeJoined,
    NodeLost,
    Ready,
    Start,
    Stop,
    Tick,
    WorkerEvent,
)
from orchestrator.faults import Limits
from orchestrator.ledger import Ledger
from orchestrator.pieces import Piece
from orchestrator.plan import StreamPlan
from orchestrator.streams import Phase, StreamState, WorkerState, state_of
from workers.errors import ModelError, StoreError, UnavailableError

LOOK_SECONDS = 1.0
"""Ticks look for stragglers so often."""


class Scheduler:
    """Holds the whole state of a run; `begin` and `handle` are its only entrances."""

    def __init__(
        self,
        streams: Iterable[StreamPlan],
        capacity: Capacity,
        limits: Limits | None = None,
        priorities: Mapping[str, int] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.ledger = Ledger(capacity)
        ranks = priorities or {}
        self.streams = {
            plan.spec.fingerprint: state_of(plan, ranks.get(plan.spec.fingerprint, 0)) for plan in streams if plan.owed
        }
        self.workers: dict[int, WorkerState] = {}
        self.aborted: StoreError | None = None
        self._elapsed = Elapsed()
        self._checking: set[str] = set()
        self._started = 0
        self._looked = 0.0
        self._elastic = capacity.grows
        self._stuck: float | None = None
        self._changed = True
        self._closed = False

    def begin(self) -> list[Command]:
        """The first commands; models that no machine can hold are given up at once, unless the cluster grows."""
        if not self._elastic:
            for stream in policy.homeless(self.streams.values(), self.ledger):
                self._give_up(stream, policy.needs(stream, self.ledger))
        return self._fill()

    def handle(self, event: Event) -> list[Command]:
        """The answer to an event; events of workers that are already gone mean nothing."""
        match event:
            case Tick(now):
                return self._tick(now)
            case NodeJoined(node):
                self.ledger.join(node)
                commands, self._changed = [], True
            case NodeDraining(node_id, seconds):
                commands = self._draining(node_id, seconds)
            case NodeLost(node_id):
                self._elastic = True
                commands = [command for number in self.ledger.drop(node_id) for command in self._stop(number)]
                self._checking.discard(node_id)
                self._changed = True
            case GpuChecked(node_id, healthy):
                self._checking.discard(node_id)
                self.ledger.checked(node_id, healthy)
                commands, self._changed = [], True
            case _:
                worker = self.workers.get(event.worker)
                if worker is None:
                    return []
                commands = self._worker_event(event, worker, self.streams[worker.stream])
        return commands + (self._fill() if self._changed else [])

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self._elapsed.seconds

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing can be started."""
        return not self.workers and (self.over or not any(stream.waiting for stream in self.streams.values()))

    @property
    def over(self) -> bool:
        """Whether nothing more can be begun before the deadline; what was not begun is left."""
        return self._closed or self.now >= self.limits.deadline

    def _worker_event(self, event: WorkerEvent, worker: WorkerState, stream: StreamState) -> list[Command]:
        """An event that does not answer what the worker was told is a copy of an older one."""
        match event:
            case Linted() if worker.phase == "linting":
                return self._linted(event, worker, stream)
            case Ready() if worker.phase == "loading":
                stream.loaded(worker.option, max(event.seconds, self.now - worker.began))
                return self._next_piece(event.worker, worker, stream)
            case Done():
                mine = [piece for piece in worker.pieces if piece.name == event.shard]
                return self._done(event, worker, stream, mine[0]) if mine else []
            case Failed():
                return self._failed(event, worker, stream)
            case Lost():
                return self._lost(event, worker, stream)
        return []

    def _tick(self, now: float) -> list[Command]:
        """Let time pass; now and then look whether something is late."""
        before = self.over
        self._elapsed.tick(now)
        if self.over and not before:
            idle = [number for number, worker in self.workers.items() if worker.piece is None]
            return [command for number in idle for command in self._stop(number)]
        return self._fill() if self.now - self._looked >= LOOK_SECONDS else []

    def _linted(self, event: Linted, worker: WorkerState, stream: StreamState) -> list[Command]:
        stream.linted = self._changed = True
        errors = [finding for finding in event.findings if finding.severity == "error"]
        if errors:
            return self._give_up(stream, f"preflight: {'; '.join(finding.message for finding in errors)}")
        worker.phase, worker.began = "loading", self.now
        return [Load(event.worker)]

    def _done(self, event: Done, worker: WorkerState, stream: StreamState, piece: Piece) -> list[Command]:
        stream.score(piece, event.report, worker.option)
        stream.land(event.worker, worker, piece, self.now)
        commands = self._next_piece(event.worker, worker, stream)
        return commands + [command for number in stream.useless() for command in self._stop(number)]

    def _next_piece(self, number: int, worker: WorkerState, stream: StreamState) -> list[Command]:
        """Give an idle worker its next shard, or end it; one whose shards are short gets a further one ahead."""
        commands: list[Command] = []
        until = self.ledger.deadline(number)
        while not self.over and (worker.piece is None or (until is None and policy.looks_ahead(stream, worker))):
            piece = stream.pieces.take(policy.longest_piece(stream, worker, until, self.now))
            if piece is None and worker.piece is None and until is None and self._near_end:
                piece = stream.straggler(worker.option, 0.0, self.now)
            if piece is None:
                break
            stream.fly(number, worker, piece, self.now)
            commands.append(Assign(number, piece.shard))
        return commands if worker.piece is not None else self._stop(number)

    @property
    def _near_end(self) -> bool:
        """Whether nothing is left that nobody has begun."""
        return not self.over and not any(stream.waiting for stream in self.streams.values())

    def _stop(self, number: int) -> list[Command]:
        """End a worker; what it had goes back uncounted."""
        worker = self.workers[number]
        piece = self._remove(number, worker)
        if piece is not None:
            self.streams[worker.stream].pieces.put(piece)
        return [Stop(number)]

    def _remove(self, number: int, worker: WorkerState) -> Piece | None:
        """Forget a worker; the piece at which it was and that now nobody has. What it had ahead goes back uncounted."""
        del self.workers[number]
        stream = self.streams[worker.stream]
        given = [stream.land(number, worker, piece, self.now) for piece in worker.pieces]
        for ahead in filter(None, given[1:]):
            stream.pieces.put(ahead)
        del stream.crew[number]
        self.ledger.give_back(number)
        self._changed = True
        return given[0] if given else None

    def _failed(self, event: Failed, worker: WorkerState, stream: StreamState) -> list[Command]:
        """A failed worker is replaced by a fresh one; its state cannot be trusted."""
        reason = str(event.error)
        if isinstance(event.error, ModelError):
            return self._stop(event.worker) + self._give_up(stream, reason)
        piece = self._remove(event.worker, worker)
        commands = [Stop(event.worker), *self._count(event, worker, stream, piece, reason)]
        if isinstance(event.error, UnavailableError):
            faults.back_off(stream, self.now, self.limits)
        lost = piece is not None and any(piece.shard is shard for shard, _ in stream.failures)
        if isinstance(event.error, StoreError) and (lost or worker.phase != "busy"):
            self.aborted = event.error
            commands += [command for other in self.streams.values() for command in self._give_up(other, "run aborted")]
        return commands

    def _lost(self, event: Lost, worker: WorkerState, stream: StreamState) -> list[Command]:
        nodes = self.ledger.suspect(event.worker) if event.gpu else []
        piece = self._remove(event.worker, worker)
        checks: list[Command] = [Check(node) for node in nodes if node not in self._checking]
        self._checking.update(nodes)
        if event.preempted:
            if piece is not None:
                stream.pieces.put(piece)
            return checks
        return checks + self._count(event, worker, stream, piece, f"worker lost: {event.reason}")

    def _count(
        self, event: Failed | Lost, worker: WorkerState, stream: StreamState, piece: Piece | None, reason: str
    ) -> list[Command]:
        """Count a fault against the shard and the model."""
        if piece is not None:
            store = isinstance(event, Failed) and isinstance(event.error, StoreError)
            faults.suspect(stream, piece, reason, not store, self.limits)
        hopeless = faults.strike(stream, event.worker, worker, self._started, self.limits)
        return self._give_up(stream, reason) if hopeless else []

    def _give_up(self, stream: StreamState, reason: str) -> list[Command]:
        """End a model: its queue and the shards in flight are recorded as failed."""
        pieces = stream.rest()
        if pieces:
            stream.failed = stream.failed or reason
            stream.failures += [(piece.shard, reason) for piece in pieces]
        return [command for number in tuple(stream.crew) for command in self._stop(number)]

    def _draining(self, node: str, seconds: float) -> list[Command]:
        """A node goes away: what will not be done by then is queued again at once; the first result counts."""
        commands: list[Command] = []
        self._changed = self._elastic = True
        for number in self.ledger.drain(node, self.now + seconds):
            worker = self.workers[number]
            stream = self.streams[worker.stream]
            if worker.piece is None:
                commands += self._stop(number)
            elif not stream.timed or stream.remaining(worker, self.now) > seconds:
                stream.pieces.put(worker.piece)
            if worker.ahead is not None:
                stream.pieces.put(worker.ahead)
        return commands

    def _fill(self) -> list[Command]:
        """Start workers while there is room and work that pays for one."""
        commands: list[Command] = []
        self._looked, self._changed = self.now, False
        view = policy.View(self.now, self.limits.deadline - self.now, self.limits.max_attempts)
        while not self.over and (choice := policy.next_worker(self.streams.values(), self.ledger, view)) is not None:
            commands += self._start(choice)
        self._wait()
        return commands

    def _start(self, choice: policy.Choice) -> list[Command]:
        stream, number = choice.stream, self._started
        self._started += 1
        phase: Phase = "loading" if stream.linted else "linting"
        worker = WorkerState(stream.spec.fingerprint, choice.option, choice.nodes, phase, began=self.now)
        self.workers[number] = stream.crew[number] = worker
        self.ledger.take(number, choice.option.placement, choice.nodes)
        task = Load(number) if stream.linted else Lint(number, stream.spec.fingerprint)
        return [Start(number, stream.spec, choice.option.placement, choice.nodes), task]

    def _wait(self) -> None:
        """Where nothing runs, rests or can be started, wait for a check or a node; then give up what has no place.

        What has one, and was not started, would not be loaded before the deadline.
        """
        resting = any(stream.waiting and stream.resting > self.now for stream in self.streams.values())
        if self.workers or self.finished or resting:
            self._stuck = None
            return
        if self._stuck is None:
            self._stuck = self.now
        homeless = policy.homeless(self.streams.values(), self.ledger)
        if self._checking or (homeless and self._elastic and self.now - self._stuck < self.limits.patience):
            return
        for stream in homeless:
            self._give_up(stream, policy.needs(stream, self.ledger))
        self._closed = True
