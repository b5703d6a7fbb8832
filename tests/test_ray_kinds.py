"""Which GPUs the machines of a Ray cluster have, by the names that Ray gives them; and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster import of_nodes, told_by_ray
from orchestrator.cost import CPU, GPUS, Offer
from orchestrator.events import Capacity, Need, Node, Start
from orchestrator.plan import StreamPlan
from orchestrator.ray_cluster import node_of
from orchestrator.ray_pool import SOME, bundles
from orchestrator.scheduler import Scheduler
from tests.test_scheduler_faults import placed

# isort: split
# `ray_cluster` sets what Ray reads when it is imported
from ray.util.accelerators import accelerators

KNOWN = [gpu for gpu in GPUS.values() if gpu.ray]


def machine(name: str, gpus: float, *resources: str, label: str | None = None, cpus: float = 8) -> Mapping[str, Any]:
    """As `ray.nodes()` tells of it."""
    counts = {"CPU": cpus, "memory": 1e9, f"node:{name}": 1.0, **dict.fromkeys(resources, 1.0)}
    labels = {"ray.io/node-id": name} | ({"ray.io/accelerator-type": label} if label else {})
    return {"NodeID": name, "Alive": True, "Resources": counts | ({"GPU": gpus} if gpus else {}), "Labels": labels}


@pytest.mark.parametrize(
    ("resources", "label", "kind"),
    [
        (["accelerator_type:A100"], "A100", "A100-40G"),
        (["accelerator_type:A100", "accelerator_type:A100-80G"], "A100", "A100-80G"),
        (["accelerator_type:A100"], "A100-80G", "A100-80G"),
        (["accelerator_type:A100-40G"], None, "A100-40G"),
        ([], "H200", "H200-141G"),
        (["accelerator_type:H100"], None, "H100-80G"),
        (["accelerator_type:B200"], None, "B200-180G"),
        (["accelerator_type:L40S"], "L40S", "L40S-48G"),
        (["accelerator_type:L4"], None, "L4-24G"),
        (["accelerator_type:A10G"], None, "A10G-24G"),
        (["accelerator_type:T4"], "T4", "T4"),
        (["accelerator_type:T4", "accelerator_type:L4"], None, "L4-24G"),
        ([], None, ""),
    ],
)
def test_a_kind_is_read_from_resources_and_labels(resources: list[str], label: str | None, kind: str) -> None:
    assert node_of(machine("n", 4, *resources, label=label), kinds=True) == Node("n", 8, 4, kind)
    assert node_of(machine("n", 4, *resources, label=label), kinds=False).kind == ""


def test_a_machine_without_gpus_has_slots_only() -> None:
    assert node_of(machine("n", 0, "accelerator_type:L4"), kinds=True) == Node("n", 8, 0, CPU)


def test_every_kind_of_ours_is_known_by_the_name_that_ray_has_for_it() -> None:
    names = {name for name in vars(accelerators).values() if isinstance(name, str)}
    for gpu in KNOWN:
        assert gpu.ray in names
        assert GPUS[told_by_ray([gpu.ray])[0]].ray == gpu.ray
        assert told_by_ray([gpu.name, gpu.ray]) == (gpu.name, gpu.name)


@given(
    st.lists(st.sampled_from(sorted({*GPUS, *(gpu.ray for gpu in KNOWN), "T4", "V100", "MI300X"} - {CPU})), min_size=1)
)
def test_a_name_of_ours_wins_and_the_order_is_nothing(names: list[str]) -> None:
    kind, name = told_by_ray(names)
    assert told_by_ray(reversed(names)) == (kind, name)
    assert name in names
    assert kind in names or not set(names) & set(GPUS)
    if kind not in GPUS:
        assert not {gpu.ray for gpu in KNOWN} & set(names)


def test_the_planner_counts_machines_of_unequal_size_and_leaves_out_what_it_does_not_know() -> None:
    states = [
        machine("a", 8, "accelerator_type:A100", "accelerator_type:A100-80G"),
        machine("b", 8, "accelerator_type:A100", "accelerator_type:A100-80G"),
        machine("c", 2, label="A100-80G"),
        machine("d", 1, "accelerator_type:L4"),
        machine("e", 4, "accelerator_type:T4"),
        machine("f", 0),
    ]
    nodes = [node_of(state, kinds=True) for state in states]
    eights, pair = Offer("A100-80G", 16, 8), Offer("A100-80G", 2, 2)
    assert of_nodes(nodes) == (pair, eights, Offer("L4-24G", 1, 1), Offer(CPU, 48, 1))
    assert of_nodes([]) == (Offer(CPU, 1, 1),)


def starts(plans: list[StreamPlan], *states: Mapping[str, Any]) -> dict[str, str]:
    """Where each model's first worker goes."""
    nodes = tuple(node_of(state, kinds=True) for state in states)
    commands = Scheduler(plans, Capacity(nodes)).begin()
    return {command.spec.name: command.nodes[0] for command in commands if isinstance(command, Start)}


def test_a_worker_goes_to_a_machine_of_the_kind_it_was_planned_for() -> None:
    states = [machine("small", 1, "accelerator_type:L4"), machine("large", 1, "accelerator_type:H100")]
    large = placed("large-model", [10.0] * 4, 1, ["H100-80G"])
    small = placed("small-model", [10.0], 1, ["L4-24G"])
    assert starts([small, large], *states) == {"large-model": "large", "small-model": "small"}
    assert starts([large], states[0]) == {}, "it does not fit there"


def test_a_kind_without_figures_takes_what_nothing_is_known_of() -> None:
    planned, unknown = placed("planned", [10.0] * 4, 1, ["L4-24G"]), placed("unknown", [10.0], 1, [""])
    states = [machine("t4", 1, "accelerator_type:T4"), machine("l4", 1, "accelerator_type:L4")]
    assert starts([planned, unknown], *states) == {"planned": "l4", "unknown": "t4"}


def test_an_unnamed_machine_takes_any_kind() -> None:
    assert starts([placed("m", [10.0], 1, ["L4-24G"])], machine("n", 1)) == {"m": "n"}


def test_the_autoscaler_is_asked_by_the_name_that_the_machines_tell() -> None:
    names = {"A100-80G": "accelerator_type:A100-80G"}
    two = [{"GPU": 4.0, "accelerator_type:A100-80G": SOME}] * 2
    assert bundles(Need("A100-80G", 8, 2, 1), names) == two
    assert bundles(Need("L4-24G", 1, 1, 2), names) == [{"GPU": 1.0}] * 2
    assert bundles(Need("cpu", 0, 1, 2), names) == [{"CPU": 1.0}] * 2
