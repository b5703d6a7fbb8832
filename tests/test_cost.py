"""The cost model: more work never takes less time, what is placed fits, measurements replace assumptions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
)

from orchestrator.architecture import Architecture, from_config, typical
from orchestrator.cost import CPU, GB, GPUS, USABLE, Gpu, Job, Placement, gpu_of, needed_bytes, placement, shard_seconds
from orchestrator.rates import FEWEST, LOAD_BYTES, Rates, calibrated, source_of
from orchestrator.work import NOTHING, Work, estimated_tokens, work_of
from workers import flops, packing
from workers.protocol import Message, Request

A100 = GPUS["A100-80G"]
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "vocab_size": 96,
}


def job(billions: float = 8.0, work: Work | None = None, **changes: Any) -> Job:
    shard = work or Work(256, 60_000, 9_000_000, 50_000, 8_000_000, 30_000)
    made = Job(typical(billions, head=False), "reward", "transformers", "bfloat16", "disk", (shard,))
    return replace(made, **changes)


def placed(job: Job, gpu: Gpu = A100, node: int = 8, rates: Rates | None = None) -> Placement:
    found = placement(job, gpu, node, rates or Rates())
    assert isinstance(found, Placement), found
    return found


def ask(prompt: str, response: str) -> Request:
    return Request("reward", (Message("user", prompt),), (response,))


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (LlamaConfig(**SMALL, num_key_value_heads=2), LlamaForSequenceClassification),
        (LlamaConfig(**SMALL, num_key_value_heads=2), LlamaForCausalLM),
        (LlamaConfig(**SMALL, tie_word_embeddings=True), LlamaForCausalLM),
        (GPTNeoXConfig(**SMALL), GPTNeoXForCausalLM),
        (BertConfig(**SMALL, max_position_embeddings=8), BertForSequenceClassification),
        (MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2), MixtralForCausalLM),
    ],
    ids=lambda value: getattr(value, "__name__", getattr(value, "model_type", None)),
)
def test_the_shape_in_a_config_is_that_of_the_model(config: Any, model: Any) -> None:
    """Parameters and FLOPs a token, counted on the real module; biases, norms and routers make the small rest."""
    made = model(config)
    found = from_config(config.to_dict() | {"architectures": [model.__name__]}, head="CausalLM" in model.__name__)
    assert found is not None
    assert found.name == model.__name__
    assert found.parameters == pytest.approx(made.num_parameters(), rel=0.05)
    counted = flops.cost_of(made)
    assert (found.cost.pair, found.cost.logits) == (counted.pair, counted.logits)
    assert found.cost.token == pytest.approx(counted.token, rel=0.06)


def test_a_config_that_says_too_little_has_no_shape() -> None:
    assert from_config({"model_type": "mystery", "hidden_size": 8}, head=False) is None


@pytest.mark.parametrize("billions", [0.07, 0.4, 1.4, 7, 8, 13, 34, 70, 340])
@pytest.mark.parametrize("head", [True, False])
def test_a_size_alone_gives_a_shape(billions: float, head: bool) -> None:
    found = typical(billions, head)
    assert found.parameters == int(billions * 1e9)
    assert found.parameters / 2 <= found.matrices < found.parameters


def test_of_a_mixture_of_experts_a_token_meets_the_active_ones() -> None:
    whole, mixture = typical(46.7, head=True), typical(46.7, head=True, active=12.9)
    assert mixture.parameters == whole.parameters
    assert mixture.matrices < 12.9e9 < whole.matrices


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_a_longer_text_never_has_fewer_tokens(text: str, more: str) -> None:
    short, long = ask("q", text), ask("q", text + more)
    assert estimated_tokens(short.characters, short.utf8) <= estimated_tokens(long.characters, long.utf8)
    assert short.utf8 == len(("q" + text).encode())


def test_scripts_beyond_ascii_take_more_tokens_a_character() -> None:
    rates = [estimated_tokens(100, len((letter * 100).encode())) for letter in "eж語"]
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] == pytest.approx(67.5, abs=1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.text("xyz", max_size=400)), max_size=12), st.integers(1, 200))
def test_work_adds_up_and_sharing_only_saves(rows: list[tuple[str, str]], limit: int) -> None:
    requests = [ask(prompt * 200, response) for prompt, response in rows]
    whole = work_of(requests, limit)
    assert whole.rows == len(requests)
    assert whole.tokens <= limit * len(requests)
    assert 0 <= whole.new_tokens <= whole.tokens
    assert whole.tokens - whole.new_tokens <= whole.pairs - whole.new_pairs or whole.tokens == whole.new_tokens
    apart = sum((work_of([request], limit) for request in requests), NOTHING)
    assert (apart.tokens, apart.pairs, apart.logits) == (whole.tokens, whole.pairs, whole.logits)
    assert apart.new_tokens == apart.tokens >= whole.new_tokens


def test_the_estimate_of_shared_tokens_is_that_of_the_packer() -> None:
    """One token a character: what is computed anew is what `packing.distinct` counts, but for the template."""
    prompt, responses = "p" * 400, ["a" * 100, "a" * 60 + "b" * 80, "c" * 50]
    rows = [list((prompt + response).encode()) for response in sorted(responses)]
    work = work_of([ask(prompt, response) for response in sorted(responses)], None)
    assert work.new_tokens / work.tokens == pytest.approx(packing.distinct(rows) / sum(map(len, rows)), abs=0.05)


sizes = st.sampled_from([0.1, 0.4, 1.4, 3, 7, 8, 13, 27, 34, 46.7, 70, 104, 180, 340])
gpus = st.sampled_from([gpu for name, gpu in GPUS.items() if name != CPU])
kinds = st.sampled_from(["reward", "preference", "logprob", "generate"])


@settings(deadline=None)
@given(sizes, gpus, kinds, st.sampled_from(["vllm", "transformers"]), st.sampled_from([1, 2, 4, 8]))
def test_what_is_placed_fits(billions: float, gpu: Gpu, kind: Any, engine: str, node: int) -> None:
    one = job(billions, kind=kind, engine=engine)
    found = placement(one, gpu, node, Rates())
    if isinstance(found, str):
        assert gpu.name in found
        assert needed_bytes(one, 1) > USABLE * gpu.memory
        return
    whole = max(1, round(found.gpus))
    assert needed_bytes(one, whole) <= gpu.memory * USABLE
    assert whole == 1 or engine == "vllm", "only vLLM spreads a model"
    assert whole <= node * found.nodes
    if found.nodes > 1:
        assert needed_bytes(one, node) > USABLE * gpu.memory, "several nodes only where one is too small"
    if found.gpus < 1:
        assert needed_bytes(one, 1) <= found.gpus * gpu.memory, "those beside it fit too"
    assert found.load_seconds > 0
    assert all(seconds > 0 for seconds in found.shard_seconds)


@settings(deadline=None)
@given(sizes, gpus, kinds, st.integers(1, 10**6), st.integers(0, 10**6))
def test_more_tokens_never_take_less_time(billions: float, gpu: Gpu, kind: Any, tokens: int, more: int) -> None:
    def seconds(count: int) -> float:
        work = Work(10, count, packing.ends(count), count, packing.ends(count), count // 2)
        return shard_seconds(job(billions, kind=kind), work, gpu, 1, 1, Rates())

    assert seconds(tokens) <= seconds(tokens + more)


def test_known_models_land_where_people_run_them() -> None:
    assert str(placed(job(8.0))) == "1 A100-80G"
    assert str(placed(job(0.4))) == "1/4 A100-80G"
    assert str(placed(job(8.0), GPUS["L4-24G"])) == "1 L4-24G"
    assert str(placed(job(46.7, engine="vllm"))) == "2 A100-80G"
    assert str(placed(job(70.0, engine="vllm"))) == "4 A100-80G"
    assert str(placed(job(340.0, engine="vllm"))) == "16 A100-80G on 2 nodes"
    refused = placement(job(70.0), A100, 8, Rates())
    assert refused == "needs 144 GB of memory, A100-80G has 80"
    on_cpu = job(1.4, dtype="float32")
    assert placed(on_cpu, GPUS[CPU]).gpus == 0
    assert str(placed(on_cpu, GPUS[CPU])) == "cpu"


def test_seconds_are_those_of_the_arithmetic() -> None:
    """8B, 50,000 new tokens: 2 N T and the attention's pairs over half the peak; loading at two gigabytes a second."""
    one = job(8.0)
    operations = one.architecture.cost.of(50_000, 8_000_000)
    found = placed(one)
    assert found.shard_seconds[0] == pytest.approx(operations / (312e12 * 0.5))
    assert found.load_seconds == pytest.approx(15 + 16e9 / LOAD_BYTES["disk"])
    unshared = placed(replace(one, shares=False)).shard_seconds[0]
    assert unshared == pytest.approx(one.architecture.cost.of(60_000, 9_000_000) / (312e12 * 0.5))


