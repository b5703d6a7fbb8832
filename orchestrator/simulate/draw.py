"""Small random runs from a seed: any machines, any models, any day."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import inf
from random import Random

from orchestrator.cost import CPU, Placement
from orchestrator.events import Capacity, Node
from orchestrator.faults import Limits
from orchestrator.plan import StreamPlan
from orchestrator.simulate.checks import check_end, check_step
from orchestrator.simulate.scenario import Faults, Scenario, Violation
from orchestrator.simulate.world import World
from workers.protocol import Message, ModelSpec, Request, Shard

KINDS = ("A100-80G", "L40S-48G")
MAX_STEPS = 20_000
COMMAND = "python -m orchestrator.simulate --seed {seed}"


def simulate(seed: int) -> World:
    """The run that belongs to a seed, checked; `Violation` says how to see it again."""
    random = Random(seed)
    try:
        return simulate_with(random)
    except Violation as error:
        raise Violation(f"{error}; replay: {COMMAND.format(seed=seed)}") from error


def simulate_with(random: Random) -> World:
    """A run whose every choice comes from `random`, checked after every step."""
    world = World(scenario(random), random, check_step)
    world.run(MAX_STEPS)
    check_end(world)
    return world


def scenario(random: Random) -> Scenario:
    """One to five models on one to four machines; the first choices say how bad the day is."""
    faults = _faults(random, random.choice((0.0, 0.3, 1.0, 3.0)))
    nodes = tuple(_node(random, number) for number in range(random.randint(1, 4)))
    streams = tuple(_stream(random, number) for number in range(random.randint(1, 5)))
    names = [plan.spec.fingerprint for plan in streams]
    rows = [row for plan in streams for row in plan.owed]
    limits = Limits(
        max_attempts=random.randint(1, 3),
        deadline=random.choice((inf, inf, inf, 300.0, 1000.0)),
        patience=random.choice((0.0, 0.0, 900.0)),
    )
    return Scenario(
        streams,
        Capacity(nodes, random.choice((None, None, None, 1, 3)), grows=random.random() < 0.2),
        limits,
        faults,
        priorities={name: random.choice((0, 0, 1)) for name in names},
        pace={name: random.choice((1.0, 0.5, 2.0)) for name in names},
        killers=frozenset(random.sample(rows, random.choice((0, 0, 1, min(3, len(rows)))))),
        never=frozenset(name for name in names if random.random() < 0.05),
    )


def _faults(random: Random, badness: float) -> Faults:
    """Each kind of fault on two days of three, where there are any."""
    worst = Faults(
        lost=6.0,
        preempted=0.4,
        node_lost=1.0,
        node_drained=2.0,
        node_stays=0.4,
        node_returns=0.7,
        load_fails=0.1,
        hub_fails=0.1,
        shard_fails=0.03,
        model_fails=0.02,
        gpu_fails=0.02,
        gpu_dies=0.3,
        slow=0.1,
        duplicate=0.2,
        store_refuses=0.02,
        store_slow=2.0,
        jump=0.02,
        unscored=0.02,
    )
    chosen = {name: value * badness if random.random() < 0.67 else 0.0 for name, value in vars(worst).items()}
    odds = {
        name: min(value, 0.9)
        for name, value in chosen.items()
        if name not in ("lost", "node_lost", "node_drained", "store_slow")
    }
    return replace(worst, **{**chosen, **odds}) if badness else Faults()


def _node(random: Random, number: int) -> Node:
    gpus = random.choice((0, 1, 2, 4, 8))
    return Node(f"n{number}", random.randint(0, 2) if gpus else 2, gpus, random.choice(KINDS) if gpus else CPU)


def _stream(random: Random, number: int) -> StreamPlan:
    """A model of 1 to 12 shards; some have placements, some only say how many GPUs they need."""
    gpus = random.choice((0, 0.25, 0.5, 1, 1, 2, 4, 8))
    plan = _plan(number, int(gpus + 0.75), random.randint(1, 12), random.randint(1, 5))
    if gpus in (0, 1, 2) and random.random() < 0.4:
        return plan
    return replace(plan, placements=tuple(_placements(random, plan, gpus)))


def _placements(random: Random, plan: StreamPlan, gpus: float) -> list[Placement]:
    pace = random.choice((0.1, 1.0, 1.0))
    seconds = [pace * random.uniform(1, 10) * len(shard.requests) for shard in plan.shards]
    load, nodes = random.uniform(5, 60), random.choice((1, 2)) if gpus >= 2 else 1
    if gpus == 0:
        return [Placement(CPU, 0, 1, load, tuple(seconds))]
    kinds = random.sample(KINDS, random.randint(1, 2))
    ways = [Placement(kind, gpus, nodes, load, _scaled(seconds, random.uniform(0.5, 2))) for kind in kinds]
    return [*ways, Placement(CPU, 0, 1, load, _scaled(seconds, 30.0))] if random.random() < 0.2 else ways


def _scaled(seconds: list[float], factor: float) -> tuple[float, ...]:
    return tuple(second * factor for second in seconds)


@cache
def _plan(number: int, gpus: int, shards: int, rows: int) -> StreamPlan:
    spec = ModelSpec(f"m{number}", "none", f"w{number}", "baseline", "1", "baseline", "1", (), gpus=gpus)
    parts = []
    for part in range(shards):
        texts = [f"{number}/{part}/{row}" for row in range(1 + (part + rows) % 5)]
        requests = tuple(Request("reward", (Message("user", text),), ("y",)) for text in texts)
        parts.append(Shard(f"{number}-{part:03d}", spec.fingerprint, requests))
    owed = tuple(request for shard in parts for request in shard.requests)
    return StreamPlan(spec, len(owed), owed, ("b/s",) * len(owed), "new model", tuple(parts))
