"""Implicit rewards: log-probabilities of completions, their tokens, and what is made of policy and reference."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.benchmarks import Example
from orchestrator.pin import pin_model
from orchestrator.plan import make_plan
from tests.conftest import Cli
from workers import vocabulary
from workers.checkpoint import config_of, renderer_of
from workers.engines import transformers as engine
from workers.errors import InputError, ModelError
from workers.families import dpo
from workers.protocol import Measurement, Message, Model, Request, measure
from workers.render import Renderer
from workers.vocabulary import Vocabulary

PROMPT = (Message("user", "What is a prime?"),)
RESPONSES = ("A number with two divisors.", "No idea, sorry.", "", "日本語 \U0001f600", "long " * 120)
ARCHITECTURES = ("llama", "gpt-neox", "gpt2")


@pytest.fixture
def model(checkpoint: Callable[..., Path]) -> Callable[..., Model]:
    def build(architecture: str = "llama", **entry: Any) -> Model:
        policy, reference = (checkpoint(architecture, causal=True, seed=seed) for seed in (0, 1))
        return pin_model(
            "tuned", {"path": str(policy), "reference": str(reference), "family": "dpo", **entry}, cuda=False
        )

    return build


def requests(responses: Sequence[str] = RESPONSES) -> list[Request]:
    return [Request("logprob", PROMPT, (response,)) for response in responses]


def renderer(model: Model) -> Renderer:
    return renderer_of(model.streams[0], config_of(model.streams[0], "logprob"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probabilities_are_those_of_the_models_own_logits(architecture: str, model: Callable[..., Model]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    made = model(architecture)
    spec = made.streams[0]
    outputs = engine.load(spec).run(requests())
    whole = AutoModelForCausalLM.from_pretrained(spec.path).eval()
    for row, output in zip(renderer(made).render(requests()), outputs, strict=True):
        with torch.inference_mode():
            logits = whole(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        assert row.completion is not None
        tokens = [logits[at - 1, row.ids[at]].item() for at in range(row.completion, len(row.ids))]
        assert output.value == pytest.approx(sum(tokens), rel=1e-6)
        assert output.extra["tokens"] == len(tokens)
        assert output.extra["squares"] == pytest.approx(sum(token**2 for token in tokens), rel=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_log_probability_depends_on_no_batch_and_no_chunk(
    architecture: str, model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = model(architecture).streams[0]
    alone = [output.value for output in engine.load(spec).run(requests())]
    batched = [output.value for output in engine.load(replace(spec, token_budget=10_000)).run(requests())]
    assert batched == pytest.approx(alone, rel=1e-6)
    for tile in ((3, 2000), (2000, 7), (5, 64)):
        monkeypatch.setattr(vocabulary, "TILES", {"cpu": tile})
        cut = [output.value for output in engine.load(spec).run(requests())]
        assert cut == pytest.approx(alone, rel=1e-6)


def held(loaded: engine.TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Tokens and columns of all logits that a run makes after its probe."""
    made, sizes = Vocabulary.logits, []

    def watched(self: Vocabulary, hidden: Any, columns: slice | None = None) -> Any:
        logits = made(self, hidden, columns)
        sizes.append(tuple(logits.shape[-2:]))
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(Vocabulary, "logits", watched)
        loaded.run(requests())
    return sizes[1:]


def test_logits_are_never_held_for_more_than_a_tile(
    model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = engine.load(model().streams[0])
    layer = loaded._head.model.get_output_embeddings()
    monkeypatch.setattr(vocabulary, "TILES", {"cpu": (7, 50)})
    sizes = held(loaded, monkeypatch)
    assert max(tokens for tokens, _ in sizes) == 7
    assert max(columns for _, columns in sizes) == 50
    monkeypatch.setattr(layer, "forward", layer.forward)  # as oneDNN's stands there
    monkeypatch.setattr(vocabulary, "WHOLE_LOGITS", 7 * len(layer.weight))
    for fewest, most in ((5, 7), (9, 9)):
        monkeypatch.setattr(vocabulary, "WHOLE_TOKENS", fewest)
        loaded._head._checked = False
        sizes = held(loaded, monkeypatch)
        assert max(tokens for tokens, _ in sizes) == most
        assert {columns for _, columns in sizes} == {len(layer.weight)}


def test_a_sum_over_slices_is_that_of_the_whole_vocabulary(model: Callable[..., Model]) -> None:
    """Also where a slice has no finite logit, and where the largest one comes last."""
    import torch

    loaded = engine.load(model().streams[0])
    made = Vocabulary(loaded._head.model)
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(0)) * 30
    logits[:10, :100], logits[10:20, 250:], logits[20:30, 299] = -torch.inf, -torch.inf, 500.0
    made.logits = lambda states, columns=None: logits[:, columns or slice(None)].clone()  # type: ignore[method-assign]
    wanted = torch.arange(40) * 7 % 150 + 100
    exact = logits.double().log_softmax(-1).gather(1, wanted[:, None])[:, 0]
    for width in (1, 64, 100, 300):
        slices = [slice(start, start + width) for start in range(0, 300, width)]
        assert torch.allclose(made._chosen(logits, wanted, slices).double(), exact, rtol=1e-6, atol=1e-5)
    assert torch.allclose(made._chosen(logits, wanted, [None]).double(), exact, rtol=1e-6, atol=1e-5)


