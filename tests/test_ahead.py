"""Fetching ahead: the most urgent model that waits comes to the machine that is free next, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.ahead import Ahead
from orchestrator.cost import Placement
from orchestrator.events import Capacity, Command, Done, Fetch, Linted, Node, Ready, Start
from orchestrator.plan import StreamPlan
from orchestrator.scheduler import Scheduler
from workers.protocol import Message, ModelSpec, Request, Shard, ShardReport

SPEC = ModelSpec("m", "org/m", "hub:1", "scalar", "1", "transformers", "1", (("torch", "2"),), revision="c" * 40)


def stream(name: str, seconds: float, revision: str | None = "c" * 40) -> StreamPlan:
    """One shard that takes so long on a GPU."""
    spec = replace(SPEC, name=name, path=f"org/{name}", weights=f"hub:{name}", revision=revision, gpus=1)
    request = Request("reward", (Message("user", name),), ("answer",))
    shard = Shard(f"{name}-0", spec.fingerprint, (request,))
    placement = Placement("", 1, 1, 1.0, (seconds,))
    return StreamPlan(spec, 1, (request,), ("s",), "new", (shard,), (placement,))


def begun(streams: Sequence[StreamPlan], nodes: int) -> tuple[Scheduler, Ahead, list[Fetch], dict[str, Start]]:
    scheduler = Scheduler(streams, Capacity(tuple(Node(f"n{at}", 1, 1, "") for at in range(nodes))))
    ahead, commands = Ahead(), scheduler.begin()
    starts = {command.spec.name: command for command in commands if isinstance(command, Start)}
    return scheduler, ahead, ahead.watch(commands, scheduler), starts


def names(fetches: Sequence[Fetch]) -> list[tuple[str, str]]:
    return [(fetch.spec.name, fetch.node) for fetch in fetches]


def test_the_most_urgent_goes_where_a_machine_is_free_first() -> None:
    _, _, fetches, starts = begun(
        [stream(name, size) for name, size in zip("abcde", (90, 80, 40, 30, 20), strict=True)], 2
    )
    assert set(starts) == {"a", "b"}
    (first,), (second,) = starts["b"].nodes, starts["a"].nodes
    assert names(fetches) == [("c", first), ("d", second)]


def test_each_is_fetched_once_and_the_next_when_its_turn_comes() -> None:
    scheduler, ahead, fetches, starts = begun(
        [stream(name, size) for name, size in zip("abc", (9, 8, 7), strict=True)], 1
    )
    assert names(fetches) == [("b", "n0")]
    seen: list[Command] = []
    number = starts["a"].worker
    report = ShardReport(1, 1, 1.0, 0)
    for event in (Linted(number, ()), Ready(number, 1.0), Done(number, "a-0", report)):
        commands = scheduler.handle(event)
        seen += ahead.watch(commands, scheduler)
    assert [(command.spec.name, command.node) for command in seen if isinstance(command, Fetch)] == [("c", "n0")]


def test_a_folder_of_this_machine_is_not_fetched() -> None:
    _, _, fetches, _ = begun([stream("a", 9), stream("b", 8, revision=None), stream("c", 7)], 1)
    assert names(fetches) == [("c", "n0")]
