"""What the scheduler does about faults, as short scripts; `test_simulate` plays them at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.cost import Placement
from orchestrator.events import (
    Capacity,
    Command,
    Done,
    Failed,
    GpuChecked,
    Linted,
    Lost,
    Node,
    NodeDraining,
    NodeJoined,
    NodeLost,
    Ready,
    Start,
    Tick,
)
from orchestrator.faults import Limits
from orchestrator.plan import StreamPlan
from orchestrator.scheduler import Scheduler
from orchestrator.streams import StreamState
from tests.test_scheduler import ROWS, done, play, stream, told
from workers.errors import EngineError, StoreError
from workers.protocol import ShardReport

A, B = Node("a1", 0, 2, "A"), Node("b1", 0, 2, "B")


def placed(
    name: str, seconds: Sequence[float], gpus: float = 1, kinds: Sequence[str] = "A", load: float = 10.0, nodes: int = 1
) -> StreamPlan:
    """A model whose shards take so many seconds on the first of some kinds of GPU, and twice as long on the next."""
    plan = stream(name, shards=len(seconds), gpus=int(gpus + 0.9))
    ways = [
        Placement(kind, gpus, nodes, load, tuple(second * 2**slower for second in seconds))
        for slower, kind in enumerate(kinds)
    ]
    return replace(plan, placements=tuple(ways))


def on(*nodes: Node, plans: Sequence[StreamPlan], limits: Limits | None = None, **priorities: int) -> Scheduler:
    ranks = {plan.spec.fingerprint: priorities.get(plan.spec.name, 0) for plan in plans}
    return Scheduler(plans, Capacity(nodes), limits, ranks)


def places(commands: Sequence[Command]) -> list[tuple[str, str]]:
    """Which models were started where."""
    return [(command.spec.name, " ".join(command.nodes)) for command in commands if isinstance(command, Start)]


def state(scheduler: Scheduler, name: str = "a") -> StreamState:
    return next(state for state in scheduler.streams.values() if state.spec.name == name)


def pass_time(scheduler: Scheduler, seconds: float, begin: float = 0.0) -> list[Command]:
    """Ticks of ten seconds; all that was said to them."""
    return [
        command
        for tick in range(int(seconds // 10) + 1)
        for command in scheduler.handle(Tick(begin + min(seconds, 10.0 * tick)))
    ]


def test_a_row_that_kills_is_cut_out_and_the_rest_is_scored() -> None:
    """The worker dies by every shard that holds row 1 of eight."""
    plan = stream("a", shards=2)
    whole = replace(plan.shards[0], requests=plan.owed)
    plan = replace(plan, shards=(whole,))
    killer = plan.owed[1]
    scheduler = on(Node("n", 1, 0, "cpu"), plans=[plan])
    scheduler.begin()
    scheduler.handle(Linted(0, ()))
    deaths = 0
    while scheduler.workers:
        (number,) = scheduler.workers
        piece = scheduler.workers[number].piece
        if piece is None:
            scheduler.handle(Ready(number, 1.0))
        elif killer in piece.shard.requests:
            deaths += 1
            scheduler.handle(Lost(number, "killed"))
        else:
            scheduler.handle(Done(number, piece.name, ShardReport(len(piece.shard.requests), 1, 1.0, 0)))
    ended = state(scheduler)
    assert (ended.done, ended.failures, ended.failed) == (2 * ROWS - 1, [], None)
    assert ended.quarantined == [(killer, "worker lost: killed")]
    assert deaths == 3 + 1 + 3, "three for the shard, one for its half, three for the row"


def test_rows_beyond_the_limit_of_the_quarantine_fail_with_their_shard() -> None:
    scheduler = on(Node("n", 1, 0, "cpu"), plans=[stream("a")], limits=Limits(max_attempts=1, max_quarantined=0))
    scheduler.begin()
    play(scheduler, Linted(0, ()), Ready(0, 1.0), Lost(0, "killed"))
    assert (state(scheduler).failed_rows, state(scheduler).quarantined, state(scheduler).failed) == (ROWS, [], None)


def test_a_model_whose_every_shard_kills_is_given_up_and_the_other_is_not() -> None:
    scheduler = on(Node("n", 1, 0, "cpu"), plans=[stream("a", shards=30, length=9), stream("b")])
    scheduler.begin()
    for number in range(12):
        assert scheduler.workers[number].stream == state(scheduler).spec.fingerprint
        play(scheduler, *([Linted(0, ())] if number == 0 else []), Ready(number, 1.0), Lost(number, "killed"))
    assert state(scheduler).failed == "worker lost: killed"
    play(scheduler, Linted(12, ()), Ready(12, 1.0), done(12))
    assert state(scheduler, "b").done == ROWS
    assert scheduler.finished


def test_workers_that_end_together_are_one_strike() -> None:
    plans = [placed("a", [9.0] * 60, load=1.0)]
    scheduler = on(Node("n", 0, 16, "A"), plans=plans)
    scheduler.begin()
    scheduler.handle(Linted(0, ()))
    crew = list(scheduler.workers)
    assert len(crew) == 16
    for number in crew:
        scheduler.handle(Ready(number, 1.0))
    for number in crew:
        scheduler.handle(Lost(number, "power"))
    assert (state(scheduler).strikes, state(scheduler).failed) == (1, None)


def test_a_model_that_never_loads_has_three_strikes() -> None:
    scheduler = on(Node("n", 1, 0, "cpu"), plans=[stream("a", length=9), stream("b")])
    scheduler.begin()
    scheduler.handle(Linted(0, ()))
    assert play(scheduler, Failed(0, EngineError("driver"))) == "stop 0, start 1 a, load 1"
    assert play(scheduler, Lost(1, "killed", preempted=True)) == "start 2 a, load 2", "a preemption is no strike"
    assert play(scheduler, Lost(2, "killed")) == "start 3 a, load 3"
    assert play(scheduler, Failed(3, EngineError("driver"))) == "stop 3, start 4 b, lint 4"
    assert state(scheduler).failed == "driver"


def test_a_load_that_succeeds_clears_the_strikes() -> None:
    scheduler = on(Node("n", 1, 0, "cpu"), plans=[stream("a", shards=3)])
    scheduler.begin()
    scheduler.handle(Linted(0, ()))
    number = 0
    for _ in range(4):
        play(scheduler, Failed(number, EngineError("busy")), Failed(number + 1, EngineError("busy")))
        play(scheduler, Ready(number + 2, 1.0), Lost(number + 2, "x", preempted=True))
        number += 3
    assert state(scheduler).failed is None


def test_a_gpu_that_failed_is_not_used_before_it_was_checked() -> None:
    scheduler = on(Node("n", 0, 1, "A"), plans=[placed("a", [5.0])])
    scheduler.begin()
    assert play(scheduler, Linted(0, ()), Ready(0, 1.0), Lost(0, "CUDA error", gpu=True)) == "check n"
    assert not scheduler.finished
    assert play(scheduler, GpuChecked("n", healthy=True)) == "start 1 a, load 1"


def test_a_gpu_that_stays_broken_is_not_used_again() -> None:
    scheduler = on(Node("n", 0, 2, "A"), plans=[placed("a", [5.0])])
    assert places(scheduler.begin()) == [("a", "n")]
    assert (
        play(scheduler, Linted(0, ()), Ready(0, 1.0), Lost(0, "CUDA error", gpu=True)) == "check n, start 1 a, load 1"
    )
    assert play(scheduler, GpuChecked("n", healthy=False), Lost(1, "CUDA error", gpu=True)) == "check n"
    assert play(scheduler, GpuChecked("n", healthy=False)) == ""
    assert scheduler.finished
    assert state(scheduler).failed == "needs 1 GPUs of A, the cluster has 0"


def test_a_lost_node_gives_back_what_its_workers_had_uncounted() -> None:
    scheduler = on(A, replace(A, id="a2"), plans=[placed("a", [5.0], gpus=2)], limits=Limits(max_attempts=1))
    assert places(scheduler.begin()) == [("a", "a1")]
    play(scheduler, Linted(0, ()), Ready(0, 1.0))
    commands = scheduler.handle(NodeLost("a1", "gone"))
    assert told(commands) == "stop 0, start 1 a, load 1"
    assert places(commands) == [("a", "a2")]
    assert play(scheduler, Lost(0, "node died")) == "", "heard later, and nothing new"
    assert play(scheduler, Ready(1, 1.0)) == "score 1 a0"


def test_a_worker_over_two_nodes_ends_with_either() -> None:
    scheduler = on(A, replace(A, id="a2"), plans=[placed("a", [5.0], gpus=4, nodes=2)], limits=Limits(patience=60.0))
    assert places(scheduler.begin()) == [("a", "a1 a2")]
    assert play(scheduler, Linted(0, ()), NodeLost("a2", "gone")) == "stop 0"
    assert not scheduler.finished, "it waits for a machine"
    assert places(scheduler.handle(NodeJoined(replace(A, id="a3")))) == [("a", "a1 a3")]


def test_patience_ends_and_the_model_is_given_up() -> None:
    scheduler = on(A, plans=[placed("a", [5.0])], limits=Limits(patience=60.0))
    scheduler.begin()
    play(scheduler, NodeLost("a1", "gone"))
    assert pass_time(scheduler, 50.0) == []
    assert not scheduler.finished
    pass_time(scheduler, 30.0, begin=50.0)
    assert scheduler.finished
    assert state(scheduler).failed == "needs 1 GPUs of A, the cluster has 0"


def test_a_node_that_goes_away_begins_nothing_that_would_take_longer() -> None:
    """Shards of 60, 30 and 5 s; the node has 20 s: the running one is queued again at once, the short one is begun."""
    scheduler = on(replace(A, gpus=1), plans=[placed("a", [60.0, 30.0, 5.0], load=1.0)])
    scheduler.begin()
    assert play(scheduler, Linted(0, ()), Ready(0, 1.0)) == "score 0 a0"
    pass_time(scheduler, 50.0)
    assert play(scheduler, NodeDraining("a1", 20.0)) == "", "ten seconds are left of the first"
    assert play(scheduler, done(0, seconds=60.0)) == "score 0 a2", "the longest that fits"
    assert play(scheduler, done(0, seconds=5.0)) == "stop 0"
    assert scheduler.finished is False
    assert state(scheduler).waiting == 1


def test_what_a_draining_node_cannot_finish_is_handed_out_at_once_and_counted_once() -> None:
    scheduler = on(replace(A, gpus=1), plans=[placed("a", [60.0, 50.0], load=1.0)])
    scheduler.begin()
    play(scheduler, Linted(0, ()), Ready(0, 1.0), NodeDraining("a1", 30.0))
    assert play(scheduler, NodeJoined(Node("a2", 0, 1, "A"))) == "start 1 a, load 1"
    assert play(scheduler, Ready(1, 1.0)) == "score 1 a0", "also the shard that flies"
    assert play(scheduler, done(0, seconds=60.0)) == "stop 0", "first result; nothing more fits there"
    assert play(scheduler, done(1, seconds=60.0)) == "score 1 a1"
    assert (state(scheduler).done, state(scheduler).duplicates) == (ROWS, 1)


def test_a_straggler_is_handed_out_again_and_the_first_result_wins() -> None:
    scheduler = on(A, plans=[placed("a", [10.0] * 4, load=5.0)])
    scheduler.begin()
    play(scheduler, Linted(0, ()), Ready(0, 5.0), Ready(1, 5.0))
    assert play(scheduler, *[done(0, seconds=10.0)] * 3) == "stop 0", "nobody is late"
    assert pass_time(scheduler, 30.0) == [], "twenty seconds more is less than a load and the shard, twice"
    assert told(pass_time(scheduler, 10.0, begin=30.0)) == "start 2 a, load 2"
    late = scheduler.workers[1].piece
    assert late is not None
    helper = max(scheduler.workers)
    assert play(scheduler, Ready(helper, 5.0)).endswith(late.name)
    assert play(scheduler, done(helper, seconds=10.0)) == f"stop {helper}, stop 1"
    assert (state(scheduler).done, state(scheduler).left_rows, scheduler.finished) == (4 * ROWS, 0, True)


@pytest.mark.parametrize("jump", [-1e6, 1e6], ids=["back", "ahead"])
def test_a_clock_that_jumps_makes_no_straggler(jump: float) -> None:
    scheduler = on(A, plans=[placed("a", [100.0] * 3, load=5.0)])
    scheduler.begin()
    play(scheduler, Linted(0, ()), Ready(0, 5.0), Ready(1, 5.0))
    play(scheduler, done(0, seconds=100.0), done(0, seconds=100.0))
    for tick in range(3):
        assert scheduler.handle(Tick(jump + tick)) == []
    assert state(scheduler).duplicates == 0
    assert scheduler.now <= 60.0 + 3


def test_a_result_that_comes_twice_is_not_taken_for_the_next_one() -> None:
    scheduler = on(A, plans=[placed("a", [9.0, 8.0, 7.0], load=99.0)])
    scheduler.begin()
    first = Done(0, "a0", ShardReport(ROWS, 1, 9.0, 0))
    assert play(scheduler, Linted(0, ()), Ready(0, 1.0), first) == "score 0 a1"
    assert play(scheduler, first) == ""
    assert (state(scheduler).done, state(scheduler).left_rows) == (ROWS, 2 * ROWS)


def test_at_the_deadline_nothing_is_begun_and_the_rest_is_left() -> None:
    scheduler = on(replace(A, gpus=1), plans=[placed("a", [9.0] * 3), placed("b", [1.0])], limits=Limits(deadline=60.0))
    scheduler.begin()
    assert play(scheduler, Linted(0, ()), Ready(0, 1.0)) == "score 0 a0"
    assert pass_time(scheduler, 60.0) == [], "what runs may end"
    assert play(scheduler, done(0)) == "stop 0"
    assert scheduler.finished
    assert (state(scheduler).left_rows, state(scheduler, "b").left_rows, state(scheduler).failures) == (4, 2, [])


def test_a_load_that_would_end_after_the_deadline_is_not_begun() -> None:
    scheduler = on(A, plans=[placed("a", [1.0], load=100.0)], limits=Limits(deadline=60.0))
    assert scheduler.begin() == []
    pass_time(scheduler, 60.0)
    assert (scheduler.finished, state(scheduler).left_rows) == (True, ROWS)


def test_a_model_of_a_higher_priority_has_its_replicas_before_others_begin() -> None:
    plans = [placed("a", [9.0] * 9, load=1.0), placed("b", [9.0] * 90, load=1.0)]
    scheduler = on(replace(A, gpus=1), plans=plans, a=1)
    assert places(scheduler.begin()) == [("a", "a1")]
    scheduler = on(A, plans=plans, a=1)
    assert places(scheduler.begin()) == [("a", "a1"), ("b", "a1")], "no replica before the preflight is done"
    play(scheduler, Linted(1, ()), Ready(1, 1.0), Linted(0, ()), Ready(0, 1.0))
    assert "start 2 a" in play(scheduler, Lost(1, "x", preempted=True))


def test_shares_of_a_gpu_add_up_and_no_more() -> None:
    plans = [placed(name, [5.0], gpus=1 / 3) for name in "abcd"]
    scheduler = on(replace(A, gpus=1), plans=plans)
    assert len(places(scheduler.begin())) == 3


def test_a_model_takes_the_kind_of_gpu_that_costs_the_least() -> None:
    scheduler = on(A, B, plans=[placed("a", [5.0], kinds="BA")])
    assert places(scheduler.begin()) == [("a", "b1")]
    scheduler = on(A, plans=[placed("a", [5.0], kinds="BA")])
    assert places(scheduler.begin()) == [("a", "a1")]


def test_a_slow_worker_takes_a_shard_that_does_not_delay_the_end() -> None:
    """The fast GPU needs 40 s for the largest shard, the slow one 160 s."""
    plan = placed("a", [40.0, 20.0, 20.0, 10.0, 5.0, 5.0], kinds="AxB", load=1.0)
    scheduler = on(replace(A, gpus=1), replace(B, gpus=1), plans=[plan])
    scheduler.begin()
    assert "start 1 a" in play(scheduler, Linted(0, ()))
    assert play(scheduler, Ready(1, 1.0)) == "score 1 a1"
    assert play(scheduler, Ready(0, 1.0)) == "score 0 a0"


def test_a_store_that_stays_broken_ends_the_run_and_cuts_nothing() -> None:
    scheduler = on(A, plans=[placed("a", [5.0] * 2)], limits=Limits(max_attempts=1))
    scheduler.begin()
    play(scheduler, Linted(0, ()), Ready(0, 1.0), Failed(0, StoreError("full")))
    assert str(scheduler.aborted) == "full"
    assert (state(scheduler).quarantined, state(scheduler).failed_rows) == ([], 2 * ROWS)


def test_a_model_goes_elsewhere_after_a_fault_where_there_is_room() -> None:
    scheduler = on(replace(A, gpus=1), Node("a2", 0, 1, "A"), plans=[placed("a", [5.0])])
    assert places(scheduler.begin()) == [("a", "a1")]
    scheduler.handle(Linted(0, ()))
    assert places(scheduler.handle(Failed(0, EngineError("driver")))) == [("a", "a2")]
    assert places(scheduler.handle(Failed(1, EngineError("driver")))) == [("a", "a1")]
