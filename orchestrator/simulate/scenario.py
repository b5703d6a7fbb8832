"""What is simulated: the work, the machines, the workers on them, what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.cost import CPU, Placement
from orchestrator.events import Assign, Capacity, Lint, Load
from orchestrator.faults import Limits
from orchestrator.plan import StreamPlan
from workers.protocol import Request


class Violation(AssertionError):
    """The scheduler broke a promise."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong: odds a command or an event, or rates an hour. None of it by default."""

    lost: float = 0.0
    preempted: float = 0.0
    node_lost: float = 0.0
    node_drained: float = 0.0
    node_stays: float = 0.0
    node_returns: float = 0.0
    load_fails: float = 0.0
    hub_fails: float = 0.0
    shard_fails: float = 0.0
    model_fails: float = 0.0
    gpu_fails: float = 0.0
    gpu_dies: float = 0.0
    slow: float = 0.0
    duplicate: float = 0.0
    store_refuses: float = 0.0
    store_slow: float = 0.0
    jump: float = 0.0
    unscored: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """A run: what is to do, where, and what goes wrong. `pace` is each stream's true time over the predicted one.

    `killers` are requests that end every worker they meet; `never` are streams that never load.
    """

    streams: tuple[StreamPlan, ...]
    capacity: Capacity
    limits: Limits = field(default_factory=Limits)
    faults: Faults = field(default_factory=Faults)
    priorities: Mapping[str, int] = field(default_factory=dict)
    pace: Mapping[str, float] = field(default_factory=dict)
    killers: frozenset[Request] = frozenset()
    never: frozenset[str] = frozenset()
    tick: float = 10.0


@dataclass
class Simulated:
    """A worker process."""

    stream: str
    placement: Placement
    nodes: tuple[str, ...]
    slow: float
    task: Lint | Load | Assign | None = None
    ahead: Assign | None = None

    def give(self, command: Lint | Load | Assign) -> bool:
        """Take a command; False where there is no room for it. One shard may wait for another."""
        if self.task is None:
            self.task = command
        elif self.ahead is None and isinstance(command, Assign) and isinstance(self.task, Assign):
            self.ahead = command
        else:
            return False
        return True

    def finish(self, command: Lint | Load | Assign) -> Assign | None:
        """End a command; the one that begins then."""
        if self.task is not command:
            return None
        self.task, self.ahead = self.ahead, None
        return self.task


def true_seconds(scenario: Scenario) -> Mapping[tuple[str, str, float], Mapping[str, tuple[float, int]]]:
    """Seconds and rows of every whole shard, by stream and placement."""
    found: dict[tuple[str, str, float], Mapping[str, tuple[float, int]]] = {}
    for plan in scenario.streams:
        ways = plan.placements or (Placement("" if plan.spec.gpus else CPU, plan.spec.gpus, 1, 20.0, ()),)
        for way in ways:
            seconds = way.shard_seconds or [float(len(shard.requests)) for shard in plan.shards]
            table = {shard.id: (cost, len(shard.requests)) for shard, cost in zip(plan.shards, seconds, strict=True)}
            found[plan.spec.fingerprint, way.kind, way.gpus] = table
    return found