def test_two_gpus_are_faster_than_one_but_not_twice() -> None:
    one = job(8.0, engine="vllm")
    alone, both = (shard_seconds(one, one.shards[0], A100, count, 1, Rates()) for count in (1, 2))
    assert both < alone < 2 * both


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80G"),
        ("NVIDIA A100-SXM4-40GB", "A100-40G"),
        ("NVIDIA A100 80GB PCIe", "A100-80G"),
        ("NVIDIA H200", "H200-141G"),
        ("NVIDIA L4", "L4-24G"),
        ("NVIDIA L40S", "L40S-48G"),
        ("cpu", "cpu"),
    ],
)
def test_devices_are_known_by_the_names_that_drivers_give(device: str, name: str) -> None:
    found = gpu_of(device)
    assert found is not None
    assert found.name == name
    assert gpu_of("Voodoo 2") is None


def footer(**changes: str) -> dict[str, str]:
    return {
        "device": "NVIDIA A100-SXM4-80GB",
        "architecture": "LlamaForSequenceClassification",
        "parameters": "8000000000",
        "dtype": "bfloat16",
        "flops": str(312e12 * 0.62 * 10),
        "compute_seconds": "10",
        "load_seconds": "8",
        "gpus": "1",
        "tokens": "50000",
        "characters": "174150",
        "utf8": "174150",
        "path": "/models/one",
        **changes,
    }


