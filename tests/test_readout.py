"""The last layer where only what is read of it is computed: the same states there, NaN elsewhere, and honest counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.pin import pin_model
from tests.test_packed import ROWS, pairs, pinned, scores, small
from workers import flops, heads, packed, packing, readout
from workers.engines import transformers as engine

IDS = tuple(range(20, 60))
CAUSAL = [
    ("Llama", {}, 3),
    ("Mistral", {"sliding_window": 16}, 3),
    ("Qwen3", {"head_dim": 8}, 3),
    ("Gemma2", {"head_dim": 8}, 3),
    ("Phi3", {}, 2),
    ("Mixtral", {}, 3),
    ("Cohere", {}, 3),
    ("GPTNeoX", {}, 2),
    ("GPT2", {}, 2),
    ("Falcon", {}, 2),
]
"""Architectures, and how many parts of their last layer are known by name."""


def states(body: Any, ids: tuple[int, ...], positions: readout.Positions | None) -> Any:
    import torch

    with torch.inference_mode(), readout.reading(positions):
        return body(torch.tensor([ids])).last_hidden_state[0]


@pytest.mark.parametrize(("kind", "changes", "parts"), CAUSAL, ids=[case[0] for case in CAUSAL])
def test_states_that_are_read_are_those_of_the_whole_and_the_others_nothing(
    kind: str, changes: dict[str, Any], parts: int
) -> None:
    body, few = small(kind, **changes), [3, 17, 39]
    whole = states(body, IDS, None)
    last, reason = readout.narrow(body, "float32")
    assert last is not None, reason
    assert len(readout._parts(body)) == parts
    some = states(body, IDS, [few])
    assert (some[few] - whole[few]).abs().max().item() < 1e-5
    assert some[[place for place in range(len(IDS)) if place not in few]].isnan().all()
    assert states(body, IDS, None).equal(whole), "asked for all, it is the model that it was"
    last.undo()
    assert states(body, IDS, [few]).equal(whole)


@pytest.mark.parametrize(
    ("kind", "reason"), [("Bloom", "does not bear it: TypeError"), ("Bert", "no part of it has a name")]
)
def test_a_model_that_does_not_bear_it_is_left_as_it_was_with_the_reason(kind: str, reason: str) -> None:
    body = small(kind)
    whole = states(body, IDS, None)
    last, found = readout.narrow(body, "float32")
    assert last is None
    assert reason in found
    assert states(body, IDS, [[5]]).equal(whole)


def test_a_part_that_looks_at_other_tokens_is_found_out() -> None:
    import torch

    body = small("Llama")
    own = body.layers[-1].mlp.forward
    body.layers[-1].mlp.forward = lambda hidden: own(hidden) + hidden.mean(1, keepdim=True)
    last, reason = readout.narrow(body, "float32")
    assert (last, reason) == (None, "its states at one position depend on those parts at others")
    body.layers[-1].mlp.forward = own
    body.layers[-1].register_forward_hook(lambda layer, given, made: torch.nan_to_num(made))
    last, reason = readout.narrow(body, "float32")
    assert (last, reason) == (None, "its states do not all pass through the parts that are known")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_packed_rows_are_narrowed_at_their_own_places(data: st.DataObject) -> None:
    import torch

    body = small("Llama")
    alone = [states(body, row, None) for row in ROWS]
    way, _ = packed.pack_body(body, "float32")
    last, _ = readout.narrow(body, "float32")
    assert way is not None
    assert last is not None
    wanted = [data.draw(st.lists(st.integers(0, len(row) - 1), min_size=1, max_size=5)) for row in ROWS]
    plan = packing.pack(ROWS)
    with torch.inference_mode(), way.holding(plan), readout.reading(wanted):
        found = body(torch.zeros(plan.shape, dtype=torch.long)).last_hidden_state
    for one, some, positions in zip(alone, found, wanted, strict=True):
        assert (one[positions] - some[positions]).abs().max().item() < 1e-5


@pytest.mark.parametrize("kind", ["Llama", "GPTNeoX", "GPT2", "Mixtral"])
def test_what_is_spared_is_what_torch_no_longer_counts(kind: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    body = small(kind)
    body.set_attn_implementation("eager")
    if kind == "Mixtral":
        body.set_experts_implementation("eager")
    last, reason = readout.narrow(body, "float32")
    assert last is not None, reason
    counted = []
    for positions in (None, [[3, 60]]):
        counter = FlopCounterMode(display=False)
        with torch.inference_mode(), counter, readout.reading(positions):
            body(torch.arange(1, 65)[None])
        counted.append(counter.get_total_flops())
    router = 2 * 62 * 32 * 8 if kind == "Mixtral" else 0  # which the formula leaves out
    assert last.spared(64) + router == counted[0] - counted[1] > 0
    assert last.spared(64) == 0, "nothing since"


def test_a_classifier_computes_less_and_scores_the_same(checkpoint: Callable[..., Path]) -> None:
    spec = pinned(checkpoint("llama"))
    loaded = engine.load(spec)
    loaded.run(pairs()[:1])  # the head's own trial is past
    loaded.run(pairs())
    assert loaded.details()["last_layer"] == "where it is read"
    assert engine.load(replace(spec, numerics="exact")).details()["last_layer"] == "whole"
    model = loaded._head.model
    weights = flops.weights(model.model.layers[-1].mlp, model.config) + 2 * model.config.hidden_size**2
    work = {name: int(loaded.details()[name]) for name in ("flops", "computed_tokens")}
    head: Any = loaded._head
    head._usual = False
    loaded.run(pairs())
    more = int(loaded.details()["flops"]) - work["flops"]
    assert more == 2 * weights * (work["computed_tokens"] - len(pairs()))


def test_a_classifier_that_reads_elsewhere_is_read_there(tmp_path: Path, checkpoint: Callable[..., Path]) -> None:
    """ModernBERT's classifiers read the first token, or all."""
    import shutil

    import torch
    from transformers import AutoModelForSequenceClassification, ModernBertConfig

    folder = tmp_path / "modernbert"
    shutil.copytree(checkpoint("bert"), folder)
    special = {"cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = ModernBertConfig(vocab_size=2000, num_labels=1, **shape, **special)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    spec = pinned(folder)
    assert scores(spec) == pytest.approx(scores(replace(spec, numerics="exact")), abs=1e-5)


def test_a_head_that_reads_where_it_did_not_say_gets_no_number(checkpoint: Callable[..., Path]) -> None:
    spec = pin_model("tiny", {"path": str(checkpoint("llama")), "family": "scalar"}, cuda=False).streams[0]
    loaded = engine.load(spec)
    head: Any = loaded._head
    head._usual, own = True, heads.last_not
    heads.last_not = lambda pad, ids: 0  # type: ignore[assignment]
    try:
        outputs = loaded.run(pairs()[:4])
    finally:
        heads.last_not = own
    assert all(output.value != output.value for output in outputs)  # type: ignore[union-attr]
