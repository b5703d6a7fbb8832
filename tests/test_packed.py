"""Packed passes on real architectures: the same states as alone, every token once; and what cannot be packed is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.pin import pin_model
from tests.conftest import ROOT
from workers import flops, packed, packing
from workers.engines import transformers as engine
from workers.protocol import Message, ModelSpec, Output, Request

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
ROWS = [
    tuple(range(1, 70)),
    (*range(1, 60), 7, 9),
    (*range(1, 60), 7, 8, 3),
    tuple(range(40, 99)),
    (5,),
    tuple(range(1, 60)),
]
PROMPTS = ["What is it?", "Why is the sky blue, and would it be so on another planet? " * 4, "Add 2 and 2."]


def pinned(path: Path, **entry: Any) -> ModelSpec:
    return pin_model("tiny", {"path": str(path), "family": "scalar", **entry}, cuda=False).streams[0]


def pairs(kind: Any = "reward") -> list[Request]:
    texts = ("short", "a longer answer " * 20, "short.", "a longer answer " * 21)
    return [Request(kind, (Message("user", prompt),), (text,)) for prompt in PROMPTS for text in texts]


def small(kind: str, **changes: Any) -> Any:
    """A random model without a head."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes})
    return transformers.AutoModel.from_config(config).eval()


def states_alone(body: Any, rows: Sequence[Sequence[int]]) -> list[Any]:
    import torch

    with torch.inference_mode():
        return [body(torch.tensor([row])).last_hidden_state[0] for row in rows]


def states_packed(body: Any, way: packed.PackedBody, rows: Sequence[Sequence[int]]) -> list[Any]:
    import torch

    plan = packing.pack(rows, sharing=way.way.sharing)
    with torch.inference_mode(), way.holding(plan):
        found = body(torch.zeros(plan.shape, dtype=torch.long)).last_hidden_state
    assert all(not found[at, len(row) :].any() for at, row in enumerate(rows)), "nothing where there is no token"
    return [found[at, : len(row)] for at, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Llama", {}),
        ("Mistral", {"sliding_window": 200}),
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 8}),
        ("Gemma", {"head_dim": 8}),
        ("Phi3", {}),
        ("Mixtral", {}),
        ("Olmo2", {}),
        ("Cohere", {}),
        ("GPTNeoX", {}),
        ("GPT2", {}),
        ("Bert", {}),
        ("Roberta", {}),
        (
            "ModernBert",
            {"local_attention": 256, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "bos_token_id": 1},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_packed_states_are_those_alone(kind: str, changes: dict[str, Any]) -> None:
    body = small(kind, **changes)
    alone = states_alone(body, ROWS)
    way, reason = packed.pack_body(body, "float32")
    assert way is not None, reason
    for one, other in zip(alone, states_packed(body, way, ROWS), strict=True):
        assert (one - other).abs().max().item() < 1e-5
    again = states_alone(body, ROWS)
    assert all((one - other).abs().max().item() < 1e-6 for one, other in zip(alone, again, strict=True))


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("Gemma2", {"head_dim": 8}, "not the plain one"),
        ("DebertaV2", {}, "cannot be replaced"),
        ("Falcon", {}, "cannot be replaced"),
        ("T5", {}, "cannot be replaced"),
    ],
)
def test_what_cannot_be_packed_is_left_as_it_was_with_the_reason(
    kind: str, changes: dict[str, Any], reason: str
) -> None:
    body = small(kind, **changes)
    kernel, forward = body.config._attn_implementation, body.forward
    way, why = packed.pack_body(body, "float32")
    assert way is None
    assert reason in why
    assert (body.config._attn_implementation, body.forward) == (kernel, forward)


def varlen_by_the_book(query: Any, key: Any, value: Any, *ends: Any, scale: Any, window_size: Any) -> Any:
    """What torch documents of its kernel for GPUs: a softmax for each conversation, aligned at its end."""
    import torch

    found = []
    for at in range(len(ends[0]) - 1):
        (first, last), (start, stop) = ends[0][at : at + 2].tolist(), ends[1][at : at + 2].tolist()
        assert last - first <= ends[2]
        assert stop - start <= ends[3]
        weights = torch.einsum("qhd,khd->hqk", query[first:last], key[start:stop]) * scale
        if window_size == (-1, 0):
            behind = torch.ones(last - first, stop - start).tril(stop - start - (last - first)) == 0
            weights = weights.masked_fill(behind, float("-inf"))
        found.append(torch.einsum("hqk,khd->qhd", weights.softmax(-1), value[start:stop]))
    return torch.cat(found)


