"""Conformance of every engine in the folder, and the promises of the transformers engine."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.choose import is_installed
from orchestrator.pin import pin_model
from tests.fake_endpoint import serving
from tests.test_render import counted
from workers import plugins
from workers.actor import Worker
from workers.engines import transformers as engine
from workers.errors import ModelError
from workers.protocol import Message, ModelSpec, Output, Request, Shard, Unscored

ENGINES = [
    pytest.param(name, marks=pytest.mark.vllm) if name == "vllm" else name
    for name in plugins.available("workers.engines")
]


def request(response: str, prompt: str = "What is it?") -> Request:
    return Request("reward", (Message("user", prompt),), (response,))


REQUESTS = [request(text) for text in ("short", "", "a longer answer " * 30, "日本語 \U0001f600", "short ", "x" * 400)]


def pinned(path: Path, **entry: Any) -> ModelSpec:
    return pin_model("tiny", {"path": str(path), "family": "scalar", **entry}, cuda=False).streams[0]


@pytest.fixture(params=ENGINES)
def spec(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Iterator[ModelSpec]:
    if not is_installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    if request.param == "baseline":
        yield pin_model("null", {"family": "baseline", "options": {"score": "random"}}, cuda=False).streams[0]
    elif request.param == "openai":
        with serving() as endpoint:
            yield pinned(Path("served"), family="judge", engine="openai", endpoint=endpoint.url)
    else:
        yield pinned(checkpoint("llama", head_size=32), engine=request.param)


def text_of(asked: Request) -> Request:
    """The same words as a question for an engine that writes."""
    return Request("generate", (*asked.prompt, Message("user", asked.responses[0])), ())


def test_engine_conforms(spec: ModelSpec) -> None:
    module = plugins.resolve("workers.engines", spec.engine)
    assert isinstance(module.VERSION, str)
    assert isinstance(module.NEEDS_WEIGHTS, bool)
    scores = "reward" in module.KINDS
    requests = REQUESTS if scores else [text_of(one) for one in REQUESTS]
    assert {one.kind for one in requests} <= set(module.KINDS)
    loaded = module.load(spec)
    outputs = loaded.run(requests)
    assert loaded.run(requests) == outputs, "the same requests give the same outputs"
    backwards = loaded.run(requests[::-1])[::-1]
    assert [output.token_hash for output in backwards] == [output.token_hash for output in outputs]
    assert [output.value for output in backwards] == pytest.approx([output.value for output in outputs], abs=1e-5)
    assert loaded.run([]) == []
    assert [output.token_hash for output in outputs] == module.token_hashes(spec, requests)
    assert all(isinstance(value, str) for value in loaded.details().values())
    assert pickle.loads(pickle.dumps(outputs)) == outputs
    assert len(module.shown(spec, requests)) == len(requests)
    assert scores == any(finding.check == "empty-response" for finding in module.lint(spec, requests))
    loaded.close()


@pytest.mark.parametrize("architecture", ["llama", "gpt-neox", "gpt2", "bert", "deberta-v2"])
def test_a_score_does_not_depend_on_its_batch(architecture: str, checkpoint: Callable[..., Path]) -> None:
    spec = pinned(checkpoint(architecture))
    alone = scores(spec, [[one] for one in REQUESTS])
    for budget, order in ((10_000, 1), (700, 1), (10_000, -1)):
        batched = scores(replace(spec, token_budget=budget), [REQUESTS[::order]])[::order]
        assert batched == pytest.approx(alone, abs=1e-5, rel=0)
    assert max(alone) - min(alone) > 1e-3


def scores(spec: ModelSpec, calls: Sequence[Sequence[Request]]) -> list[float]:
    loaded = engine.load(spec)
    return [output.value for call in calls for output in loaded.run(call)]


class Memory:
    """A model that has room for `rows` rows only, as a GPU would say it."""

    def __init__(self, model: Any, rows: int) -> None:
        self.model, self.config, self.rows, self.refused = model, model.config, rows, 0

    def __call__(self, input_ids: Any, **inputs: Any) -> Any:
        if input_ids.shape[0] > self.rows:
            self.refused += 1
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.model(input_ids=input_ids, **inputs)


def test_out_of_memory_halves_the_batch_and_lowers_the_budget(checkpoint: Callable[..., Path]) -> None:
    spec = pinned(checkpoint("llama"), token_budget=100_000)
    expected = scores(spec, [REQUESTS])
    loaded = engine.load(spec)
    memory = loaded._head.model = Memory(loaded._head.model, rows=2)
    assert [output.value for output in loaded.run(REQUESTS)] == pytest.approx(expected, abs=1e-5, rel=0)
    assert memory.refused > 0
    assert loaded._budget.tokens < 100_000


def test_a_conversation_that_does_not_fit_alone_costs_no_other_its_score(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = engine.load(pinned(checkpoint("llama")))
    expected = loaded.run(REQUESTS)
    sizes = [output.num_tokens for output in expected if isinstance(output, Output)]
    read = loaded._head.read

    def little_room(rows: Sequence[Any], inputs: Any) -> Any:
        if sum(len(row.ids) for row in rows) >= max(sizes):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes")
        return read(rows, inputs)

    monkeypatch.setattr(loaded._head, "read", little_room)
    found = loaded.run(REQUESTS)
    largest = sizes.index(max(sizes))
    assert found[largest] == Unscored(f"one conversation of {max(sizes)} tokens does not fit into memory")
    rest = [(one.value, other.value) for one, other in zip(expected, found, strict=True) if isinstance(other, Output)]
    assert len(rest) == len(REQUESTS) - 1
    assert [one for one, _ in rest] == pytest.approx([other for _, other in rest], abs=1e-5)
    assert loaded._budget.tokens < max(sizes)


def test_other_errors_of_the_forward_pass_are_not_swallowed(checkpoint: Callable[..., Path]) -> None:
    loaded = engine.load(pinned(checkpoint("llama")))

    class Broken:
        config = loaded._head.model.config

        def __call__(self, **inputs: Any) -> Any:
            raise RuntimeError("shapes cannot be multiplied")

    loaded._head.model = Broken()
    with pytest.raises(RuntimeError, match="multiplied"):
        loaded.run(REQUESTS[:1])


def copy(checkpoint: Path, folder: Path, **config: Any) -> Path:
    shutil.copytree(checkpoint, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **config}))
    return folder


def test_a_language_model_is_not_a_reward_model(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="LlamaForCausalLM, not a reward model"):
        engine.lint(pinned(checkpoint("llama", causal=True)), REQUESTS)


def test_a_missing_head_is_not_started_at_random(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = copy(
        checkpoint("llama", causal=True), tmp_path / "headless", architectures=["LlamaForSequenceClassification"]
    )
    with pytest.raises(ModelError, match=r"no weights for score\.weight"):
        engine.load(pinned(folder))


def test_a_head_with_several_labels_needs_a_choice(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder = tmp_path / "three"
    shutil.copytree(checkpoint("llama"), folder)
    config = AutoConfig.from_pretrained(folder, num_labels=3)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"3 labels; set models\.tiny\.options\.label"):
        engine.load(pinned(folder))
    by_label = [scores(pinned(folder, options={"label": label}), [REQUESTS])[0] for label in range(3)]
    assert len(set(by_label)) == 3
    with pytest.raises(ModelError, match="0 to 2"):
        engine.load(pinned(folder, options={"label": 3}))


def test_padding_uses_the_models_own_pad_id(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """A model whose pad id is not its tokenizer's reads the same position alone and in a batch."""
    folder = copy(checkpoint("llama"), tmp_path / "other-pad", pad_token_id=7)
    spec = pinned(folder)
    assert scores(spec, [REQUESTS]) == pytest.approx(scores(spec, [[one] for one in REQUESTS]), abs=1e-5, rel=0)


def test_truncation_is_recorded(checkpoint: Callable[..., Path]) -> None:
    outputs = engine.load(pinned(checkpoint("llama"), max_length=32)).run(REQUESTS)
    assert [output.truncated for output in outputs] == [output.num_tokens == 32 for output in outputs]
    assert any(output.truncated for output in outputs)
    assert not all(output.truncated for output in outputs)


def test_pickled_weights_need_permission(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(checkpoint("llama"), folder)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="tiny"):
        engine.load(pinned(folder))
    assert scores(pinned(folder, allow_pickle=True), [REQUESTS]) == scores(pinned(checkpoint("llama")), [REQUESTS])


def test_what_the_preflight_rendered_is_scored_without_rendering_again(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    worker = Worker(pinned(checkpoint("llama")), lambda *_: None)
    asked = tuple(map(request, ("one", "two", "three")))
    worker.lint(asked)
    worker.load()
    assert [worker.score(Shard("a", "s", asked[:2])).rows, worker.score(Shard("b", "s", asked[1:])).rows] == [2, 2]
    assert made == [3, 1], "all for the preflight, and the one that was asked for twice"
