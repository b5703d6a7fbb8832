"""A virtual cluster: obeys the scheduler, answers in time, and keeps an account of its own to contradict it with."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import NoReturn

from orchestrator.cost import Placement
from orchestrator.events import (
    Assign,
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
    Node,
    NodeDraining,
    NodeJoined,
    NodeLost,
    Ready,
    Start,
    Stop,
    Tick,
)
from orchestrator.scheduler import Scheduler
from orchestrator.simulate.hardware import Hardware
from orchestrator.simulate.scenario import Faults, Scenario, Simulated, Violation, true_seconds
from workers.errors import EngineError, ModelError, StoreError, SweepError, UnavailableError
from workers.protocol import Finding, Request, Shard, ShardReport

HOUR, LINT_SECONDS = 3600.0, 2.0
MAX_FAULTS = 1000
"""Then the day gets better: a cluster that preempts every worker for ever has no end."""


class World:
    """One simulated run. `observe` is called after every step."""

    def __init__(self, scenario: Scenario, random: Random, observe: Callable[[World], None] | None = None) -> None:
        self.scenario, self.random, self._observe = scenario, random, observe
        self.scheduler = Scheduler(scenario.streams, scenario.capacity, scenario.limits, scenario.priorities)
        self.hardware = Hardware(scenario.capacity.nodes)
        self.alive: dict[int, Simulated] = {}
        self.plans = {plan.spec.fingerprint: plan for plan in scenario.streams}
        self.written: dict[str, set[Request]] = {name: set() for name in self.plans}
        self.counted: dict[str, list[Request]] = {name: [] for name in self.plans}
        self.heard: set[str] = set()
        self.blamed: Counter[str] = Counter()
        self.seen: list[str] = []
        self.now = self._offset = 0.0
        self.steps = self.aheads = 0
        self._seconds = true_seconds(scenario)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = self._nodes = 0

    def run(self, max_steps: int = 100_000) -> None:
        """Until the scheduler has finished."""
        for node in self.scenario.capacity.nodes:
            self._plan_node_faults(node)
        self.scheduler.handle(Tick(self.now))
        self._obey(self.scheduler.begin())
        self._step()
        while not self.scheduler.finished:
            if self.steps > max_steps:
                self.fail("the run does not end")
            if self._heap and self._heap[0][0] <= self.now + self.scenario.tick:
                self.now, _, happen = heapq.heappop(self._heap)
                happen()
            else:
                self.now += self.scenario.tick
            if self._odds(self.scenario.faults.jump):
                self._offset += self.random.uniform(-3 * HOUR, 3 * HOUR)
                self.seen.append("jump")
            self._obey(self.scheduler.handle(Tick(self.now + self._offset)))
            self._step()

    def fail(self, what: str) -> NoReturn:
        """A promise is broken."""
        raise Violation(f"{what} ({self.now:.0f} s, step {self.steps})")

    def _step(self) -> None:
        self.steps += 1
        if self._observe is not None:
            self._observe(self)

    def _odds(self, odds: float) -> bool:
        return odds > 0 and self._bad() and self.random.random() < odds

    def _bad(self) -> bool:
        return len(self.seen) < MAX_FAULTS

    def _at(self, seconds: float, happen: Callable[[], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._heap, (self.now + seconds, self._numbers, happen))

    def tell(self, event: Event) -> None:
        """Give the scheduler an event and obey."""
        self._obey(self._count(event) if isinstance(event, Done) else self.scheduler.handle(event))

    def _count(self, event: Done) -> list[Command]:
        """Note which rows the scheduler counts as scored."""
        worker = self.scheduler.workers.get(event.worker)
        piece, before = worker.piece if worker else None, self._done()
        commands = self.scheduler.handle(event)
        if self._done() != before:
            if piece is None or piece.name != event.shard:
                self.fail(f"{event.shard} is counted as {piece.name if piece else 'nothing'}")
            self.heard.add(event.shard)
            refused = {request for request, _ in event.report.unscored}
            self.counted[piece.shard.stream] += [row for row in piece.shard.requests if row not in refused]
        return commands

    def _done(self) -> int:
        return sum(state.done for state in self.scheduler.streams.values())

    def _obey(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Start():
                    self._start(command)
                case Stop(number):
                    self._end(number)
                case Check(node):
                    healthy = not self._odds(self.scenario.faults.gpu_dies)
                    self._at(30.0, lambda node=node, healthy=healthy: self._checked(node, healthy))  # type: ignore[misc]
                case _:
                    self._work(command)

    def _start(self, command: Start) -> None:
        slow = self.random.uniform(2, 10) if self._odds(self.scenario.faults.slow) else 1.0
        self.seen += ["slow"] * (slow > 1)
        worker = Simulated(command.spec.fingerprint, command.placement, command.nodes, slow)
        if command.worker in self.alive:
            self.fail("a worker's number is used twice")
        if not self.hardware.take(command.worker, command.placement, command.nodes):
            self.fail(f"{command.placement.gpus:g} GPUs on {command.nodes} are not there, taken, or not checked")
        self.alive[command.worker] = worker

    def _end(self, number: int, broken: bool = False) -> None:
        if number not in self.alive:
            self.fail(f"worker {number} is stopped, but is not there")
        del self.alive[number]
        self.hardware.free(number, broken)

    def _work(self, command: Lint | Load | Assign) -> None:
        worker = self.alive.get(command.worker)
        if isinstance(command, Assign) and command.shard.id in self.heard:
            self.fail(f"shard {command.shard.id} is handed out after its result was heard")
        if isinstance(command, Assign):
            flying = [other.task.shard.id for other in self.alive.values() if isinstance(other.task, Assign)]
            self.seen += ["copy"] * (command.shard.id in flying)
        if worker is None or not worker.give(command):
            self.fail(f"worker {command.worker} is given work, but is gone or busy")
        if worker.task is command:
            self._begin(command, worker)
        self.aheads += worker.ahead is command

    def _begin(self, command: Lint | Load | Assign, worker: Simulated) -> None:
        faults, seconds = self.scenario.faults, self._duration(command, worker)
        rate = faults.lost / HOUR * max(1.0, worker.placement.gpus)
        death = self.random.expovariate(rate) if rate and self._bad() else seconds + 1
        poison = isinstance(command, Assign) and not self.scenario.killers.isdisjoint(command.shard.requests)
        if poison or death < seconds:
            at = seconds * self.random.random() if poison else death
            preempted = not poison and self._odds(faults.preempted)
            self._at(at, lambda: self._lose(command, worker, Lost(command.worker, "killed", preempted)))
        elif isinstance(command, Assign) and worker.placement.gpus and self._odds(faults.gpu_fails):
            self._at(seconds / 2, lambda: self._lose(command, worker, Lost(command.worker, "CUDA error", gpu=True)))
        else:
            self._at(seconds, lambda: self._answer(command, worker))

    def _duration(self, command: Command, worker: Simulated) -> float:
        match command:
            case Load():
                return worker.placement.load_seconds * worker.slow
            case Assign(_, shard):
                mean = self.scenario.faults.store_slow
                store = min(self.random.expovariate(1 / mean), 100 * mean) if mean else 0.0
                return self._true(shard, worker.placement) * worker.slow + store
        return LINT_SECONDS

    def _true(self, shard: Shard, placement: Placement) -> float:
        """The seconds of a shard, or of a part of one: its name begins with the whole one's."""
        known, name = self._seconds[shard.stream, placement.kind, placement.gpus], shard.id
        while name not in known:
            name = name[:-1]
        seconds, rows = known[name]
        return seconds * len(shard.requests) / rows * self.scenario.pace.get(shard.stream, 1.0)

    def _lose(self, command: Lint | Load | Assign, worker: Simulated, event: Lost) -> None:
        """A process ends by itself; the scheduler may have ended it before."""
        if self.alive.get(command.worker) is worker:
            self._end(command.worker, broken=event.gpu)
            self.blamed[command.shard.id if isinstance(command, Assign) else ""] += not event.preempted
            self.seen.append("gpu" if event.gpu else "preempted" if event.preempted else "lost")
            self.tell(event)

    def _answer(self, command: Lint | Load | Assign, worker: Simulated) -> None:
        """What a worker says at the end of its task: also one that was stopped meanwhile may be heard."""
        following, event = worker.finish(command), self._result(command)
        self.seen += ["late"] * (self.alive.get(command.worker) is not worker)
        if following is not None and self.alive.get(command.worker) is worker:
            self._begin(following, worker)
        self.tell(event)
        if self._odds(self.scenario.faults.duplicate):
            self.seen.append("duplicate")
            self._at(self.random.uniform(0, 60), lambda: self.tell(event))

    def _result(self, command: Lint | Load | Assign) -> Event:
        faults, number = self.scenario.faults, command.worker
        match command:
            case Lint(_, stream):
                bad = self._odds(faults.model_fails)
                return Linted(number, (Finding("template", "error", "no chat template"),) if bad else ())
            case Load():
                stream = self.alive[number].stream if number in self.alive else ""
                blip = self._odds(faults.hub_fails)
                if blip or stream in self.scenario.never or self._odds(faults.load_fails):
                    return self._failure(number, UnavailableError("hub") if blip else EngineError("cannot be loaded"))
                return Ready(number, self.alive[number].placement.load_seconds if number in self.alive else 1.0)
            case Assign(_, shard):
                ills = (
                    (faults.shard_fails, EngineError("odd")),
                    (faults.store_refuses, StoreError("disk full")),
                    (faults.model_fails / 10, ModelError("no head")),
                )
                error = next((error for odds, error in ills if self._odds(odds)), None)
                self.blamed[shard.id] += error is not None
                return self._failure(number, error) if error is not None else self._write(number, shard)

    def _failure(self, number: int, error: SweepError) -> Failed:
        self.seen.append(str(error))
        return Failed(number, error)

    def _write(self, number: int, shard: Shard) -> Done:
        """Rows are in the store whether the scheduler hears of it or not."""
        unscored = tuple((row, "does not fit") for row in shard.requests if self._odds(self.scenario.faults.unscored))
        refused = {row for row, _ in unscored}
        self.written[shard.stream].update(row for row in shard.requests if row not in refused)
        worker = self.alive.get(number)
        seconds = self._true(shard, worker.placement) * worker.slow if worker else 1.0
        return Done(number, shard.id, ShardReport(len(shard.requests) - len(unscored), 7, seconds, 0, unscored))

    def _checked(self, node: str, healthy: bool) -> None:
        self.hardware.checked(node, healthy)
        self.tell(GpuChecked(node, healthy))

    def _plan_node_faults(self, node: Node) -> None:
        faults = self.scenario.faults if self._bad() else Faults()
        if faults.node_lost:
            self._at(self.random.expovariate(faults.node_lost / HOUR), lambda: self._lose_node(node))
        if faults.node_drained:
            self._at(self.random.expovariate(faults.node_drained / HOUR), lambda: self._drain(node))

    def _drain(self, node: Node) -> None:
        if self.hardware.drain(node.id):
            self.seen.append("drained")
            seconds = self.random.choice((30.0, 120.0))
            stays = self._odds(self.scenario.faults.node_stays)
            self._at(seconds * 0.5**stays, lambda: self._stay(node) if stays else self._lose_node(node))
            self.tell(NodeDraining(node.id, seconds))

    def _stay(self, node: Node) -> None:
        """A machine is not taken away after all."""
        if self.hardware.stay(node.id):
            self.seen.append("stayed")
            self.tell(NodeJoined(node))

    def _lose_node(self, node: Node) -> None:
        """All processes there are gone; some are heard of before the node is, and some never.

        Until it is told, the scheduler may start workers there: they are stopped with the node.
        """
        if node.id not in self.hardware.boxes:
            return
        self.seen.append("node lost")
        for number in [number for number, worker in self.alive.items() if node.id in worker.nodes]:
            if number in self.alive and self._odds(0.5):
                self._end(number)
                self.tell(Lost(number, "node", preempted=True))
        self.hardware.drop(node.id)
        self.tell(NodeLost(node.id, "gone"))
        if self._odds(self.scenario.faults.node_returns):
            self._nodes += 1
            again = Node(f"{node.id}+{self._nodes}", node.cpus, node.gpus, node.kind)
            self._at(self.random.uniform(0, 600), lambda: self._join(again))

    def _join(self, node: Node) -> None:
        self.seen.append("joined")
        self.hardware.join(node)
        self._plan_node_faults(node)
        self.tell(NodeJoined(node))