def test_logits_that_are_made_otherwise_are_refused(model: Callable[..., Model]) -> None:
    """An architecture that scales its logits in a way we do not know must not be scored wrongly."""
    loaded = engine.load(model().streams[0])
    own = loaded._head.model.forward
    loaded._head.model.forward = lambda *args, **kwargs: _doubled(own(*args, **kwargs))
    with pytest.raises(ModelError, match="makes its logits in a way that is not supported"):
        loaded.run(requests())


def _doubled(output: Any) -> Any:
    output.logits = output.logits * 2
    return output


def test_the_completion_begins_after_what_the_prompt_has_in_common(model: Callable[..., Model]) -> None:
    made = renderer(model())
    row = made.render(requests())[0]
    assert row.completion is not None
    tokenizer = made.tokenizer
    assert tokenizer.decode(row.ids[row.completion :]).strip() == "<|assistant|>\nA number with two divisors.</s>"
    assert row.ids[0] == tokenizer.bos_token_id != row.ids[1]
    assert row.clean


def test_a_token_across_the_boundary_belongs_to_the_completion(model: Callable[..., Model]) -> None:
    """The prompt ends in a letter that the answer's first token swallows."""
    template = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
    path = model().streams[0]
    made = renderer_of(replace(path, chat_template=template), config_of(path, "logprob"))
    asked = Request("logprob", (Message("user", "we return th"),), ("e value",))
    row = made.render([asked])[0]
    assert row.completion is not None
    text = made.tokenizer.decode(row.ids[row.completion :])
    assert text.strip() == "the value"


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(min_size=1, max_size=40), response=st.text(max_size=60), limit=st.integers(4, 40))
def test_any_text_is_divided_into_prompt_and_completion(
    prompt: str, response: str, limit: int, dpo_renderers: dict[str, Renderer]
) -> None:
    asked = Request("logprob", (Message("user", prompt),), (response,))
    for made in (renderer for renderer in dpo_renderers.values() if renderer.spec.protocol == "own"):
        whole = made.render([asked])[0]
        assert whole.completion is not None
        assert 0 < whole.completion <= len(whole.ids)
        assert not whole.truncated
        made.limit = limit
        cut = made.render([asked])[0]
        made.limit = None
        assert len(cut.ids) == min(limit, len(whole.ids))
        assert cut.completion is not None
        assert cut.truncated == (len(whole.ids) > limit)
        kept = len(cut.ids) - cut.completion
        assert cut.ids[cut.completion :] == whole.ids[whole.completion : whole.completion + kept], "from its start"


@pytest.fixture(scope="session")
def dpo_renderers(checkpoint: Callable[..., Path]) -> dict[str, Renderer]:
    found = {}
    for name, protocol in (("llama", "own"), ("gpt2", "own"), ("llama", "reference")):
        entry = {"path": str(checkpoint(name, causal=True)), "family": "dpo", "scoring": {"reference_free": "avg"}}
        spec = pin_model("free", {**entry, "protocol": protocol}, cuda=False).streams[0]
        found[f"{name} {protocol}"] = Renderer(spec, None)
        found[f"{name} {protocol}"].limit = None
    return found


@settings(max_examples=30, deadline=None)
@given(
    prompts=st.lists(st.sampled_from(["why", "how so?", "", " a "]), min_size=1, max_size=5),
    responses=st.lists(st.sampled_from(["why", "no", "", "how so? no", "\u65e5"]), min_size=2, max_size=3),
)
def test_a_completion_is_the_same_whatever_is_rendered_with_it(
    prompts: list[str], responses: list[str], dpo_renderers: dict[str, Renderer]
) -> None:
    """Texts of several requests are made once; under the reference's protocol a request holds the other answer too."""
    for made in dpo_renderers.values():
        count = 2 if made.spec.protocol == "reference" else 1
        asked = [
            Request("logprob", (Message("user", prompt),), tuple(responses[first : first + count]))
            for prompt in prompts
            for first in range(len(responses) - count + 1)
        ]
        assert made.render(asked) == [made.render([one])[0] for one in asked]


def scored(model: Model, values: Sequence[tuple[float, float, float, str]]) -> list[float]:
    rows = [
        Measurement("k", f"r{index}", "logprob", value, 5, False, token_hash, None, {"tokens": n, "squares": squares})
        for index, (value, n, squares, token_hash) in enumerate(values)
    ]
    return dpo.values(model, rows)


