"""The RewardBench zoo on clusters that one does not have: simulated makespan over the lower bound.

Every model file with a `size` that runs on GPUs, over RewardBench's 2,985 pairs; an implicit reward is two streams. The
costs are a stand-in, stated here: `2 x parameters x tokens` FLOPs at half of the device's peak in 16 bits, perfect
scaling over GPUs, loads at 1 GB/s and 20 s; lengths are lognormal about `MEAN_TOKENS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from random import Random
from statistics import NormalDist
from typing import Any

from orchestrator import zoo
from orchestrator.cost import Placement
from orchestrator.events import Capacity, Node
from orchestrator.faults import Limits
from orchestrator.plan import StreamPlan
from orchestrator.simulate.bound import lower_bound
from orchestrator.simulate.scenario import Faults, Scenario
from orchestrator.simulate.world import World
from workers.protocol import Message, ModelSpec, Request, Shard

RESPONSES, SHARD_ROWS = 2 * 2985, 256
MEAN_TOKENS, SPREAD = 400, 0.8
DEVICES = {"A100-80G": (80e9, 312e12), "L40S-48G": (48e9, 362e12)}
"""Bytes and dense 16-bit FLOP/s, from NVIDIA's data sheets."""
MFU, ROOM, LOAD_BYTES, LOAD_START = 0.5, 1.2, 1e9, 20.0
"""Share of the peak; memory as against the weights in 16 bits; bytes a second, and seconds, of a load."""
NODE_GPUS = 8
FAILURES = Faults(lost=0.05, node_lost=0.05, node_returns=1.0)
"""An hour: 5 % of the GPUs lose their worker, 5 % of the nodes are lost and come back within ten minutes."""


@dataclass(frozen=True)
class Figure:
    """One line of the report: the mean and the worst makespan of some runs against the bound, in seconds."""

    gpus: int
    kinds: str
    failures: bool
    streams: int
    bound: float
    mean: float
    worst: float

    def __str__(self) -> str:
        faults = "5 %/h" if self.failures else "none"
        return (
            f"{self.gpus:>5} {self.kinds:<20} {faults:>7} {self.streams:>8} {self.bound:>9,.0f} {self.mean:>9,.0f} "
            f"{self.mean / self.bound:>6.3f} {self.worst / self.bound:>6.3f}"
        )


HEADER = " GPUs kinds                 faults  streams   bound s  makespan  ratio  worst"


def report(sizes: Sequence[int], runs: int) -> Iterator[Figure]:
    """Every cluster without faults and, the mean of `runs` seeds, with them."""
    for gpus in sizes:
        for kinds in (("A100-80G",), tuple(DEVICES)):
            if gpus >= len(kinds):
                nodes = cluster(gpus, kinds)
                for failures in (False, True):
                    yield figure(nodes, failures, runs if failures else 1)


def figure(nodes: Sequence[Node], failures: bool, runs: int) -> Figure:
    """The zoo on some nodes."""
    plans = [plan for plan in streams(zoo.load()) if fits(plan, nodes)]
    bound = lower_bound([plan.placements for plan in plans], nodes)
    ends = [makespan(plans, nodes, failures, seed) for seed in range(runs)]
    gpus, kinds = sum(node.gpus for node in nodes), sorted({node.kind for node in nodes})
    return Figure(gpus, "+".join(kinds), failures, len(plans), bound, sum(ends) / runs, max(ends))


def makespan(plans: Sequence[StreamPlan], nodes: Sequence[Node], failures: bool, seed: int) -> float:
    """The seconds of a simulated sweep; every row is scored, or this raises."""
    faults = FAILURES if failures else Faults()
    scenario = Scenario(tuple(plans), Capacity(tuple(nodes)), Limits(patience=3600.0), faults)
    world = World(scenario, Random(seed))
    world.run(10_000_000)
    for state in world.scheduler.streams.values():
        if state.done != state.total:
            world.fail(f"{state.spec.name}: {state.done} of {state.total} rows are scored")
    return world.now


def cluster(gpus: int, kinds: Sequence[str]) -> list[Node]:
    """Nodes of up to eight GPUs, the same number of GPUs of each kind."""
    each, nodes = gpus // len(kinds), []
    for kind in kinds:
        for number in range(-(-each // NODE_GPUS)):
            nodes.append(Node(f"{kind}-{number}", 0, min(NODE_GPUS, each - number * NODE_GPUS), kind))
    return nodes


def fits(plan: StreamPlan, nodes: Sequence[Node]) -> bool:
    """Whether some node can hold a stream's worker."""
    return any(way.kind == node.kind and way.gpus <= node.gpus for way in plan.placements for node in nodes)


def streams(models: Sequence[zoo.Listed]) -> Iterator[StreamPlan]:
    """The streams of all models that run on GPUs, each model and reference once."""
    rows = [Request("reward", (Message("user", str(row)),), ("y",)) for row in range(RESPONSES)]
    tokens = _tokens()
    seen: set[str] = set()
    for model in models:
        size = model.entry.get("size")
        if size is None or model.entry.get("engine") == "openai":
            continue
        for path in _paths(model.entry):
            if path not in seen:
                seen.add(path)
                yield _stream(path, float(size) * 1e9, rows, tokens)


def _paths(entry: Mapping[str, Any]) -> list[str]:
    return [str(entry[key]) for key in ("path", "reference") if entry.get(key)]


def _tokens() -> list[float]:
    """Tokens of every shard, the longest responses first: quantiles of a lognormal distribution."""
    normal = NormalDist(0.0, SPREAD)
    lengths = [exp(normal.inv_cdf(1 - (row + 0.5) / RESPONSES)) for row in range(RESPONSES)]
    unit = MEAN_TOKENS * RESPONSES / sum(lengths)
    return [sum(lengths[start : start + SHARD_ROWS]) * unit for start in range(0, RESPONSES, SHARD_ROWS)]


def _stream(path: str, parameters: float, rows: Sequence[Request], tokens: Sequence[float]) -> StreamPlan:
    spec = ModelSpec(path, path, path, "scalar", "1", "transformers", "1", (), gpus=1)
    shards = tuple(
        Shard(f"{path}-{number:03d}", spec.fingerprint, tuple(rows[start : start + SHARD_ROWS]))
        for number, start in enumerate(range(0, len(rows), SHARD_ROWS))
    )
    places = tuple(_placements(parameters, tokens))
    return StreamPlan(spec, len(rows), tuple(rows), (), "new model", shards, places)


def _placements(parameters: float, tokens: Sequence[float]) -> Iterator[Placement]:
    """The fewest GPUs of each kind, a power of two, whose memory holds the model; whole nodes beyond eight."""
    for kind, (memory, flops) in DEVICES.items():
        gpus = 1
        while gpus * memory < parameters * 2 * ROOM:
            gpus *= 2
        seconds = tuple(2 * parameters * count / (flops * MFU * gpus) for count in tokens)
        load = LOAD_START + 2 * parameters / LOAD_BYTES
        yield Placement(kind, gpus, max(1, gpus // NODE_GPUS), load, seconds)
