"""oneDNN's products on a CPU: torch's numbers, a token's the same whatever its neighbours, or not used at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_packed import pinned
from workers import onednn
from workers.engines import transformers as engine

needed = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")


@pytest.fixture(autouse=True, scope="module")
def wide() -> Iterator[None]:
    """As on a processor with AVX-512."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        yield


def layer(wide: int, out: int, bias: bool) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(wide, out, bias=bias).eval().requires_grad_(False)


@needed
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 96), st.integers(1, 96), st.booleans())
def test_products_are_those_of_float64_and_of_a_token_alone(tokens: int, wide: int, out: int, bias: bool) -> None:
    model = layer(wide, out, bias)
    states = torch.randn(1, tokens, wide, generator=torch.Generator().manual_seed(tokens))
    exact = torch.nn.functional.linear(
        states.double(), model.weight.double(), None if model.bias is None else model.bias.double()
    )
    assert onednn.adopt(torch.nn.Sequential(model)) == "oneDNN"
    with torch.inference_mode():
        together = model(states)
        alone = model(states[:, tokens // 2 : tokens // 2 + 1])
    assert together.shape == exact.shape
    assert (together - exact).abs().max() <= 1e-5 * max(1.0, exact.abs().max().item())
    assert torch.equal(together[:, tokens // 2], alone[:, 0])


@needed
@pytest.mark.parametrize("tied", [True, False])
def test_weights_of_an_embedding_stay(checkpoint: Callable[..., Path], tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint("llama", causal=True)).eval()
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        before, parameters = model(ids).logits, model.num_parameters()
        assert onednn.adopt(model) == "oneDNN"
        after = model(ids).logits
    assert model.lm_head.weight.is_mkldnn != tied
    assert model.model.layers[0].mlp.up_proj.weight.is_mkldnn
    assert model.num_parameters() == parameters
    assert (before - after).abs().max() < 1e-5


def _refuse(*_: object) -> None:
    raise RuntimeError("no such operation\nsecond line")


@pytest.mark.parametrize(
    ("product", "reason"),
    [
        (_refuse, "no product by oneDNN: no such operation"),
        (lambda states, weight, bias: torch.zeros(states.shape[0], bias.shape[0]), "oneDNN's product is another"),
    ],
)
@needed
def test_what_does_not_multiply_right_is_not_used(
    monkeypatch: pytest.MonkeyPatch, product: Callable[..., object], reason: str
) -> None:
    monkeypatch.setattr(onednn, "_product", product)
    model = layer(8, 8, bias=True)
    own = model.weight
    assert onednn.adopt(torch.nn.Sequential(model)) == f"torch ({reason})"
    assert model.weight is own


@needed
def test_torch_keeps_the_products_where_the_processor_has_no_wide_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    model = layer(8, 8, bias=True)
    own = model.weight
    assert onednn.adopt(torch.nn.Sequential(model)) == "torch (as fast without AVX-512)"
    assert model.weight is own


def test_other_types_are_left_to_torch() -> None:
    assert onednn.adopt(layer(8, 8, bias=False).to(torch.bfloat16)).startswith("torch (no linear layers")


@needed
def test_the_engine_says_who_multiplies(checkpoint: Callable[..., Path]) -> None:
    assert engine.load(pinned(checkpoint("llama"))).details()["products"] == "oneDNN"
