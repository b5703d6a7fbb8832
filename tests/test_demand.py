"""What a run could use, and what a cluster's machines do."""

from __future__ import annotations

from math import inf

import pytest

from orchestrator.cost import Placement
from orchestrator.demand import MACHINE_SECONDS, wanted
from orchestrator.events import Capacity, Need, Node, NodeDraining, NodeJoined, NodeLost
from orchestrator.plan import StreamPlan
from orchestrator.ray_cluster import USED, Machines, changes
from orchestrator.scheduler import Scheduler
from workers.protocol import Message, ModelSpec, Request, Shard


def plan(name: str, shards: int, seconds: float, load: float, gpus: float = 1) -> StreamPlan:
    spec = ModelSpec(name, "none", "none", "baseline", "1", "baseline", "1", (), options={"name": name}, gpus=1)
    requests = tuple(Request("reward", (Message("user", f"{name} {row}"),), ("a",)) for row in range(shards))
    pieces = tuple(Shard(f"{name}-{row}", spec.fingerprint, (asked,)) for row, asked in enumerate(requests))
    placement = Placement("A100-80G", gpus, 1, load, (seconds,) * shards)
    return StreamPlan(spec, shards, requests, ("",) * shards, "new", pieces, (placement,))


@pytest.mark.parametrize(
    ("shards", "seconds", "load", "workers"),
    [
        (100, 60.0, 600.0, 10),
        (100, 60.0, 0.0, 100 * 60 // int(MACHINE_SECONDS)),
        (3, 6000.0, 60.0, 3),
        (1, 1.0, 600.0, 1),
    ],
)
def test_a_worker_is_wanted_where_it_computes_for_longer_than_it_is_waited_for(
    shards: int, seconds: float, load: float, workers: int
) -> None:
    scheduler = Scheduler([plan("m", shards, seconds, load)], Capacity((), None, grows=True))
    scheduler.begin()
    assert wanted(scheduler.streams.values(), 0.0).needs == (Need("A100-80G", 1, 1, workers),)


def test_models_of_one_size_are_wanted_together_and_the_finished_no_more() -> None:
    streams = [plan("a", 1, 1.0, 1.0), plan("b", 1, 1.0, 1.0), plan("c", 1, 1.0, 1.0, gpus=8)]
    scheduler = Scheduler(streams, Capacity((), None, grows=True))
    scheduler.begin()
    assert wanted(scheduler.streams.values(), 0.0).needs == (Need("A100-80G", 1, 1, 2), Need("A100-80G", 8, 1, 1))
    for stream in scheduler.streams.values():
        stream.rest()
    assert wanted(scheduler.streams.values(), 0.0).needs == ()


def test_a_worker_that_runs_keeps_its_machine() -> None:
    scheduler = Scheduler([plan("a", 1, 1.0, 1.0)], Capacity((Node("n", 8, 4, "A100-80G"),)))
    scheduler.begin()
    assert wanted(scheduler.streams.values(), 0.0).needs == (Need("A100-80G", 1, 1, 1),)


def test_machines_come_go_away_stay_after_all_and_are_gone() -> None:
    nodes = {name: Node(name, 4, 0, "cpu") for name in "abcd"}
    before = Machines({name: nodes[name] for name in "abc"}, {"c": 50.0}, {})
    after = Machines({name: nodes[name] for name in "bcd"}, {"b": 120.0}, {"a": "its cable"})
    assert changes(before, after, 20.0) == [
        NodeLost("a", "its cable"),
        NodeJoined(nodes["c"]),
        NodeJoined(nodes["d"]),
        NodeDraining("b", USED * 100.0),
    ]
    assert changes(after, after, 30.0) == []


def test_a_machine_that_is_drained_without_a_deadline_stays_until_it_is_idle() -> None:
    alive = {"a": Node("a", 4, 0, "cpu")}
    assert changes(Machines(alive, {}, {}), Machines(alive, {"a": inf}, {}), 5.0) == [NodeDraining("a", inf)]
