"""What the transformers engine writes: greedy or drawn, always the same, and nothing but what the options ask for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.pin import pin_model
from workers import tiny_judge
from workers.checkpoint import config_of, renderer_of
from workers.engines import transformers as engine
from workers.errors import ModelError
from workers.protocol import Message, ModelSpec, Output, Request, measure
from workers.tiny_zoo import POSITIONS

NEW = 12


def request(text: str, system: str = "Judge.") -> Request:
    return Request("generate", (Message("system", system), Message("user", text)), ())


REQUESTS = [request(text) for text in ("short", "a longer question " * 20, "日本語 \U0001f600", "x" * 90)]


@pytest.fixture
def spec(checkpoint: Callable[..., Path]) -> Callable[..., ModelSpec]:
    def pinned(path: Path | None = None, **entry: Any) -> ModelSpec:
        options = {"max_new_tokens": NEW, **entry.pop("options", {})}
        source = path or checkpoint("llama", causal=True)
        values = {"path": str(source), "family": "judge", "engine": "transformers", "options": options, **entry}
        return pin_model("tiny", values, cuda=False).streams[0]

    return pinned


def run(spec: ModelSpec, requests: Sequence[Request] = REQUESTS) -> list[Output]:
    return engine.load(spec).run(requests)


def texts(spec: ModelSpec, requests: Sequence[Request] = REQUESTS) -> list[str | None]:
    return [output.text for output in run(spec, requests)]


def test_greedy_text_is_what_the_model_finds_likeliest(spec: Callable[..., ModelSpec]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    made = spec()
    outputs = run(made)
    model = AutoModelForCausalLM.from_pretrained(made.path).eval()
    renderer = renderer_of(made, config_of(made, "generate"))
    for row, output in zip(renderer.render(REQUESTS), outputs, strict=True):
        ids = list(row.ids)
        for _ in range(NEW):
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == renderer.tokenizer.eos_token_id:
                break
        written = ids[len(row.ids) :]
        assert output.text == renderer.tokenizer.decode(written, skip_special_tokens=True)
        assert output.extra["completion_tokens"] == len(written)
        assert output.num_tokens == len(row.ids)
        assert row.text.endswith("<|assistant|>\n")


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_a_text_depends_on_no_neighbour(temperature: float, spec: Callable[..., ModelSpec]) -> None:
    made = spec(options={"temperature": temperature})
    together = texts(made)
    assert together == texts(made)
    assert together == texts(made, REQUESTS[::-1])[::-1]
    assert together == [text for one in REQUESTS for text in texts(made, [one])]
    assert together == texts(spec(options={"temperature": temperature}, token_budget=100_000))
    assert len(set(together)) > 1


def test_a_draw_is_decided_by_its_seed(spec: Callable[..., ModelSpec]) -> None:
    drawn = [texts(spec(options={"temperature": 1.0, "seed": seed})) for seed in (0, 1)]
    assert drawn[0] != drawn[1] != texts(spec())
    assert texts(spec(options={"temperature": 1.0, "top_p": 1e-6})) == texts(spec()), "the likeliest token alone"


def test_drawing_leaves_the_global_generator_alone(spec: Callable[..., ModelSpec]) -> None:
    import torch

    loaded = engine.load(spec(options={"temperature": 1.0}))
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    loaded.run(REQUESTS[:1])
    assert torch.rand(1) == expected


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_checkpoints_own_penalties_and_cuts_are_not_used(
    temperature: float, spec: Callable[..., ModelSpec], checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Chat models ship a `repetition_penalty` or `top_k`, which the reference's sampling does not know either."""
    folder = shutil.copytree(checkpoint("llama", causal=True), tmp_path / "biased")
    own = {"eos_token_id": 2, "repetition_penalty": 9.0, "top_k": 1, "no_repeat_ngram_size": 1, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(own))
    options = {"temperature": temperature}
    assert texts(spec(folder, options=options)) == texts(spec(options=options))


def test_every_end_that_the_checkpoint_names_ends_a_text(
    spec: Callable[..., ModelSpec], checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Llama 3 ends a turn with 128009, which is in its generation configuration and not the tokenizer's EOS."""
    loaded = engine.load(spec())
    (first,) = loaded.run(REQUESTS[:1])
    (row,) = loaded._renderer.render(REQUESTS[:1])
    token = loaded._head.read([row], loaded._inputs([row]))[0].written[2]  # type: ignore[index]
    folder = shutil.copytree(checkpoint("llama", causal=True), tmp_path / "ends")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, token]}))
    (cut,) = run(spec(folder), REQUESTS[:1])
    assert cut.extra["completion_tokens"] <= 3 < first.extra["completion_tokens"]


def test_a_prompt_that_is_too_long_leaves_room_for_the_answer(spec: Callable[..., ModelSpec]) -> None:
    short, long = run(spec(max_length=100), [REQUESTS[0], request("a longer question " * 200)])
    assert (short.truncated, long.truncated) == (False, True)
    assert long.num_tokens == 100 - NEW
    assert long.text is not None


def test_no_room_for_a_prompt_is_an_error_that_names_the_option(spec: Callable[..., ModelSpec]) -> None:
    made = spec(options={"max_new_tokens": POSITIONS})
    words = r"max_new_tokens leaves no room for a prompt in 8192 tokens; lower models\.tiny\.options\.max_new_tokens"
    with pytest.raises(ModelError, match=words):
        engine.lint(made, REQUESTS)


def test_thoughts_are_stored_whole(spec: Callable[..., ModelSpec], tmp_path: Path) -> None:
    said = "<think>[[A]]</think>[[B]]"
    (output,) = run(spec(tiny_judge.build(tmp_path / "thinks", said)), REQUESTS[:1])
    assert measure("f", REQUESTS[0], output).text == said


def test_a_template_can_be_told_whether_to_think(spec: Callable[..., ModelSpec]) -> None:
    template = "{% for turn in messages %}{{ turn.content }}{% endfor %}{% if thinking %}<think>{% endif %}"
    made = spec(chat_template=None, template_kwargs={"thinking": True})
    renderer = renderer_of(made, config_of(made, "generate"))
    renderer.template = template
    assert renderer.render(REQUESTS[:1])[0].text.endswith("<think>")


def test_a_template_that_drops_the_judges_instructions_is_an_error(
    spec: Callable[..., ModelSpec], tmp_path: Path
) -> None:
    (tmp_path / "users.jinja").write_text(
        "{% for turn in messages if turn.role != 'system' %}{{ turn.content }}{% endfor %}"
    )
    made = spec(chat_template=str(tmp_path / "users.jinja"))
    errors = [finding for finding in engine.lint(made, REQUESTS) if finding.severity == "error"]
    assert [(finding.check, len(finding.requests)) for finding in errors] == [("lost-text", len(REQUESTS))]
    assert "scoring.system: merged" in errors[0].message
    assert not [finding for finding in engine.lint(spec(), REQUESTS) if finding.check == "lost-text"]
