"""Who does what next: a pure state machine. Events in, commands out; no clock, no I/O, no Ray.

Policy: one model a worker, for the worker's whole life. Streams without a worker come first, the largest
first; a stream gets a further worker only while its queue is long enough to pay for another load. A shard
goes back to the queue when its worker is lost or fails, at most `max_attempts` times; loads are counted the
same way. What cannot be done is recorded with its reason and the rest goes on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.plan import StreamPlan
from workers.errors import ModelError, StoreError, SweepError
from workers.protocol import Finding, ModelSpec, Shard, ShardReport


@dataclass(frozen=True)
class Start:
    """Begin a worker process for a model."""

    worker: int
    spec: ModelSpec


@dataclass(frozen=True)
class Lint:
    """Check the tokens of all requests that the worker's model owes."""

    worker: int
    stream: str


@dataclass(frozen=True)
class Load:
    """Load the model's weights."""

    worker: int


@dataclass(frozen=True)
class Assign:
    """Score a shard."""

    worker: int
    shard: Shard


@dataclass(frozen=True)
class Stop:
    """End the worker's process."""

    worker: int


Command = Start | Lint | Load | Assign | Stop


@dataclass(frozen=True)
class Linted:
    """The preflight is done."""

    worker: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Ready:
    """The weights are in memory, after so many seconds."""

    worker: int
    seconds: float


@dataclass(frozen=True)
class Done:
    """The assigned shard's measurements are in the store."""

    worker: int
    report: ShardReport


@dataclass(frozen=True)
class Failed:
    """Whatever the worker was told to do last raised an error; the worker lives."""

    worker: int
    error: SweepError


@dataclass(frozen=True)
class Lost:
    """The worker's process is gone. A preemption does not count as an attempt."""

    worker: int
    reason: str
    preempted: bool = False


Event = Linted | Ready | Done | Failed | Lost
Phase = Literal["linting", "loading", "busy"]


@dataclass(frozen=True)
class Capacity:
    """What the cluster offers: a worker takes its model's GPUs, or one CPU slot where it needs none."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Limits:
    """`max_attempts` for a shard and for a load; `replica_shards` queued per worker before one more starts."""

    max_attempts: int = 3
    replica_shards: int = 4


@dataclass
class WorkerState:
    """A living worker."""

    stream: str
    phase: Phase
    shard: Shard | None = None


@dataclass
class StreamState:
    """A stream's queue and record. `failed` is the reason why the model was given up."""

    spec: ModelSpec
    pending: deque[Shard]
    total: int
    linted: bool = False
    loads: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    done: int = 0
    tokens: int = 0
    seconds: float = 0.0
    failures: list[tuple[Shard, str]] = field(default_factory=list)
    failed: str | None = None

    @property
    def failed_rows(self) -> int:
        """Rows that were given up."""
        return sum(len(shard.requests) for shard, _ in self.failures)


