"""The RewardBench zoo on clusters that one does not have: simulated makespan over the lower bound.

Every model file with a `size` that runs on GPUs, over as many pairs as RewardBench has; an implicit reward is two
streams. What is asked, the shards, the placements and the seconds are the planner's (docs/cost.md), for texts that have
the tokens of real ones (`bench/lengths.json`); weights lie on a local disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from orchestrator import zoo
from orchestrator.architecture import Architecture, typical
from orchestrator.benchmarks import Example
from orchestrator.cluster import of_nodes, priced
from orchestrator.events import Capacity, Node
from orchestrator.faults import Limits
from orchestrator.pin import pin_model
from orchestrator.placing import Here, Prediction, predict
from orchestrator.plan import Plan, StreamPlan, family, make_plan
from orchestrator.rates import Rates
from orchestrator.simulate.scenario import Faults, Scenario
from orchestrator.simulate.world import World
from orchestrator.work import CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS
from workers.errors import InputError
from workers.protocol import Message, Model

PAIRS, SHARD_ROWS = 2985, 256
KINDS = ("A100-80G", "L40S-48G")
NODE_GPUS = 8
FAILURES = Faults(lost=0.05, node_lost=0.05, node_returns=1.0)
"""An hour: 5 % of the GPUs lose their worker, 5 % of the nodes are lost and come back within ten minutes."""


@dataclass(frozen=True)
class Figure:
    """One line of the report: the mean and the worst makespan of some runs against the bound, in seconds.

    `planned` is what the planner promises for the same cluster.
    """

    gpus: int
    kinds: str
    failures: bool
    streams: int
    bound: float
    planned: float
    mean: float
    worst: float

    def __str__(self) -> str:
        faults = "5 %/h" if self.failures else "none"
        return (
            f"{self.gpus:>5} {self.kinds:<20} {faults:>7} {self.streams:>8} {self.bound:>9,.0f} {self.planned:>9,.0f} "
            f"{self.mean:>9,.0f} {self.mean / self.bound:>6.3f} {self.worst / self.bound:>6.3f}"
        )


HEADER = " GPUs kinds                 faults  streams   bound s   planned  makespan  ratio  worst"


def report(lengths: Path, sizes: Sequence[int], runs: int) -> Iterator[Figure]:
    """Every cluster without faults and, the mean of `runs` seeds, with them."""
    for gpus in sizes:
        for kinds in (KINDS[:1], KINDS):
            if gpus >= len(kinds):
                nodes = cluster(gpus, kinds)
                for failures in (False, True):
                    yield figure(lengths, nodes, failures, runs if failures else 1)


def figure(lengths: Path, nodes: Sequence[Node], failures: bool, runs: int) -> Figure:
    """The zoo on some nodes."""
    found = predicted(lengths, tuple(nodes))
    plans = [plan for plan in found.plan.streams.values() if plan.spec.fingerprint in found.forecast.shares]
    ends = [makespan(plans, nodes, failures, seed) for seed in range(runs)]
    gpus, kinds = sum(node.gpus for node in nodes), sorted({node.kind for node in nodes})
    least, planned = found.forecast.bound, found.forecast.makespan
    return Figure(gpus, "+".join(kinds), failures, len(plans), least, planned, sum(ends) / runs, max(ends))


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


@cache
def predicted(lengths: Path, nodes: tuple[Node, ...]) -> Prediction:
    """What the planner says of the zoo on some nodes; streams that have no place there are left out of its forecast."""
    plan, shapes = planned(lengths)
    return predict(plan, Here(priced({}), of_nodes(nodes), Rates(), shapes, frozenset(plan.streams)))


@cache
def planned(lengths: Path) -> tuple[Plan, Mapping[str, Architecture]]:
    """The plan of the zoo, and the shape of every stream."""
    listed = [one for one in zoo.load() if one.entry.get("size") and one.entry.get("engine") != "openai"]
    models = [(pin_model(one.name, one.entry, cuda=True, hub=False), one.entry) for one in listed]
    shapes = {spec: shape for model, entry in models for spec, shape in _shapes(model, entry)}
    return make_plan([model for model, _ in models], {"zoo": examples(lengths)}, {}, {}, SHARD_ROWS), shapes


def _shapes(model: Model, entry: Mapping[str, Any]) -> Iterator[tuple[str, Architecture]]:
    members = list((entry.get("members") or {}).values())
    for at, spec in enumerate(model.streams):
        own = {**entry, **(members[at] if at < len(members) else {})}
        head = family(spec.family).KIND in ("logprob", "generate")
        yield spec.fingerprint, typical(float(own["size"]), head, own.get("active"))


def examples(lengths: Path) -> list[Example]:
    """Pairs of made-up texts that have the tokens of real ones, in turn; no two are the same."""
    try:
        known = json.loads(lengths.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{lengths}: no lengths can be read ({error}); give bench/lengths.json") from error
    return [_example(row, *known[row % len(known)]) for row in range(PAIRS)]


def _example(row: int, prompt: int, shared: int, chosen: int, rejected: int) -> Example:
    """A pair that shares as much, in tokens of whole conversations. The template's tokens stand before the prompt."""
    start = _text(f"{row} ", max(shared, prompt) - TEMPLATE_TOKENS)
    ends = (_text(side, whole - max(shared, prompt)) for side, whole in (("+", chosen), ("-", rejected)))
    return Example("zoo", str(row), (Message("user", start),), tuple(ends))


def _text(start: str, tokens: int) -> str:
    """A text that begins so and is estimated at so many tokens."""
    return start.ljust(round(max(1, tokens) * CHARACTERS_PER_TOKEN), "x")
