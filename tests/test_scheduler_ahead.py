"""A worker whose shards are short has one more ahead, so that it waits for nobody; every account stays exact."""

from __future__ import annotations

import pytest

from orchestrator.events import (
    Assign,
    Failed,
    Linted,
    Lost,
    NodeDraining,
    NodeJoined,
    NodeLost,
    Ready,
    Start,
    Stop,
    Tick,
)
from orchestrator.faults import Limits
from orchestrator.plan import Plan
from orchestrator.policy import ENOUGH, SHORT
from orchestrator.scheduler import Scheduler
from orchestrator.streams import StreamState
from orchestrator.tally import Tally
from tests.test_scheduler import ROWS, account, done, play
from tests.test_scheduler_faults import A, on, placed, state
from workers.errors import EngineError, ModelError

QUICK = SHORT / 4


def running(shards: int, seconds: float = QUICK, limits: Limits | None = None) -> Scheduler:
    """One worker, number 0, that has begun; a second one would never pay."""
    scheduler = on(A, plans=[placed("a", [seconds] * shards, load=1000.0)], limits=limits)
    scheduler.begin()
    scheduler.handle(Tick(0.0))
    play(scheduler, Linted(0, ()), Ready(0, 1000.0))
    return scheduler


def held(scheduler: Scheduler, number: int = 0) -> list[str]:
    return [piece.name for piece in scheduler.workers[number].pieces]


def rows_of(found: StreamState) -> int:
    """Of what waits and flies, each piece once."""
    flying = {piece.name: piece for worker in found.crew.values() for piece in worker.pieces}
    pieces = {piece.name: piece for piece in found.pieces} | flying
    return sum(len(piece.shard.requests) for piece in pieces.values() if not found.pieces.settled(piece))


def test_short_shards_are_given_two_at_a_time_until_few_are_left() -> None:
    scheduler = running(ENOUGH + 4)
    seen = [held(scheduler)]
    while scheduler.workers:
        play(scheduler, done(0, seconds=QUICK))
        seen.append(held(scheduler) if scheduler.workers else [])
        assert rows_of(state(scheduler)) == state(scheduler).left_rows
    last = ENOUGH + 3
    assert seen[:3] == [["a0", "a1"], ["a1", "a2"], ["a2", "a3"]]
    assert seen[-3:] == [[f"a{last - 1}"], [f"a{last}"], []]
    assert account(scheduler) == {"a": ((ENOUGH + 4) * ROWS, 0, None)}


@pytest.mark.parametrize(("shards", "seconds"), [(9, SHORT * 2), (ENOUGH, QUICK)])
def test_long_shards_and_few_shards_are_given_one_at_a_time(shards: int, seconds: float) -> None:
    assert held(running(shards, seconds)) == ["a0"]


def test_only_the_shard_at_which_a_worker_died_is_under_suspicion() -> None:
    scheduler = running(9)
    play(scheduler, Lost(0, "killed"))
    assert state(scheduler).attempts == {"a0": 1}
    assert rows_of(state(scheduler)) == state(scheduler).left_rows == 9 * ROWS
    scheduler = running(9)
    play(scheduler, done(0), Failed(0, EngineError("odd")))
    assert state(scheduler).attempts == {"a1": 1}
    assert rows_of(state(scheduler)) == state(scheduler).left_rows == 8 * ROWS


def test_a_preempted_worker_gives_both_back_uncounted() -> None:
    scheduler = running(9)
    play(scheduler, NodeLost("a1", "gone"))
    assert (state(scheduler).attempts, state(scheduler).waiting) == ({}, 9)


def test_on_a_machine_that_goes_away_nothing_is_ahead_any_more() -> None:
    scheduler = running(9)
    play(scheduler, NodeDraining("a1", 5 * QUICK))
    assert "a1" in [piece.name for piece in state(scheduler).pieces], "someone else may have it first"
    play(scheduler, done(0, seconds=QUICK))
    assert len(held(scheduler)) == 1


def test_on_a_machine_that_stays_after_all_nothing_is_given_twice() -> None:
    scheduler = running(9)
    play(scheduler, NodeDraining("a1", QUICK / 2), NodeJoined(A), done(0, seconds=QUICK))
    while scheduler.workers:
        names = held(scheduler)
        assert len(set(names)) == len(names)
        play(scheduler, done(min(scheduler.workers), seconds=QUICK))
    assert account(scheduler) == {"a": (9 * ROWS, 0, None)}


def test_results_count_in_any_order_and_once() -> None:
    scheduler = running(9)
    play(scheduler, done(0, "a1"))
    assert held(scheduler)[0] == "a0"
    play(scheduler, done(0, "a0"), done(0, "a0"), done(0, "a1"))
    assert state(scheduler).done == 2 * ROWS


def test_a_model_that_is_given_up_fails_with_all_that_it_had() -> None:
    scheduler = running(9)
    play(scheduler, done(0), Failed(0, ModelError("no head")))
    assert account(scheduler) == {"a": (ROWS, 8 * ROWS, "no head")}


def test_an_idle_worker_helps_with_what_a_late_one_has_ahead() -> None:
    scheduler = on(A, plans=[placed("a", [QUICK] * 9, load=0.1)])
    scheduler.begin()
    scheduler.handle(Tick(0.0))
    play(scheduler, Linted(0, ()), Ready(0, 0.1), Ready(1, 0.1))
    assert held(scheduler) == ["a0", "a1"]
    while len(scheduler.workers) == 2 and state(scheduler).waiting:
        play(scheduler, done(1, seconds=QUICK))
    scheduler.handle(Tick(10.0))
    assert play(scheduler, done(1, seconds=QUICK)) == "score 1 a1", "the first worker may never come to it"
    assert play(scheduler, done(1, seconds=QUICK)) == "score 1 a0"
    assert play(scheduler, done(1, seconds=QUICK)) == "stop 1, stop 0"
    assert account(scheduler) == {"a": (9 * ROWS, 0, None)}
    assert scheduler.finished


def test_the_tally_counts_no_idle_time_between_them() -> None:
    plan = placed("a", [QUICK] * 9)
    scheduler = on(A, plans=[plan])
    tally = Tally(Plan({plan.spec.fingerprint: plan}), 0.0, {"A": 1.0})
    shards = plan.shards
    tally.command(Start(0, plan.spec, plan.placements[0], ("a1",)), 0.0)
    tally.event(Ready(0, 1.0), 1.0)
    tally.command(Assign(0, shards[0]), 1.0)
    tally.command(Assign(0, shards[1]), 1.0)
    tally.event(done(0, "a0"), 3.0)
    (worker,) = tally.snapshot("r", "running", 4.0, 1.0, scheduler).workers
    assert (worker.phase, worker.shard, worker.ahead, worker.since) == ("compute", "a1", None, 3.0)
    tally.event(done(0, "a1"), 5.0)
    tally.command(Stop(0), 6.0)
    (count,) = tally.snapshot("r", "running", 7.0, 1.0, scheduler).streams
    assert count.gpu_seconds == {"A": {"load": 1.0, "compute": 4.0, "idle": 1.0}}