class Scheduler:
    """Holds the whole state of a run; `begin` and `handle` are its only entrances."""

    def __init__(self, streams: Iterable[StreamPlan], capacity: Capacity, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.capacity = capacity
        self.streams = {
            plan.spec.fingerprint: StreamState(plan.spec, deque(plan.shards), len(plan.owed))
            for plan in streams
            if plan.owed
        }
        self.workers: dict[int, WorkerState] = {}
        self.aborted: StoreError | None = None
        self._started = 0

    def begin(self) -> list[Command]:
        """The first commands; models that no machine can hold are given up at once."""
        for stream in self.streams.values():
            if stream.spec.gpus > self.capacity.gpus:
                self._give_up(stream, f"needs {stream.spec.gpus} GPUs, the cluster has {self.capacity.gpus}")
            elif stream.spec.gpus == 0 and self.capacity.cpus < 1:
                self._give_up(stream, "needs a CPU slot, the cluster has none")
        return self._fill()

    def handle(self, event: Event) -> list[Command]:
        """The answer to an event; events of workers that are already gone mean nothing."""
        worker = self.workers.get(event.worker)
        if worker is None:
            return []
        stream = self.streams[worker.stream]
        match event:
            case Linted():
                commands = self._linted(event, worker, stream)
            case Ready():
                commands = self._next_shard(event.worker, worker, stream)
            case Done():
                commands = self._done(event, worker, stream)
            case Failed():
                commands = self._failed(event, worker, stream)
            case Lost():
                commands = self._lost(event, worker, stream)
        return commands + self._fill()

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing can be started."""
        return not self.workers

    def _linted(self, event: Linted, worker: WorkerState, stream: StreamState) -> list[Command]:
        stream.linted = True
        errors = [finding for finding in event.findings if finding.severity == "error"]
        if errors:
            return self._give_up(stream, f"preflight: {'; '.join(finding.message for finding in errors)}")
        worker.phase = "loading"
        return [Load(event.worker)]

    def _done(self, event: Done, worker: WorkerState, stream: StreamState) -> list[Command]:
        if worker.shard is not None:
            unscored = event.report.unscored
            stream.failures += [(replace(worker.shard, requests=(asked,)), reason) for asked, reason in unscored]
        stream.done += event.report.rows
        stream.tokens += event.report.tokens
        stream.seconds += event.report.seconds
        return self._next_shard(event.worker, worker, stream)

    def _next_shard(self, number: int, worker: WorkerState, stream: StreamState) -> list[Command]:
        if not stream.pending:
            del self.workers[number]
            return [Stop(number)]
        worker.phase, worker.shard = "busy", stream.pending.popleft()
        return [Assign(number, worker.shard)]

    def _failed(self, event: Failed, worker: WorkerState, stream: StreamState) -> list[Command]:
        """A failed worker is replaced by a fresh one; its state cannot be trusted."""
        if isinstance(event.error, ModelError):
            return self._give_up(stream, str(event.error))
        del self.workers[event.worker]
        commands = self._retry(worker, stream, str(event.error), counts=True)
        exhausted = worker.shard is not None and worker.shard in [shard for shard, _ in stream.failures]
        if isinstance(event.error, StoreError) and (exhausted or worker.shard is None):
            self.aborted = event.error
            commands += [command for other in self.streams.values() for command in self._give_up(other, "run aborted")]
        return [Stop(event.worker), *commands]

    def _lost(self, event: Lost, worker: WorkerState, stream: StreamState) -> list[Command]:
        del self.workers[event.worker]
        return self._retry(worker, stream, f"worker lost: {event.reason}", counts=not event.preempted)

    def _retry(self, worker: WorkerState, stream: StreamState, reason: str, counts: bool) -> list[Command]:
        """Put the worker's work back, or record that it failed for good."""
        if worker.shard is None:
            stream.loads += counts
            alone = not any(other.stream == worker.stream for other in self.workers.values())
            return self._give_up(stream, reason) if alone and stream.loads >= self.limits.max_attempts else []
        shard = worker.shard
        stream.attempts[shard.id] = stream.attempts.get(shard.id, 0) + counts
        if stream.attempts[shard.id] >= self.limits.max_attempts:
            stream.failures.append((shard, reason))
        else:
            stream.pending.append(shard)
        return []

    def _give_up(self, stream: StreamState, reason: str) -> list[Command]:
        """End a model: its queue and the shards in flight are recorded as failed."""
        name = stream.spec.fingerprint
        mine = [number for number, worker in self.workers.items() if worker.stream == name]
        flying = [self.workers[number].shard for number in mine]
        lost = [*stream.pending, *(shard for shard in flying if shard is not None)]
        if lost:
            stream.failed = stream.failed or reason
            stream.failures += [(shard, reason) for shard in lost]
        stream.pending.clear()
        for number in mine:
            del self.workers[number]
        return [Stop(number) for number in mine]

    def _fill(self) -> list[Command]:
        """Start workers while there is room and a queue that pays for one."""
        commands: list[Command] = []
        while (stream := self._most_urgent()) is not None:
            number = self._started
            self._started += 1
            self.workers[number] = WorkerState(stream.spec.fingerprint, "loading" if stream.linted else "linting")
            task = Load(number) if stream.linted else Lint(number, stream.spec.fingerprint)
            commands += [Start(number, stream.spec), task]
        return commands

    def _most_urgent(self) -> StreamState | None:
        used = [self.streams[worker.stream].spec.gpus for worker in self.workers.values()]
        free_gpus = self.capacity.gpus - sum(used)
        free_cpus = self.capacity.cpus - used.count(0)
        counts = Counter(worker.stream for worker in self.workers.values())
        waiting = {stream.spec.gpus > 0 for name, stream in self.streams.items() if stream.pending and not counts[name]}
        candidates = [
            (counts[name] > 0, -sum(shard.characters for shard in stream.pending) / (counts[name] + 1), name)
            for name, stream in self.streams.items()
            if self._wants_worker(stream, counts[name])
            and not (counts[name] and (stream.spec.gpus > 0) in waiting)
            and (free_cpus >= 1 if stream.spec.gpus == 0 else free_gpus >= stream.spec.gpus)
        ]
        return self.streams[min(candidates)[2]] if candidates else None

    def _wants_worker(self, stream: StreamState, workers: int) -> bool:
        if workers == 0:
            return bool(stream.pending)
        loads = stream.linted and stream.loads < self.limits.max_attempts and not stream.spec.endpoint
        return loads and len(stream.pending) > self.limits.replica_shards * workers
