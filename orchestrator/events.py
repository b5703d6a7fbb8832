"""What the scheduler is told and what it answers. Frozen data: a run is a list of events, and can be played again.

Only `Tick` carries a time. It may jump in either direction; see `Scheduler`.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.cost import Placement
from workers.errors import SweepError
from workers.protocol import Finding, ModelSpec, Shard, ShardReport


@dataclass(frozen=True)
class Node:
    """A machine. `kind` is the kind of its GPUs, `cpu` where it has none, empty where it is unknown: any will do."""

    id: str
    cpus: int
    gpus: int
    kind: str


@dataclass(frozen=True)
class Capacity:
    """What the cluster offers: its nodes, and at most so many workers at a time; whether it `grows` when asked to."""

    nodes: tuple[Node, ...]
    workers: int | None = None
    grows: bool = False


@dataclass(frozen=True)
class Start:
    """Begin a worker process for a model on these nodes, with what the placement says of each."""

    worker: int
    spec: ModelSpec
    placement: Placement
    nodes: tuple[str, ...]


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
    """End the worker's process, whatever it does."""

    worker: int


@dataclass(frozen=True)
class Check:
    """Find out whether the GPUs of a node work; the answer is `GpuChecked`."""

    node: str


@dataclass(frozen=True)
class Fetch:
    """Bring a model's files to a machine, in the background; a load there will want them. No event answers it."""

    spec: ModelSpec
    node: str


@dataclass(frozen=True)
class Need:
    """So many workers, each of which takes this much of one or more nodes, as in `Placement`."""

    kind: str
    gpus: float
    nodes: int
    workers: int


@dataclass(frozen=True)
class Want:
    """All that a run could use now, for a cluster that grows; more is not needed. No event answers it."""

    needs: tuple[Need, ...]


Command = Start | Lint | Load | Assign | Stop | Check


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
    """A shard's measurements are in the store."""

    worker: int
    shard: str
    report: ShardReport


@dataclass(frozen=True)
class Failed:
    """Whatever the worker was told to do last raised an error; the worker lives."""

    worker: int
    error: SweepError


@dataclass(frozen=True)
class Lost:
    """The worker's process is gone. A preemption does not count as an attempt; `gpu`: its GPU failed."""

    worker: int
    reason: str
    preempted: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class NodeJoined:
    """A machine can be used; also one that was to be taken away and is not."""

    node: Node


@dataclass(frozen=True)
class NodeDraining:
    """A machine will be taken away after so many seconds."""

    node: str
    seconds: float


@dataclass(frozen=True)
class NodeLost:
    """A machine is gone, with all its workers."""

    node: str
    reason: str


@dataclass(frozen=True)
class GpuChecked:
    """A node whose GPU failed was looked at; what failed there may be used again if it is `healthy`."""

    node: str
    healthy: bool


@dataclass(frozen=True)
class Tick:
    """It is so late, in seconds of any clock."""

    now: float


WorkerEvent = Linted | Ready | Done | Failed | Lost
Event = WorkerEvent | NodeJoined | NodeDraining | NodeLost | GpuChecked | Tick