@pytest.mark.parametrize(("kind", "sharing"), [("Llama", True), ("GPTNeoX", True), ("Bert", False)])
def test_the_kernel_of_variable_lengths_is_told_the_same(
    kind: str, sharing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls, against its documentation: the kernel itself needs a GPU."""
    import torch.nn.attention.varlen

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_by_the_book)
    monkeypatch.setattr(packed, "_kernels", lambda body: ("varlen",))
    body = small(kind)
    alone = states_alone(body, ROWS)
    way, reason = packed.pack_body(body, "float32")
    assert way is not None, reason
    assert way.way == packed.Way(sharing, "varlen")
    for one, other in zip(alone, states_packed(body, way, ROWS), strict=True):
        assert (one - other).abs().max().item() < 1e-5


def test_what_a_kernel_does_not_bear_is_left_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the kernel for GPUs raises."""
    monkeypatch.setattr(packed, "_kernels", lambda body: packed.KERNELS)
    way, _ = packed.pack_body(small("Llama"), "float32")
    assert way is not None
    assert way.way == packed.Way(True, "each")


def test_the_types_of_tokens_and_the_pooler_are_packed_too() -> None:
    """A classifier of the BERT kind reads its pooler, and a pair of texts has two types of tokens."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, initializer_range=0.5)).eval()
    rows = [row for row in ROWS if len(row) > 10]
    types = [[0] * 5 + [1] * (len(row) - 5) for row in rows]
    with torch.inference_mode():
        alone = [
            model(torch.tensor([row]), token_type_ids=torch.tensor([kinds])).logits[0]
            for row, kinds in zip(rows, types, strict=True)
        ]
        way, reason = packed.pack_body(model, "float32")
        assert way is not None, reason
        plan = packing.pack(rows, sharing=False)
        padded = torch.zeros(plan.shape, dtype=torch.long)
        for at, kinds in enumerate(types):
            padded[at, : len(kinds)] = torch.tensor(kinds)
        with way.holding(plan):
            found = model(torch.zeros_like(padded), token_type_ids=padded).logits
    assert found == pytest.approx(torch.stack(alone), abs=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-4


def test_a_body_that_mixes_its_rows_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention that lets every token see all of the pass before it."""
    import torch

    body = small("Llama")

    def careless(module: Any, query: Any, key: Any, value: Any, mask: Any = None, **options: Any) -> Any:
        key, value = (states.repeat_interleave(2, 1) for states in (key, value))
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return found.transpose(1, 2).contiguous(), None

    monkeypatch.setattr(packed, "_attention", careless)
    way, why = packed.pack_body(body, "float32")
    assert way is None
    assert "states move" in why


def test_a_conversation_longer_than_the_window_runs_alone(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = window(tmp_path, checkpoint("llama"), 40)
    fast, exact = scores(pinned(folder)), scores(pinned(folder, numerics="exact"))
    assert fast == pytest.approx(exact, abs=1e-5)
    assert engine.load(pinned(folder)).details()["batching"] == "packed"
    assert exact != pytest.approx(scores(pinned(checkpoint("llama"), numerics="exact")), abs=1e-3), "the window matters"


def window(tmp_path: Path, llama: Path, size: int) -> Path:
    """The tiny Llama as a Mistral, whose tokens see the last `size` ones."""
    from shutil import copytree

    folder = tmp_path / "mistral"
    copytree(llama, folder)
    values = json.loads((folder / "config.json").read_text())
    values |= {"model_type": "mistral", "architectures": ["MistralForSequenceClassification"], "sliding_window": size}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def scores(spec: ModelSpec, requests: Sequence[Request] | None = None) -> list[float]:
    loaded = engine.load(spec)
    found = loaded.run(pairs() if requests is None else requests)
    return [output.value for output in found if isinstance(output, Output)]


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
@pytest.mark.parametrize("budget", [None, 100_000])
def test_a_rotary_embedding_that_depends_on_the_longest_row_scores_each_alone(
    rope: str, budget: int | None, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from shutil import copytree

    folder = tmp_path / "rope"
    copytree(checkpoint("llama"), folder)
    values = json.loads((folder / "config.json").read_text())
    size = values["hidden_size"] // values["num_attention_heads"] // 2
    factors = {"factor": 4.0, "original_max_position_embeddings": 64}
    factors |= {"short_factor": [1.0] * size, "long_factor": [3.0] * size} if rope == "longrope" else {}
    values["rope_parameters"] = {"rope_type": rope, "rope_theta": 10_000.0, **factors}
    (folder / "config.json").write_text(json.dumps(values))
    spec = replace(pinned(folder), token_budget=budget)
    assert scores(spec) == scores(replace(spec, numerics="exact"))
    assert engine.load(spec).details()["batching"].startswith("alone")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(len(pairs()))), cut=st.integers(1, len(pairs()) - 1))
@pytest.mark.parametrize("kind", ["reward", "logprob"])
def test_exact_scores_are_bit_equal_whatever_the_shard_and_the_order(
    kind: str, checkpoint: Callable[..., Path], order: list[int], cut: int
) -> None:
    more = {"family": "dpo", "scoring": {"reference_free": "avg"}} if kind == "logprob" else {}
    spec = pinned(checkpoint("llama", causal=kind == "logprob"), numerics="exact", **more)
    requests = pairs(kind)
    whole = scores(spec, requests)
    parts = [
        scores(replace(spec, token_budget=cut * 50), [requests[at] for at in part])
        for part in (order[:cut], order[cut:])
    ]
    assert [value for part in parts for value in part] == [whole[at] for at in order]


@pytest.mark.parametrize("architecture", ["llama", "gpt-neox", "gpt2"])
@pytest.mark.parametrize("kind", ["reward", "logprob"])
def test_fast_scores_are_the_exact_ones_within_the_noise(
    architecture: str, kind: str, checkpoint: Callable[..., Path]
) -> None:
    more = {"family": "dpo", "scoring": {"reference_free": "avg"}} if kind == "logprob" else {}
    spec = pinned(checkpoint(architecture, causal=kind == "logprob"), **more)
    assert scores(spec, pairs(kind)) == pytest.approx(
        scores(replace(spec, numerics="exact"), pairs(kind)), abs=1e-5, rel=1e-6
    )


def test_a_pass_computes_what_is_shared_once(checkpoint: Callable[..., Path]) -> None:
    loaded, alone = (engine.load(pinned(checkpoint("llama"), numerics=mode)) for mode in ("fast", "exact"))
    tokens = sum(output.num_tokens for output in loaded.run(pairs()) if isinstance(output, Output))
    alone.run(pairs())
    work, own = loaded.details(), alone.details()
    assert int(work["distinct_tokens"]) <= int(work["computed_tokens"]) <= 1.02 * int(work["distinct_tokens"])
    assert int(work["computed_tokens"]) < 0.7 * tokens
    assert int(own["computed_tokens"]) == tokens
    assert int(own["distinct_tokens"]) == int(work["distinct_tokens"])
    assert int(work["flops"]) < 0.7 * int(own["flops"])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("Llama", {}), ("GPTNeoX", {}), ("GPT2", {}), ("Bert", {}), ("Gemma", {"head_dim": 16}), ("Mixtral", {})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_formula_counts_what_torch_counts(kind: str, changes: dict[str, Any]) -> None:
    """Torch's counter sees every product of matrices; eager attention makes those of all pairs, causal or not."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    body = small(kind, **changes)
    body.set_attn_implementation("eager")
    if kind == "Mixtral":
        body.set_experts_implementation("eager")
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        body(torch.arange(1, 65)[None])
    pooler = 2 * 32 * 32 * 63 if kind == "Bert" else 0  # Bert's pooler reads one token of the 64
    counted = counter.get_total_flops() + pooler
    router = 2 * 64 * 2 * SMALL["hidden_size"] * 8 if kind == "Mixtral" else 0
    assert flops.cost_of(body).of(64, 64 * 64) + router == pytest.approx(counted, rel=1e-3)


def test_peaks_are_found_by_the_name_of_the_device() -> None:
    assert flops.peak("NVIDIA H200", "bfloat16") == 989.4e12
    assert flops.peak("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert flops.peak("NVIDIA H100 80GB HBM3", "float16") == 989.4e12
    assert flops.peak("NVIDIA A100-SXM4-80GB", "bfloat16") == 312e12
    assert flops.peak("NVIDIA A10", "bfloat16") == 125e12
    assert flops.peak("NVIDIA L4", "bfloat16") == 121e12
    assert flops.peak("NVIDIA A100-SXM4-80GB", "float32") is None
    assert flops.peak("cpu", "float32") is None


CAPPED = """
import json, resource, sys
from orchestrator.pin import pin_model
from workers.engines import transformers as engine
from workers.protocol import Message, Output, Request
spec = pin_model("tiny", {"path": sys.argv[1], "family": "scalar"}, cuda=False).streams[0]
long = Request("reward", (Message("user", "q"),), ("word " * 7000,))
short = [Request("reward", (Message("user", f"q{number}"),), ("answer",)) for number in range(5)]
loaded = engine.load(spec)
loaded.run(short)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)
found = loaded.run([short[0], long, *short[1:]])
print(json.dumps([one.value if isinstance(one, Output) else one.reason for one in found]))
"""


def test_under_a_cap_of_memory_one_conversation_fails_and_the_others_are_scored(
    checkpoint: Callable[..., Path],
) -> None:
    """A real cap: the allocator of torch is refused the memory of the long conversation."""
    folder = checkpoint("llama", hidden_size=512)  # the tokenizer needs some memory too, the long conversation far more
    command = [sys.executable, "-c", CAPPED, str(folder)]
    found = {}
    for cap in (32, 4096):
        done = subprocess.run([*command, str(cap)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        found[cap] = json.loads(done.stdout)
    assert "does not fit into memory" in found[32][1]
    assert isinstance(found[4096][1], float)
    rest = [[value for at, value in enumerate(values) if at != 1] for values in found.values()]
    assert rest[0] == pytest.approx(rest[1], abs=1e-5)
