"""Every finding of the preflight, caused by a template or model file made for it, and none without a cause."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workers.checkpoint import config_of, renderer_of
from workers.engines import transformers as engine
from workers.errors import ModelError
from workers.protocol import Finding, Message, ModelSpec, Request
from workers.templates import FOLDER, named_template
from workers.tiny_zoo import TURNS

CHATML = (
    "{% for turn in messages %}"
    "{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
)
PROMPT = "{{ '<|im_start|>assistant\\n' }}"
CLEAN = CHATML + "{% if add_generation_prompt %}" + PROMPT + "{% endif %}"
LLAMA3_DATE = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}{{ 'Today Date: ' + date_string + '\\n' }}"
)


def request(response: str, prompt: str = "What is it?") -> Request:
    return Request("reward", (Message("user", prompt),), (response,))


REQUESTS = [request("short"), request("an answer of several words"), request("日本語")]


@pytest.fixture(scope="module")
def spec(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A model without defects and without weights: no finding may need them."""
    folder = tmp_path_factory.mktemp("weightless") / "llama"
    shutil.copytree(checkpoint("llama"), folder)
    (folder / "model.safetensors").unlink()
    return ModelSpec("tiny", str(folder), "sha256:0", "scalar", "1", "transformers", "1", (), chat_template=CLEAN)


def found(spec: ModelSpec, requests: list[Request] = REQUESTS, **fields: Any) -> list[Finding]:
    return engine.lint(replace(spec, **fields), requests)


def only(findings: list[Finding]) -> tuple[str, str, tuple[int, ...]]:
    """Check, severity and rows of the one finding that there is."""
    assert len(findings) == 1, findings
    return findings[0].check, findings[0].severity, findings[0].requests


def changed(spec: ModelSpec, folder: Path, file: str, **values: Any) -> ModelSpec:
    """The model with other values in one of its JSON files."""
    shutil.copytree(spec.path, folder)
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return replace(spec, path=str(folder))


def test_a_clean_model_has_no_findings(spec: ModelSpec) -> None:
    assert found(spec) == []
    assert found(spec, []) == []
    with pytest.raises(ModelError, match="'tiny'"):
        engine.load(spec)  # there are no weights: the findings above came without them


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.jinja")))
def test_named_templates_have_no_findings(name: str, spec: ModelSpec) -> None:
    assert found(spec, chat_template=named_template(name)) == []


def test_double_bos(spec: ModelSpec) -> None:
    template = "{% if messages[-1]['content'] == 'short' %}{{ bos_token }}{% endif %}" + CLEAN
    single = found(spec, chat_template=template)
    assert only(single) == ("double-bos", "warning", (0,))
    assert "removed" in single[0].message
    keep = found(spec, chat_template=template, bos="keep")
    assert only(keep) == ("double-bos", "warning", (0,))
    assert "sees two" in keep[0].message


def test_missing_eos(spec: ModelSpec) -> None:
    template = TURNS.replace("and eos_token", "and eos_token and turn['content'] != 'short'")
    missing = found(spec, chat_template=template, eos="expect")
    assert only(missing) == ("missing-eos", "error", (0,))
    assert "set eos: append" in missing[0].message
    assert found(spec, chat_template=template, eos="keep") == []
    assert found(spec, chat_template=template, eos="append") == []
    assert found(spec, chat_template=TURNS, eos="expect") == []


def test_eos_before_a_line_break_is_there(spec: ModelSpec) -> None:
    template = "{% for turn in messages %}{{ turn['content'] + eos_token + '\\n\\n' }}{% endfor %}{{ '\\n' }}"
    assert [finding for finding in found(spec, chat_template=template, eos="expect") if "eos" in finding.check] == []


@pytest.mark.parametrize("eos", ["expect", "append"])
def test_no_eos_token_to_append(eos: Any, spec: ModelSpec, tmp_path: Path) -> None:
    bare = changed(spec, tmp_path / "no-eos", "tokenizer_config.json", eos_token=None)
    findings = found(bare, eos=eos)
    assert only(findings) == ("missing-eos", "error", ())
    assert f"eos: {eos}, but the tokenizer has no EOS token" in findings[0].message
    assert found(bare) == []


def test_generation_prompt(spec: ModelSpec) -> None:
    findings = found(spec, chat_template=CHATML + PROMPT)
    assert only(findings) == ("generation-prompt", "warning", ())
    assert "'<|im_end|>\\n<|im_start|>assistant\\n' follows the response" in findings[0].message


def test_generation_prompt_after_an_answer_only(spec: ModelSpec) -> None:
    """The header that is written when asked for, and after an answer without being asked."""
    asked, always = (
        "{% if add_generation_prompt %}",
        "{% if add_generation_prompt or messages[-1]['role'] == 'assistant' %}",
    )
    assert only(found(spec, chat_template=TURNS.replace(asked, always))) == ("generation-prompt", "warning", ())
    assert found(spec, chat_template=TURNS) == []


def test_empty_response(spec: ModelSpec) -> None:
    requests = [request("fine"), request(""), request(" \n"), request("x", prompt="")]
    assert only(found(spec, requests)) == ("empty-response", "warning", (1, 2))


def test_unknown_variable(spec: ModelSpec) -> None:
    template = "{{ greeting }}{% if mode is defined %}{{ mode }}{% endif %}{% set own = tools %}{{ own }}" + CLEAN
    findings = found(spec, chat_template=template)
    assert only(findings) == ("unknown-variable", "warning", ())
    assert "reads greeting, which nothing sets" in findings[0].message
    assert "models.tiny.template_kwargs.greeting" in findings[0].message
    assert found(spec, chat_template=template, template_kwargs={"greeting": "Hi. "}) == []