def test_the_reward_is_the_difference_of_sums(model: Callable[..., Model]) -> None:
    made = model()
    answers = [(-10.0, 4, 30, "a"), (-20.0, 5, 90, "b"), (-12.5, 4, 50, "a"), (-19.0, 5, 80, "b")]
    assert scored(made, answers) == [2.5, -1.0]
    other_tokens = [*answers[:3], (-19.0, 5, 80, "c")]
    found = scored(made, other_tokens)
    assert found[0] == 2.5
    assert math.isnan(found[1]), "policy and reference saw different tokens: nothing can be compared"


@pytest.mark.parametrize(("kind", "expected"), [("avg", -2.5), ("sum", -10.0), ("norm", -6.0)])
def test_rewards_without_a_reference(kind: str, expected: float, checkpoint: Callable[..., Path]) -> None:
    entry = {"path": str(checkpoint("llama", causal=True)), "family": "dpo", "scoring": {"reference_free": kind}}
    made = pin_model("free", entry, cuda=False)
    assert len(made.streams) == 1
    assert scored(made, [(-10.0, 4, 36, "a")]) == [expected]


def test_a_reference_of_two_policies_is_scored_once(checkpoint: Callable[..., Path]) -> None:
    """Two policies with one tokenizer: the plan owes three streams, not four."""
    reference = checkpoint("llama", causal=True, seed=9)
    models = [
        pin_model(
            f"tuned-{seed}",
            {"path": str(checkpoint("llama", causal=True, seed=seed)), "reference": str(reference), "family": "dpo"},
            cuda=False,
        )
        for seed in (0, 1)
    ]
    plan = make_plan(models, {"b": [Example("s", "1", PROMPT, ("a", "b"))]}, {}, {}, shard_rows=8)
    assert len(plan.streams) == 3
    assert plan.owed == 6


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"reference": None}, "models.tuned.reference: name the model it was tuned from"),
        ({"scoring": {"reference_free": "avg"}}, "one of the two"),
        ({"scoring": {"reference_free": "mean"}}, "must be one of avg, sum, norm"),
        ({"scoring": {"beta": 0.1}}, "unknown key 'beta'"),
        ({"reference": {"path": "x", "tokenizer": "y"}}, "models.tuned.reference: unknown key 'tokenizer'"),
        ({"reference": "./nowhere"}, "models.tuned.reference.path=./nowhere: no such folder"),
        ({"reference": 3}, "models.tuned.reference=3: must be a folder or hub id"),
        ({"family": "scalar"}, "only an implicit reward (family: dpo) has a reference model"),
        ({"engine": "baseline"}, "models.tuned.engine=baseline: family dpo is served by transformers and vllm"),
    ],
)
def test_a_wrong_file_is_refused(model: Callable[..., Model], change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as caught:
        model(**change)
    assert problem in str(caught.value)


def test_a_classifier_is_not_a_policy(checkpoint: Callable[..., Path]) -> None:
    entry = {"path": str(checkpoint("llama")), "family": "dpo", "scoring": {"reference_free": "avg"}}
    with pytest.raises(ModelError, match="not a causal language model"):
        engine.load(pin_model("wrong", entry, cuda=False).streams[0])


def test_a_sweep_scores_both_models_and_resumes(cli: Cli, model: Callable[..., Model], write_pairs: Any) -> None:
    """Through the command line: the leaderboard's verdicts are those of the two engines called by hand."""
    rows = [{"prompt": "q", "chosen": f"answer {n}", "rejected": f"reply {n} of {n}", "id": n} for n in range(6)]
    streams = model().streams
    path = write_pairs(rows)
    words = [f"+models.tuned.path={streams[0].path}", f"+models.tuned.reference={streams[1].path}"]
    words += ["+models.tuned.family=dpo", "pool=local", "benchmarks=[pairs]", f"data.pairs={path}", "store=s"]
    done = cli("run", *words, "output=json")
    assert done.returncode == 0, done.stderr
    assert "24 of 24 scored" in done.stderr
    prompt = (Message("user", "q"),)
    asked = [Request("logprob", prompt, (row[side],)) for row in rows for side in ("chosen", "rejected")]
    policy, reference = ([output.value for output in engine.load(spec).run(asked)] for spec in streams)
    lines = [json.loads(line) for line in cli("scores", "store=s", "output=jsonl").stdout.splitlines()]
    found = {(line["id"], line["response"]): line["score"] for line in lines}
    expected = {(str(at // 2), at % 2): one - two for at, (one, two) in enumerate(zip(policy, reference, strict=True))}
    assert found == pytest.approx(expected, abs=1e-4)
    again = cli("run", *words, "output=json")
    assert "nothing to score" in again.stderr
    assert again.stdout == done.stdout
    assert cli("verify", "store=s").returncode == 0


def test_outputs_become_measurements_with_their_extra_numbers(model: Callable[..., Model]) -> None:
    asked = requests()[0]
    output = engine.load(model().streams[0]).run([asked])[0]
    assert measure("f", asked, output).extra == output.extra != {}
