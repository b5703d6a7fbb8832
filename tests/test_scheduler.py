"""The scheduler's policy, as short scripts: what is said to it, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.events import (
    Assign,
    Capacity,
    Check,
    Command,
    Done,
    Event,
    Failed,
    Lint,
    Linted,
    Load,
    Lost,
    Node,
    Ready,
    Start,
    Stop,
)
from orchestrator.faults import Limits
from orchestrator.plan import StreamPlan
from orchestrator.scheduler import Scheduler
from workers.errors import EngineError, ModelError, StoreError
from workers.protocol import Finding, Message, ModelSpec, Request, Shard, ShardReport

ROWS = 2
ERROR = Finding("template", "error", "no chat template")
WARNING = Finding("truncated", "warning", "too long")


def stream(name: str, shards: int = 1, gpus: int = 0, length: int = 1) -> StreamPlan:
    """A model `name` that owes shards `name0`, `name1`, ... of ROWS requests, each text `length` times as long."""
    spec = ModelSpec(name, "none", name, "baseline", "1", "baseline", "1", (), gpus=gpus)
    owed = [
        Request("reward", (Message("user", f"{name}{row:03d}" * length),), ("yes",)) for row in range(shards * ROWS)
    ]
    parts = [
        Shard(f"{name}{part}", spec.fingerprint, tuple(owed[part * ROWS : (part + 1) * ROWS])) for part in range(shards)
    ]
    return StreamPlan(spec, len(owed), tuple(owed), ("b/s",) * len(owed), "new model", tuple(parts))


def told(commands: Sequence[Command]) -> str:
    """Commands as one line, so that a script reads like a protocol."""
    words = []
    for command in commands:
        what = {Start: "start", Lint: "lint", Load: "load", Assign: "score", Stop: "stop", Check: "check"}[
            type(command)
        ]
        detail = command.spec.name if isinstance(command, Start) else ""
        detail = command.shard.id if isinstance(command, Assign) else detail
        whom = command.node if isinstance(command, Check) else command.worker
        words.append(f"{what} {whom} {detail}".strip())
    return ", ".join(words)


def scheduler_of(*plans: StreamPlan, cpus: int = 1, gpus: int = 0, limits: Limits | None = None) -> Scheduler:
    return Scheduler(plans, Capacity((Node("n", cpus, gpus, "A" if gpus else "cpu"),)), limits)


def done(worker: int, shard: str = "", seconds: float = 0.5) -> Done:
    """The end of a shard; of the one that the worker has, where none is named."""
    return Done(worker, shard, ShardReport(ROWS, 20, seconds, 0))


def named(scheduler: Scheduler, event: Event) -> Event:
    """An event; the end of a shard with the name of the one that its worker has, unless it has one."""
    if not isinstance(event, Done) or event.shard:
        return event
    piece = scheduler.workers[event.worker].piece
    return replace(event, shard=piece.name if piece else "")


def play(scheduler: Scheduler, *events: Event) -> str:
    """Feed events; what was said to the last one."""
    commands: list[Command] = []
    for event in events:
        commands = scheduler.handle(named(scheduler, event))
    return told(commands)


def busy(*plans: StreamPlan, limits: Limits | None = None) -> Scheduler:
    """A scheduler on one CPU slot whose first worker, number 0, has its first shard."""
    scheduler = scheduler_of(*plans, limits=limits)
    scheduler.begin()
    play(scheduler, Linted(0, ()), Ready(0, 1.0))
    return scheduler


def account(scheduler: Scheduler) -> dict[str, tuple[int, int, str | None]]:
    """Done rows, failed rows and the reason for giving up, by model."""
    return {state.spec.name: (state.done, state.failed_rows, state.failed) for state in scheduler.streams.values()}


def test_a_worker_has_one_model_for_life_and_lints_before_it_loads() -> None:
    scheduler = scheduler_of(stream("a", shards=2), stream("b"))
    assert told(scheduler.begin()) == "start 0 a, lint 0"
    assert play(scheduler, Linted(0, (WARNING,))) == "load 0"
    assert play(scheduler, Ready(0, 1.0)) == "score 0 a0"
    assert play(scheduler, done(0)) == "score 0 a1"
    assert play(scheduler, done(0)) == "stop 0, start 1 b, lint 1"
    assert not scheduler.finished
    assert play(scheduler, Linted(1, ()), Ready(1, 1.0), done(1)) == "stop 1"
    assert scheduler.finished
    assert account(scheduler) == {"a": (4, 0, None), "b": (2, 0, None)}


def test_the_largest_stream_comes_first_whatever_the_order() -> None:
    plans = [stream("a"), stream("b", length=9), stream("c", length=3)]
    for order in (plans, plans[::-1]):
        assert told(scheduler_of(*order, cpus=3).begin()) == "start 0 b, lint 0, start 1 c, lint 1, start 2 a, lint 2"


def test_nothing_owed_is_nothing_done() -> None:
    spec = stream("a").spec
    scheduler = scheduler_of(StreamPlan(spec, 7, (), (), "all in the store", ()))
    assert scheduler.begin() == []
    assert scheduler.finished


def test_streams_without_a_worker_come_before_replicas() -> None:
    scheduler = scheduler_of(stream("a", shards=9, length=9), stream("b"), cpus=3)
    assert told(scheduler.begin()) == "start 0 a, lint 0, start 1 b, lint 1", "no replica before the preflight is done"
    assert play(scheduler, Linted(0, ())) == "load 0, start 2 a, load 2", "a replica does not lint again"


@pytest.mark.parametrize(("shards", "workers"), [(8, 1), (9, 2), (12, 2), (13, 3)])
def test_a_replica_starts_only_while_the_queue_pays_for_its_load(shards: int, workers: int) -> None:
    scheduler = scheduler_of(stream("a", shards), cpus=9)
    scheduler.begin()
    play(scheduler, Linted(0, ()))
    assert len(scheduler.workers) == workers


def test_a_replica_goes_where_a_worker_has_the_most_to_do() -> None:
    plans = [stream("a", shards=30), stream("b", shards=25), stream("c"), stream("d")]
    scheduler = scheduler_of(*plans, cpus=4)
    scheduler.begin()
    for worker in range(4):
        assert play(scheduler, Linted(worker, ())) == f"load {worker}"
    assert play(scheduler, Ready(2, 1.0), done(2)) == "stop 2, start 4 a, load 4", (
        "30 shards for one against 25 for one"
    )
    assert play(scheduler, Ready(3, 1.0), done(3)) == "stop 3, start 5 b, load 5", "30 for two against 25 for one"


def test_a_lost_workers_shard_returns_at_the_end_of_the_queue() -> None:
    scheduler = busy(stream("a", shards=2))
    assert play(scheduler, Lost(0, "killed")) == "start 1 a, load 1"
    assert play(scheduler, Ready(1, 1.0)) == "score 1 a1"
    assert play(scheduler, done(1)) == "score 1 a0"
    assert play(scheduler, done(1)) == "stop 1"
    assert account(scheduler) == {"a": (4, 0, None)}


def test_a_preemption_does_not_count() -> None:
    scheduler = busy(stream("a"), limits=Limits(max_attempts=1))
    for worker in range(5):
        assert play(scheduler, Lost(worker, "node", preempted=True)) == f"start {worker + 1} a, load {worker + 1}"
        assert play(scheduler, Ready(worker + 1, 1.0)) == f"score {worker + 1} a0"
    assert play(scheduler, done(5)) == "stop 5"
    assert account(scheduler) == {"a": (2, 0, None)}


def test_a_preemption_before_the_weights_are_loaded_does_not_count_either() -> None:
    scheduler = scheduler_of(stream("a"), limits=Limits(max_attempts=1))
    scheduler.begin()
    assert play(scheduler, Lost(0, "node", preempted=True)) == "start 1 a, lint 1"
    assert play(scheduler, Linted(1, ()), Lost(1, "node", preempted=True)) == "start 2 a, load 2"


def test_a_failed_shard_is_tried_again_by_a_fresh_worker() -> None:
    scheduler = busy(stream("a"))
    assert play(scheduler, Failed(0, EngineError("odd"))) == "stop 0, start 1 a, load 1"


def test_a_request_without_a_score_is_one_failed_row_and_the_worker_goes_on() -> None:
    plan = stream("a", shards=2)
    scheduler = busy(plan)
    report = ShardReport(ROWS - 1, 20, 0.5, 0, ((plan.owed[1], "does not fit"),))
    assert play(scheduler, Done(0, "a0", report)) == "score 0 a1"
    assert play(scheduler, done(0)) == "stop 0"
    assert account(scheduler) == {"a": (2 * ROWS - 1, 1, None)}
    ((shard, reason),) = scheduler.streams[plan.spec.fingerprint].failures
    assert (shard.id, shard.requests, reason) == ("a0", (plan.owed[1],), "does not fit")


def test_a_model_error_gives_up_its_model_only() -> None:
    scheduler = busy(stream("a", shards=3), stream("b"))
    assert play(scheduler, Failed(0, ModelError("no head"))) == "stop 0, start 1 b, lint 1"
    play(scheduler, Linted(1, ()), Ready(1, 1.0), done(1))
    assert account(scheduler) == {"a": (0, 6, "no head"), "b": (2, 0, None)}


def test_a_model_error_stops_all_workers_of_its_model() -> None:
    scheduler = scheduler_of(stream("a", shards=9), cpus=2)
    scheduler.begin()
    play(scheduler, Linted(0, ()), Ready(0, 1.0), Ready(1, 1.0))
    assert play(scheduler, Failed(1, ModelError("no head"))) == "stop 1, stop 0"
    assert account(scheduler) == {"a": (0, 18, "no head")}


def test_a_preflight_error_gives_up_the_model_before_any_load() -> None:
    scheduler = scheduler_of(stream("a"))
    scheduler.begin()
    assert play(scheduler, Linted(0, (WARNING, ERROR))) == "stop 0"
    assert account(scheduler) == {"a": (0, 2, "preflight: no chat template")}


def test_loads_are_tried_again_and_then_given_up() -> None:
    scheduler = scheduler_of(stream("a"), limits=Limits(max_attempts=2))
    scheduler.begin()
    assert play(scheduler, Linted(0, ()), Failed(0, EngineError("driver"))) == "stop 0, start 1 a, load 1"
    assert play(scheduler, Lost(1, "killed")) == ""
    assert account(scheduler) == {"a": (0, 2, "worker lost: killed")}


def test_a_store_that_stays_broken_aborts_everything() -> None:
    scheduler = busy(stream("a", shards=2), stream("b"), limits=Limits(max_attempts=2))
    assert play(scheduler, Failed(0, StoreError("disk full")), Ready(1, 1.0), done(1)) == "score 1 a0"
    assert scheduler.aborted is None, "one failure may pass"
    assert play(scheduler, Failed(1, StoreError("disk full"))) == "stop 1"
    assert str(scheduler.aborted) == "disk full"
    assert [(*state.failures[0][1:], state.done, state.failed_rows) for state in scheduler.streams.values()] == [
        ("disk full", 2, 2),
        ("run aborted", 0, 2),
    ]


def test_a_model_that_is_complete_is_not_given_up_by_a_late_abort() -> None:
    scheduler = busy(stream("a", length=9), stream("b"), limits=Limits(max_attempts=1))
    play(scheduler, done(0), Linted(1, ()), Ready(1, 1.0), Failed(1, StoreError("disk full")))
    assert account(scheduler)["a"] == (2, 0, None)


def test_a_replica_that_comes_too_late_cannot_spoil_a_complete_model() -> None:
    scheduler = scheduler_of(stream("a", shards=9), cpus=2)
    scheduler.begin()
    assert play(scheduler, Linted(0, ())) == "load 0, start 1 a, load 1"
    play(scheduler, Ready(0, 1.0), *[done(0)] * 8)
    assert play(scheduler, done(0)) == "stop 0, stop 1", "who still loads has nothing to wait for"
    assert play(scheduler, Failed(1, ModelError("no room"))) == ""
    assert account(scheduler) == {"a": (18, 0, None)}


def test_gpus_are_never_promised_twice() -> None:
    plans = [stream(name, gpus=2, length=length) for name, length in (("a", 3), ("b", 2), ("c", 1))]
    scheduler = scheduler_of(*plans, stream("d", gpus=1, length=2), stream("e"), cpus=1, gpus=3)
    assert told(scheduler.begin()) == "start 0 a, lint 0, start 1 d, lint 1, start 2 e, lint 2"
    assert play(scheduler, Linted(0, ()), Ready(0, 1.0), done(0)) == "stop 0, start 3 b, lint 3"


def test_a_model_that_no_machine_can_hold_is_given_up_at_once() -> None:
    scheduler = scheduler_of(stream("a", gpus=4), stream("b"), cpus=1, gpus=3)
    assert told(scheduler.begin()) == "start 0 b, lint 0"
    assert account(scheduler)["a"] == (0, 2, "needs 4 GPUs, the cluster has 3")
    scheduler = scheduler_of(stream("b"), cpus=0, gpus=3)
    assert scheduler.begin() == []
    assert account(scheduler)["b"] == (0, 2, "needs a CPU slot, the cluster has none")


@pytest.mark.parametrize(
    "late", [Linted(0, (ERROR,)), Ready(0, 1.0), done(0), Failed(0, StoreError("x")), Lost(0, "x")]
)
def test_events_of_workers_that_are_gone_mean_nothing(late: Event) -> None:
    scheduler = busy(stream("a"))
    play(scheduler, Lost(0, "killed"))
    before = account(scheduler)
    assert scheduler.handle(late) == []
    assert account(scheduler) == before
    assert set(scheduler.workers) == {1}


def test_replicas_that_cannot_load_leave_the_healthy_worker_alone() -> None:
    scheduler = scheduler_of(stream("a", shards=40), cpus=2)
    scheduler.begin()
    play(scheduler, Linted(0, ()), Ready(0, 1.0), done(0))
    for _ in range(scheduler.limits.max_attempts):
        replica = max(scheduler.workers)
        assert replica != 0
        play(scheduler, Failed(replica, EngineError("gpu 1 is bad")))
    assert list(scheduler.workers) == [0], "no further replica is tried"
    while scheduler.workers:
        play(scheduler, done(0))
    assert account(scheduler)["a"] == (40 * ROWS, 0, None)


def test_a_large_model_is_not_kept_waiting_by_replicas() -> None:
    """Two small models have a GPU each; what the first one frees is left to the model that needs both."""
    plans = [stream("a", shards=1, gpus=1, length=9), stream("b", shards=8, gpus=1), stream("c", shards=2, gpus=2)]
    scheduler = scheduler_of(*plans, gpus=2)
    names = [command.spec.name for command in scheduler.begin() if isinstance(command, Start)]
    assert sorted(names) == ["a", "b"]
    a, b = names.index("a"), names.index("b")
    play(scheduler, Linted(a, ()), Ready(a, 1.0), Linted(b, ()), Ready(b, 1.0))
    assert play(scheduler, done(a)) == f"stop {a}", "no replica of b on the GPU that c waits for"
    for _ in range(7):
        play(scheduler, done(b))
    assert "c" in play(scheduler, done(b))
