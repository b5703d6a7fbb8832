"""The zoo's figures, and the bound that they are held against."""

from __future__ import annotations

import random

import pytest

from orchestrator.bound import lower_bound
from orchestrator.cost import Offer, Placement
from orchestrator.events import Capacity, Node
from orchestrator.plan import StreamPlan
from orchestrator.simulate import zoo
from orchestrator.simulate.__main__ import main
from orchestrator.simulate.scenario import Scenario
from orchestrator.simulate.world import World
from tests.conftest import ROOT
from tests.test_scheduler_faults import placed

CLOSE = 2e-3
LENGTHS = ROOT / "bench" / "lengths.json"


def test_one_model_on_two_gpus_shares_its_work_after_two_loads() -> None:
    way = Placement("A", 1, 1, 10.0, (10.0,) * 10)
    assert lower_bound([[way]], [Offer("A", 2, 2)]) == pytest.approx(60.0, rel=CLOSE)


def test_a_long_shard_cannot_be_divided() -> None:
    way = Placement("A", 1, 1, 10.0, (100.0, 1.0))
    assert lower_bound([[way]], [Offer("A", 64)]) == pytest.approx(110.0, rel=CLOSE)


def test_every_model_is_loaded_at_least_once() -> None:
    way = Placement("A", 1, 1, 10.0, (5.0,))
    assert lower_bound([[way]] * 8, [Offer("A", 2, 2)]) == pytest.approx(60.0, rel=CLOSE)


def test_two_kinds_share_what_both_can_hold() -> None:
    """30 s on either, of which each GPU does half; the loads are taken once, split as the work is."""
    ways = [Placement(kind, 1, 1, 0.0, (1.0,) * 30) for kind in "AB"]
    assert lower_bound([ways], [Offer("A", 1), Offer("B", 1)]) == pytest.approx(15.0, rel=CLOSE)


def test_a_model_without_a_place_has_no_bound() -> None:
    with pytest.raises(ValueError, match="no place"):
        lower_bound([[Placement("A", 4, 1, 1.0, (1.0,))]], [Offer("A", 2, 2)])


@pytest.mark.parametrize("seed", range(60))
def test_no_simulated_sweep_ends_before_the_bound(seed: int) -> None:
    draw = random.Random(seed)
    nodes = [Node(f"n{number}", 0, draw.choice((1, 2, 4)), draw.choice("AB")) for number in range(draw.randint(1, 3))]
    nodes.append(Node("both", 0, 4, "A"))
    plans: list[StreamPlan] = []
    for number in range(draw.randint(1, 5)):
        seconds = [draw.uniform(1, 50) for _ in range(draw.randint(1, 9))]
        kinds, gpus = draw.choice(("A", "AB")), draw.choice((0.5, 1, 2))
        plans.append(placed(f"m{number}", seconds, gpus, kinds, load=draw.uniform(0, 40)))
    world = World(Scenario(tuple(plans), Capacity(tuple(nodes))), draw)
    world.run()
    assert all(state.done == state.total for state in world.scheduler.streams.values())
    offers = [Offer(node.kind, node.gpus, node.gpus) for node in nodes]
    assert world.now >= lower_bound([plan.placements for plan in plans], offers) * (1 - CLOSE)


def test_64_equal_gpus_come_within_five_percent_of_the_bound() -> None:
    found = zoo.figure(LENGTHS, zoo.cluster(64, ["A100-80G"]), failures=False, runs=1)
    assert found.mean / found.bound <= 1.05


def test_64_mixed_gpus_with_failures_come_within_twenty_percent() -> None:
    found = zoo.figure(LENGTHS, zoo.cluster(64, ["A100-80G", "L40S-48G"]), failures=True, runs=3)
    assert found.mean / found.bound <= 1.20


def test_the_command_reports_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "--lengths", str(LENGTHS), "--gpus", "1", "--runs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["1", "A100-80G", faults] for faults in ("none", "5")]
