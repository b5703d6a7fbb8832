"""The forecast of a sweep: a schedule that exists, beside a bound that none can beat."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cost import Offer, Placement
from orchestrator.forecast import bound, forecast


def placing(seconds: Sequence[float], kind: str = "A100-80G", gpus: float = 1, load: float = 60.0) -> Placement:
    return Placement(kind, gpus, 1 if gpus <= 8 else 2, load, tuple(seconds))


work = st.lists(st.floats(0.5, 200), min_size=1, max_size=12)
widths = st.sampled_from([0.25, 0.5, 1, 1, 1, 2, 4, 8, 16])
fleets = st.sampled_from(
    [
        (Offer("A100-80G", 16),),
        (Offer("A100-80G", 24), Offer("L40S-48G", 8)),
        (Offer("A100-80G", 1, 1),),
        (Offer("A100-80G", 3, 2), Offer("cpu", 4, 1)),
    ]
)


@settings(deadline=None)
@given(st.lists(st.tuples(work, widths, st.floats(0, 300)), max_size=10), fleets)
def test_a_forecast_is_a_schedule_and_no_shorter_than_the_bound(
    models: list[tuple[list[float], float, float]], fleet: tuple[Offer, ...]
) -> None:
    streams = {
        f"m{at}": [placing(seconds, offer.kind, gpus, load) for offer in fleet if offer.kind != "cpu"]
        for at, (seconds, gpus, load) in enumerate(models)
    }
    found = forecast(streams, fleet)
    assert {*found.shares, *found.impossible} == set(streams), "every model is placed or said to be impossible"
    assert found.ratio >= 1
    for name, shares in found.shares.items():
        options = {one.kind: one for one in streams[name]}
        done = 0.0
        for share in shares:
            scale = min(1.0, share.placement.gpus)
            assert share.placement in streams[name]
            assert 0 <= share.start < share.end <= found.makespan
            seconds = share.end - share.start - scale * share.placement.load_seconds
            done += seconds / (scale * sum(options[share.placement.kind].shard_seconds))
        assert done == pytest.approx(1), "all of the work, once"
    for offer in fleet:
        edges = sorted({share.start for shares in found.shares.values() for share in shares})
        for now in edges:
            busy = sum(
                max(1, share.placement.gpus)
                for shares in found.shares.values()
                for share in shares
                if share.placement.kind == offer.kind and share.start <= now < share.end
            )
            assert busy <= offer.count, "no device is given twice"
    for name in found.impossible:
        assert min(one.gpus for one in streams[name]) > max(
            offer.node for offer in fleet if offer.kind != "cpu"
        ) or min(one.gpus for one in streams[name]) > sum(offer.count for offer in fleet)


@settings(deadline=None)
@given(st.lists(st.tuples(work, st.floats(0, 300)), min_size=1, max_size=8), st.integers(1, 64))
def test_more_gpus_never_raise_the_bound_and_more_work_never_lowers_it(
    models: list[tuple[list[float], float]], count: int
) -> None:
    streams = {f"m{at}": [placing(seconds, load=load)] for at, (seconds, load) in enumerate(models)}
    least = bound(streams, [Offer("A100-80G", count)])
    assert bound(streams, [Offer("A100-80G", count + 1)]) <= least * (1 + 1e-3)
    more = {**streams, "more": [placing([50.0])]}
    assert bound(more, [Offer("A100-80G", count)]) >= least * (1 - 1e-3)


def test_one_long_model_has_as_many_replicas_as_pay() -> None:
    """An hour of work in seconds on 8 GPUs, a minute to load: all of them take part, and each loads once."""
    found = forecast({"long": [placing([10.0] * 360)]}, [Offer("A100-80G", 8)])
    assert len(found.shares["long"]) == 8
    assert found.makespan == pytest.approx(60 + 3600 / 8, rel=5e-3)
    alone = forecast({"short": [placing([10.0] * 3)]}, [Offer("A100-80G", 8)])
    assert len(alone.shares["short"]) == 1 or alone.makespan < 90


def test_the_longest_models_come_first() -> None:
    """Graham's example for list scheduling: in the order of the list it takes a third longer."""
    streams = {f"m{at}": [placing([seconds], load=0.0)] for at, seconds in enumerate([3.0, 3.0, 2.0, 2.0, 2.0])}
    found = forecast(streams, [Offer("A100-80G", 2, 2)])
    assert found.bound == pytest.approx(6.0, rel=1e-3)
    assert found.makespan <= 6.0 * 1.17


def test_a_model_that_needs_a_whole_node_gets_one() -> None:
    streams = {"wide": [placing([100.0], gpus=8)], "small": [placing([100.0])]}
    found = forecast(streams, [Offer("A100-80G", 16)])
    assert found.makespan == pytest.approx(160, rel=5e-3)
    assert forecast({"wide": [placing([100.0], gpus=8)]}, [Offer("A100-80G", 16, 4)]).impossible == ("wide",)


def test_nothing_to_do_takes_no_time() -> None:
    found = forecast({}, [Offer("A100-80G", 4)])
    assert (found.makespan, found.bound, found.ratio) == (0.0, 0.0, 1.0)


def test_zoo_on_64_gpus_is_close_to_the_bound() -> None:
    """Works of 0.1 to 70 billion parameters, as in the zoo."""
    draws = random.Random(1)
    sizes = [draws.choice([0.4, 1.4, 7, 7, 7, 8, 8, 8, 13, 13, 34, 70]) for _ in range(121)]
    streams = {
        f"m{at}": [placing([size * 1.5] * 24, gpus=4 if size == 70 else 1, load=15 + size)]
        for at, size in enumerate(sizes)
    }
    found = forecast(streams, [Offer("A100-80G", 64)])
    assert 1 <= found.ratio <= 1.05
    assert not found.impossible
