"""What the scheduler is made of, each alone: who holds what, where a shard is, how late it is."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cost import Placement
from orchestrator.elapsed import JUMP_SECONDS, Elapsed
from orchestrator.events import Capacity, Node
from orchestrator.ledger import Ledger
from orchestrator.pieces import Piece, Pieces, halves
from orchestrator.simulate.hardware import Hardware
from workers.protocol import Message, Request, Shard

NODES = (Node("a", 2, 4, "A"), Node("b", 0, 8, "B"), Node("c", 3, 0, "cpu"), Node("d", 1, 4, "A"))
WAYS = [
    Placement(kind, gpus, nodes, 1.0, (1.0,))
    for kind, gpus, nodes in [
        *[("A", gpus, 1) for gpus in (0.25, 1 / 3, 0.5, 0.6, 1, 2, 4)],
        *[("B", 8, 1), ("", 2, 1), ("A", 4, 2), ("A", 8, 2), ("cpu", 0, 1)],
    ]
]


def piece(number: int, cost: float = 1.0, rows: int = 1) -> Piece:
    requests = tuple(Request("reward", (Message("user", f"{number}/{row}"),), ("y",)) for row in range(rows))
    return Piece(cost, -number, f"p{number}", Shard(f"p{number}", "s", requests))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 99))))
def test_the_ledger_agrees_with_the_machines(steps: list[tuple[bool, int]]) -> None:
    """Whatever is started and ended: the ledger finds room where there is some, and nowhere else."""
    ledger, machines, alive = Ledger(Capacity(NODES)), Hardware(NODES), []
    for number, (start, choice) in enumerate(steps):
        if start or not alive:
            way = WAYS[choice % len(WAYS)]
            nodes = ledger.find(way)
            assert (nodes is not None) == machines.has_room(way)
            if nodes is not None:
                assert machines.take(number, way, nodes)
                ledger.take(number, way, nodes)
                alive.append(number)
        else:
            ended = alive.pop(choice % len(alive))
            ledger.give_back(ended)
            machines.free(ended, broken=False)
    for ended in alive:
        ledger.give_back(ended)
    assert all(
        set(state.gpus.values()) <= {10_000} and state.cpus == state.node.cpus for state in ledger.nodes.values()
    )


def test_the_ledger_keeps_the_configured_number_of_workers() -> None:
    ledger = Ledger(Capacity(NODES, workers=1))
    nodes = ledger.find(WAYS[0])
    assert nodes is not None
    ledger.take(0, WAYS[0], nodes)
    assert ledger.find(WAYS[-1]) is None
    assert ledger.fits(WAYS[-1])


def test_a_worker_goes_where_the_least_room_is_left() -> None:
    ledger = Ledger(Capacity((Node("a", 0, 8, "A"), Node("b", 0, 2, "A"))))
    assert ledger.find(Placement("A", 1, 1, 0.0, ())) == ("b",)
    assert ledger.find(Placement("A", 4, 1, 0.0, ())) == ("a",)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=80))
def test_a_piece_is_given_out_until_it_has_its_fate_and_never_after(steps: list[tuple[int, int]]) -> None:
    pieces, flying, settled = Pieces(), Counter[int](), set()
    for step, number in steps:
        one = piece(number, cost=1.0 + number)
        if step <= 1:
            pieces.put(one, suspect=step == 1)
        elif step == 2 and (taken := pieces.take(float(number + 1))) is not None:
            assert taken.cost <= number + 1
            assert taken.name not in settled
            pieces.fly(taken, 0)
            flying[-taken.place] = 1
        elif step == 3 and flying.pop(number, 0):
            landed = pieces.land(one, 0)
            assert (landed is None) == (one.name in settled)
        elif step == 4:
            pieces.settle(one)
            settled.add(one.name)
        assert abs(pieces.cost - sum(waiting.cost for waiting in pieces)) < 1e-9
        assert not settled & {waiting.name for waiting in pieces}


@given(st.integers(2, 40), st.floats(0.1, 100))
def test_halves_are_the_whole(rows: int, cost: float) -> None:
    whole = piece(0, cost, rows)
    first, second = halves(whole)
    assert first.shard.requests + second.shard.requests == whole.shard.requests
    assert abs(first.cost + second.cost - cost) < 1e-6
    assert len({whole.name, first.name, second.name}) == 3


@given(st.lists(st.floats(-1e9, 1e9)))
def test_time_never_goes_back_and_never_leaps(ticks: list[float]) -> None:
    elapsed, before = Elapsed(), 0.0
    for now in ticks:
        elapsed.tick(now)
        assert before <= elapsed.seconds <= before + JUMP_SECONDS
        before = elapsed.seconds


def test_time_is_what_the_clock_says_where_it_does_not_jump() -> None:
    elapsed = Elapsed()
    for now in (1000.0, 1000.5, 1010.0):
        elapsed.tick(now)
    assert elapsed.seconds == 10.0
