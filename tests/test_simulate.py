"""The scheduler on thousands of clusters that do not exist: no promise is ever broken, and every fault is met."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import faults, ledger, pieces, policy, scheduler, streams
from orchestrator.events import Lost
from orchestrator.simulate.__main__ import main
from orchestrator.simulate.draw import simulate, simulate_with
from orchestrator.simulate.scenario import Violation

BLOCKS, SEEDS_A_BLOCK = 20, 250


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_promise_is_broken_whatever_fails(block: int) -> None:
    """The message of a run that fails holds the command that plays it again."""
    for seed in range(block * SEEDS_A_BLOCK, (block + 1) * SEEDS_A_BLOCK):
        simulate(seed)


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_no_promise_is_broken_in_the_smallest_failing_run(chosen: random.Random) -> None:
    simulate_with(chosen)


def test_a_seed_is_always_the_same_run() -> None:
    first, again = simulate(11), simulate(11)
    assert (first.now, first.steps, first.seen) == (again.now, again.steps, again.seen)


def test_every_fault_and_every_end_is_met() -> None:
    """A cluster that never failed, or never finished a model, would prove nothing."""
    seen: Counter[str] = Counter()
    for seed in range(600):
        world = simulate(seed)
        seen.update(world.seen)
        for state in world.scheduler.streams.values():
            seen["complete"] += state.done == state.total
            seen["partial"] += 0 < state.done < state.total
            seen["given up"] += state.failed is not None
            seen["quarantined"] += bool(state.quarantined)
            seen["left"] += state.left_rows > 0
            seen["unscored"] += "does not fit" in [reason for _, reason in state.failures]
        seen["aborted"] += world.scheduler.aborted is not None
        seen["ahead"] += world.aheads
    kinds = "complete,partial,given up,quarantined,left,copy,unscored,aborted,lost,preempted,gpu,slow,late"
    more = "duplicate,jump,node lost,drained,joined,disk full,odd,cannot be loaded,hub,ahead,stayed"
    rare = {kind: seen[kind] for kind in [*kinds.split(","), *more.split(",")] if seen[kind] < 10}
    assert not rare, seen


def _never_free(self: ledger.Ledger, worker: int) -> None:
    del self._held[worker]


def _twice(self: pieces.Pieces, piece: pieces.Piece) -> None:
    self._unqueue(piece.name)


def _forgetful(stream: streams.StreamState, piece: pieces.Piece, *rest: object) -> None:
    stream.attempts[piece.name] = 1


def _any_room(state: ledger.NodeState, placement: object) -> tuple[int, int]:
    return (0, 0)


def _trusting(self: ledger.Ledger, worker: int) -> list[str]:
    return []


def _unforgiving(self: scheduler.Scheduler, event: Lost, *rest: Any) -> Any:
    return ended(self, replace(event, preempted=False), *rest)


def _impatient(self: scheduler.Scheduler) -> None:
    self._closed = not self.workers


ended = scheduler.Scheduler._lost

MUTANTS: dict[str, tuple[object, str, object]] = {
    "GPUs are not given back": (ledger.Ledger, "give_back", _never_free),
    "GPUs are oversubscribed": (ledger, "_room", _any_room),
    "a broken GPU is trusted": (ledger.Ledger, "suspect", _trusting),
    "results count twice": (pieces.Pieces, "settle", _twice),
    "a shard that kills is dropped": (faults, "suspect", _forgetful),
    "strikes are not counted": (faults, "strike", lambda *_: False),
    "nothing is started after the beginning": (scheduler.Scheduler, "_fill", lambda self: []),
    "preemptions count": (scheduler.Scheduler, "_lost", _unforgiving),
    "a model that rests is closed for ever": (scheduler.Scheduler, "_wait", _impatient),
    "replicas only": (policy, "_where", lambda *_: None),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_scheduler_is_found(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator is no proof unless it sees what it is there to see."""
    owner, name, broken = MUTANTS[mutant]
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((Violation, KeyError, IndexError)):
        list(map(simulate, range(300)))


def test_the_command_plays_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "4"]) == 0
    assert "1 runs, no promise broken" in capsys.readouterr().out


def test_a_seed_that_fails_prints_the_command_that_plays_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger.Ledger, "give_back", _never_free)
    assert main(["--seeds", "0:200"]) == 1
    said = capsys.readouterr().out
    seed = said.split()[1].rstrip(":")
    assert f"replay: python -m orchestrator.simulate --seed {seed}" in said
    assert main(["--seed", seed]) == 1