KINDS = {"NVIDIA A100-SXM4-80GB": ("A100-80G", 312e12)}


def test_footers_replace_assumptions_for_their_device_and_class_alone() -> None:
    rates = calibrated([footer(run=str(run)) for run in range(FEWEST)], KINDS)
    llama, small = typical(8.0, head=False), typical(1.4, head=False)
    same = replace(llama, name="LlamaForSequenceClassification")
    assert rates.mfu("A100-80G", same).value == pytest.approx(0.62)
    assert rates.mfu("A100-80G", same).source == "measured on 3 parts"
    assert rates.mfu("A100-80G", llama).value == pytest.approx(0.62), "no name: models of its size"
    for other in (rates.mfu("H100-80G", same), rates.mfu("A100-80G", small)):
        assert (other.value, other.source) == (0.5, "assumed")
    load = rates.load_seconds("A100-80G", "disk", "transformers", same, "bfloat16")
    assert (load.value, load.source) == (pytest.approx(8.0), "measured on 3 loads")
    assert rates.load_seconds("A100-80G", "hub", "transformers", same, "bfloat16").source == "assumed"
    assert rates.tokens.value == pytest.approx(50000 / (174150 / 3.87))


def test_too_few_old_or_broken_footers_change_nothing() -> None:
    assert calibrated([footer()] * (FEWEST - 1), KINDS) == Rates()
    old = {"compute_seconds": "3", "load_seconds": "1", "tokens": "10"}
    assert calibrated([old, footer(flops="many", device="Voodoo 2")] * 5, KINDS).shares == {}
    assert calibrated([footer(written_tokens="9")] * 5, KINDS).shares == {}, "writing is bound by memory"
    assert calibrated([footer(run="1")] * 9, KINDS).loads == {}, "one load, told by nine parts"


def test_a_measured_share_moves_the_prediction() -> None:
    rates = calibrated([footer(run=str(run)) for run in range(FEWEST)], KINDS)
    assert placed(job(8.0), rates=rates).shard_seconds[0] == pytest.approx(
        placed(job(8.0)).shard_seconds[0] * 0.5 / 0.62
    )


@pytest.mark.parametrize(
    ("path", "source"), [("/data/m", "disk"), ("./m", "disk"), ("s3://bucket/m", "store"), ("org/m", "hub")]
)
def test_where_a_path_lies(path: str, source: str) -> None:
    assert source_of(path) == source
    assert GB == 10**9


def test_mfu_is_known_for_known_gpus_alone() -> None:
    facts = {"device": "NVIDIA H200", "dtype": "bfloat16", "flops": str(989.4e12)}
    assert flops.mfu(facts, 2.0, 1) == pytest.approx(0.5)
    assert flops.mfu(facts, 2.0, 2) == pytest.approx(0.25)
    assert flops.mfu({**facts, "device": "cpu"}, 2.0, 1) is None
    assert flops.mfu({"device": "NVIDIA H200", "dtype": "bfloat16"}, 2.0, 1) is None


def test_an_architecture_is_a_value() -> None:
    assert isinstance(hash(typical(8.0, head=True)), int)
    assert isinstance(typical(8.0, head=True), Architecture)
