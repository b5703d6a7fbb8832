"""Predictions for a plan: every stream placed or refused with a reason, hours that add up, work worked out once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import cluster, placing
from orchestrator.architecture import Architecture, typical
from orchestrator.benchmarks import Example
from orchestrator.cluster import of_ray, priced
from orchestrator.cost import CPU, GPUS, Offer
from orchestrator.placing import Here, Prediction, predict
from orchestrator.plan import make_plan
from orchestrator.rates import Rates
from orchestrator.spent import Spent, spent
from workers.protocol import Message, Model, ModelSpec

ROWS = [
    Example("s", str(row), (Message("user", f"question {row} " * 9),), ("yes " * (9 + row), "no " * (3 + row)))
    for row in range(40)
]
SPEC = ModelSpec("m", "org/m", "hub:org/m@1", "scalar", "1", "transformers", "1", (), dtype="bfloat16", gpus=1)


def models(sizes: Mapping[str, tuple[float, str, str]]) -> tuple[list[Model], dict[str, Architecture]]:
    """Models by name: billions of parameters, family, engine."""
    made, shapes = [], {}
    for name, (billions, family, engine) in sizes.items():
        spec = replace(SPEC, name=name, weights=f"hub:{name}@1", family=family, engine=engine)
        made.append(Model(name, family, (spec,)))
        shapes[spec.fingerprint] = typical(billions, head=family == "dpo")
    return made, shapes


def prediction(
    made: list[Model], shapes: Mapping[str, Architecture], *offers: Offer, present: Mapping[str, Any] | None = None
) -> Prediction:
    plan = make_plan(made, {"b": ROWS}, present or {}, {}, 16)
    return predict(plan, Here(priced({}), (*offers, Offer(CPU, 8, 1)), Rates(), shapes))


entries = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.tuples(
        st.sampled_from([0.1, 1.4, 7.0, 13.0, 34.0, 70.0, 340.0]),
        st.sampled_from(["scalar", "dpo", "pairrm"]),
        st.sampled_from(["transformers", "vllm"]),
    ),
    min_size=1,
    max_size=6,
)
fleets = st.lists(
    st.builds(Offer, st.sampled_from([name for name in GPUS if name != CPU]), st.integers(1, 64)),
    min_size=1,
    max_size=3,
    unique_by=lambda offer: offer.kind,
)


@settings(deadline=None)
@given(entries, fleets)
def test_every_model_is_placed_or_impossible_with_a_reason(
    sizes: Mapping[str, tuple[float, str, str]], fleet: list[Offer]
) -> None:
    made, shapes = models(sizes)
    found = prediction(made, shapes, *fleet)
    for name, stream in found.plan.streams.items():
        one = found.streams[name]
        assert bool(one.shares) != bool(one.why_not), "one of the two"
        assert (name in found.forecast.impossible) == bool(one.why_not)
        for placement in stream.placements:
            assert len(placement.shard_seconds) == len(stream.shards)
        seconds = [placement.seconds for placement in stream.placements]
        assert seconds == sorted(seconds), "the fastest first"
    assert found.forecast.ratio >= 1
    hours = sum(share.device_hours for shares in found.forecast.shares.values() for share in shares)
    assert found.gpu_hours == pytest.approx(hours)


def test_work_is_worked_out_once_for_all_models_that_ask_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = placing.work_of
    monkeypatch.setattr(placing, "work_of", lambda *given: calls.append(given[0]) or real(*given))
    made, shapes = models({name: (8.0, "scalar", "transformers") for name in "abcdefgh"})
    found = prediction(made, shapes, Offer("A100-80G", 8))
    assert len(calls) == len(next(iter(found.plan.streams.values())).shards) == 5


def test_what_is_present_costs_nothing() -> None:
    made, shapes = models({"a": (8.0, "scalar", "transformers"), "b": (8.0, "scalar", "transformers")})
    whole = prediction(made, shapes, Offer("A100-80G", 8))
    done = made[0].streams[0].fingerprint
    present = {done: {request.digest for request in whole.plan.streams[done].owed}}
    found = prediction(made, shapes, Offer("A100-80G", 8), present=present)
    assert (found.streams[done].gpu_hours, found.streams[done].tokens, found.streams[done].why_not) == (0, 0, "")
    assert found.gpu_hours == pytest.approx(whole.gpu_hours / 2, rel=0.2)


def test_a_judge_behind_an_endpoint_is_paid_by_tokens() -> None:
    endpoint = {"serves": "x", "concurrency": 4, "input_price": 2.0, "output_price": 8.0}
    spec = replace(SPEC, family="judge", engine="openai", gpus=0, dtype="float32", endpoint=endpoint)
    found = prediction([Model("judge", "judge", (spec,))], {}, Offer("A100-80G", 8))
    (one,) = found.streams.values()
    assert one.dollars == pytest.approx((2.0 * one.tokens + 8.0 * 300 * one.rows) / 1e6)
    assert (one.gpu_hours, one.why_not) == (0, "")
    assert one.seconds == pytest.approx(one.rows * 3.0 / 4, rel=0.01)


def test_a_ray_cluster_is_read_from_its_resources() -> None:
    """Ray's label does not tell an A100's memory, so the smaller is taken."""
    assert of_ray({"A100": 2.0}, 16, 96) == (Offer("A100-40G", 16, 8), Offer(CPU, 96, 1))
    assert of_ray({"L4": 1.0, "V100": 1.0}, 4, 8) == (Offer("L4-24G", 4, 4), Offer(CPU, 8, 1))
    assert of_ray({}, 0, 4) == (Offer(CPU, 4, 1),)


def test_the_gpus_of_this_machine_are_read_from_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at, name in enumerate(["NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB", "Voodoo 2"]):
        (tmp_path / str(at)).mkdir()
        (tmp_path / str(at) / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 42\n")
    monkeypatch.setattr(cluster, "NVIDIA", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cluster.of_this_machine(True, None) == (Offer("A100-80G", 2, 2), Offer(CPU, 12, 1))
    assert cluster.of_this_machine(True, 1) == (Offer("A100-80G", 1, 1), Offer(CPU, 1, 1))
    assert cluster.of_this_machine(False, None) == (Offer(CPU, 12, 1),)


FOOTER = {"run": "r", "load_seconds": "90", "compute_seconds": "30", "tokens": "10", "device": "NVIDIA H200"}


def test_hours_are_seconds_times_gpus_and_a_load_counts_once() -> None:
    parts = [FOOTER | {"gpus": "2", "mfu": mfu} for mfu in ("0.5", "0.7")]
    found = spent(parts, GPUS)
    assert (found.tokens, found.compute_seconds, found.load_seconds) == (20, 60.0, 90.0)
    assert found.gpu_hours == pytest.approx(2 * 150 / 3600)
    assert found.dollars == pytest.approx(found.gpu_hours * 7.91)
    assert found.mfu == pytest.approx(0.6)
    both = found + spent([FOOTER | {"run": "later"}], GPUS)
    assert both.gpu_hours == pytest.approx((2 * 150 + 120) / 3600)


def test_fetching_and_compiling_count_as_loading() -> None:
    apart = {"fetch_seconds": "60", "load_seconds": "20", "compile_seconds": "10"}
    assert spent([FOOTER | apart] * 2, GPUS).load_seconds == 90.0


def test_a_gpu_without_a_price_has_hours_but_no_dollars_and_a_cpu_the_price_of_a_core() -> None:
    unknown = spent([FOOTER | {"device": "Voodoo 2"}], GPUS)
    assert (unknown.dollars, unknown.gpu_hours > 0) == (None, True)
    cpu = spent([FOOTER | {"device": "cpu", "gpus": "0"}], GPUS)
    assert (cpu.gpu_hours, cpu.cpu_hours) == (0, pytest.approx(120 / 3600))
    assert cpu.dollars == pytest.approx(cpu.cpu_hours * 0.05)
    assert str(cpu) == "0.033 CPU-hours, $0.00"
    for device in ("none", "endpoint"):
        nothing = spent([FOOTER | {"device": device, "gpus": "0"}], GPUS)
        assert (nothing.on_devices, nothing.dollars, str(nothing)) == (False, 0.0, "")
    assert (spent([], GPUS), Spent() + unknown) == (Spent(), unknown)
    old = spent([FOOTER | {"tensor_parallel": "4"}], GPUS)
    assert old.gpu_hours == pytest.approx(4 * 120 / 3600), "parts of older versions"