def test_what_every_template_may_use_is_known(spec: ModelSpec) -> None:
    template = (
        "{{ bos_token[:0] }}{{ eos_token[:0] }}{{ pad_token[:0] }}{% set box = namespace(count=0) %}"
        "{% for _ in range(2) %}{% set box.count = box.count + loop.index %}{% endfor %}"
        "{% if false %}{{ raise_exception('no') }}{% endif %}{% if documents %}{{ documents }}{% endif %}"
    )
    assert found(spec, chat_template=template + CLEAN) == []


@pytest.mark.parametrize("date", ["{{ strftime_now('%d %b %Y') + '\\n' }}", LLAMA3_DATE])
def test_todays_date(date: str, spec: ModelSpec) -> None:
    findings = found(spec, chat_template=date + CLEAN)
    assert only(findings) == ("todays-date", "error", ())
    assert "set models.tiny.template_kwargs.date_string" in findings[0].message


def test_a_date_that_the_model_file_sets_is_not_todays(spec: ModelSpec) -> None:
    assert found(spec, chat_template=LLAMA3_DATE + CLEAN, template_kwargs={"date_string": "26 Jul 2024"}) == []


@pytest.mark.parametrize(
    ("template", "lost"),
    [
        ("{{ messages[0]['content'] }}", "the assistant turn"),
        ("{{ messages[1]['content'] }}", "the user turn"),
        ("{{ messages | length }}", "the user and the assistant turn"),
    ],
)
def test_lost_text(template: str, lost: str, spec: ModelSpec) -> None:
    # the probe of a rendered prompt alone has no second message, hence the guard
    guarded = "{% if messages | length > 1 %}" + template + "{% endif %}"
    findings = [finding for finding in found(spec, chat_template=guarded) if finding.check == "lost-text"]
    assert only(findings) == ("lost-text", "error", ())
    assert findings[0].message == f"the chat template drops {lost}"


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncated(side: Any, spec: ModelSpec) -> None:
    requests = [request("short"), request("long " * 200), request("short"), request("long " * 300)]
    findings = found(spec, requests, max_length=100, truncation_side=side)
    assert only(findings) == ("truncated", "warning", (1, 3))
    assert findings[0].message == f"longer than 100 tokens: cut on the {side}"


def test_truncated_at_the_models_context(spec: ModelSpec, tmp_path: Path) -> None:
    """The configuration limits the tokens even where no `max_length` is set."""
    short = changed(spec, tmp_path / "short", "config.json", max_position_embeddings=60)
    assert only(found(short, [request("short"), request("long " * 100)])) == ("truncated", "warning", (1,))


def test_vocabulary(spec: ModelSpec, tmp_path: Path) -> None:
    """A tokenizer with more tokens than the model has embeddings indexes past their end."""
    ids = renderer_of(spec, config_of(spec, "reward")).render(REQUESTS)
    top = [max(row.ids) for row in ids]
    small = changed(spec, tmp_path / "small", "config.json", vocab_size=max(top))
    findings = found(small)
    rows = tuple(index for index, value in enumerate(top) if value == max(top))
    assert only(findings) == ("vocabulary", "error", rows)
    assert f"beyond the model's {max(top)} embeddings" in findings[0].message
    enough = changed(spec, tmp_path / "enough", "config.json", vocab_size=max(top) + 1)
    assert found(enough) == []


def test_pad_that_is_eos(spec: ModelSpec, tmp_path: Path) -> None:
    bare = changed(spec, tmp_path / "no-pad", "tokenizer_config.json", pad_token=None)
    assert only(found(bare)) == ("pad-is-eos", "warning", ())


def test_generation_prompt_asked_for_by_the_models_file(spec: ModelSpec) -> None:
    findings = found(spec, template_kwargs={"add_generation_prompt": True})
    assert only(findings) == ("generation-prompt", "warning", ())


def test_a_template_without_headers_has_no_generation_prompt(spec: ModelSpec) -> None:
    assert found(spec, chat_template="{% for turn in messages %}{{ turn['content'] + eos_token }}{% endfor %}") == []


def test_a_template_may_refuse_a_prompt_alone(spec: ModelSpec) -> None:
    pair = "{% if messages | length != 2 %}{{ raise_exception('one question, one answer') }}{% endif %}"
    assert found(spec, chat_template=pair + CLEAN) == []


@pytest.mark.parametrize(
    ("response", "fields"), [("", {}), ("long " * 200, {"max_length": 50, "truncation_side": "right"})]
)
def test_eos_is_not_owed_after_a_blank_or_a_cut_response(response: str, fields: Any, spec: ModelSpec) -> None:
    template = "{% for turn in messages if turn['content'] %}{{ turn['content'] + eos_token }}{% endfor %}"
    requests = [request("fine"), Request("reward", (Message("user", "q"), Message("assistant", "a")), (response,))]
    checks = [finding.check for finding in found(spec, requests, chat_template=template, eos="expect", **fields)]
    assert "missing-eos" not in checks
    assert checks, "what happened to that row is said by a finding of its own"


@pytest.mark.parametrize(
    "text", ["{{ x | default('y') }}", "{% if x and not z %}a{% endif %}", "{{ 'a' if x else '' }}"]
)
def test_a_variable_with_another_branch_is_not_unknown(text: str, spec: ModelSpec) -> None:
    assert found(spec, chat_template=text + CLEAN) == []
