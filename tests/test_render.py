"""What the model sees: one BOS, the EOS that is owed, and no token cut off without a record of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers import render
from workers.errors import ModelError
from workers.protocol import Message, ModelSpec, Request, token_hash
from workers.render import Rendered, Renderer
from workers.tiny_zoo import TURNS

BARE = "{% for turn in messages %}{{ turn['role'] + ': ' + turn['content'] + '\n' }}{% endfor %}"
"""A template that adds no special token."""

Tokenizer = Callable[..., Path]
LIMIT = 24


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A copy of a tiny checkpoint without weights, with other values in its tokenizer_config.json."""

    def build(architecture: str, **values: Any) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(checkpoint(architecture) / name, folder)
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        return folder

    return build


def spec(path: Path, **fields: Any) -> ModelSpec:
    return ModelSpec("tiny", str(path), "sha256:0", "scalar", "1", "transformers", "1", (), **fields)


def request(response: str, prompt: str = "What is it?") -> Request:
    return Request("reward", (Message("user", prompt),), (response,))


def plain(renderer: Renderer, text: str) -> list[int]:
    """The ids of a text without the special tokens that the tokenizer adds."""
    return list(renderer.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


@pytest.mark.parametrize("bos", ["single", "keep"])
def test_bos_of_template_and_tokenizer(bos: Any, tokenizer: Tokenizer) -> None:
    renderer = Renderer(spec(tokenizer("llama"), bos=bos), None)
    first = renderer.tokenizer.bos_token_id
    row = renderer.render([request("an answer")])[0]
    inside = plain(renderer, row.text)
    assert inside[0] == first, "the template adds a BOS"
    assert row.ids == tuple(inside if bos == "single" else [first, *inside])
    assert row.double_bos
    assert row.full_length == len(row.ids)
    assert row.hash == token_hash(row.ids)


def test_only_the_leading_bos_is_removed(tokenizer: Tokenizer) -> None:
    renderer = Renderer(spec(tokenizer("llama"), chat_template=BARE), None)
    row = renderer.render([request("quoting <s><s> is allowed")])[0]
    assert row.ids == (renderer.tokenizer.bos_token_id, *plain(renderer, row.text))
    assert row.ids.count(renderer.tokenizer.bos_token_id) == 3
    assert not row.double_bos


def test_eos_is_appended_once(tokenizer: Tokenizer) -> None:
    folder = tokenizer("llama")
    without = Renderer(spec(folder, chat_template=BARE), None).render([request("an answer")])[0]
    renderer = Renderer(spec(folder, chat_template=BARE, eos="append"), None)
    row = renderer.render([request("an answer")])[0]
    assert row.ids == (*without.ids, renderer.tokenizer.eos_token_id)
    assert row.full_length == without.full_length + 1
    assert not row.truncated
    there = [Renderer(spec(folder, eos=eos), None).render([request("an answer")])[0] for eos in ("keep", "append")]
    assert there[0] == there[1], "the template has written it already"


@pytest.mark.parametrize(("architecture", "front", "end"), [("llama", 1, 0), ("bert", 1, 1), ("gpt2", 0, 0)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_keeps_special_tokens(
    side: Any, architecture: str, front: int, end: int, tokenizer: Tokenizer
) -> None:
    folder = tokenizer(architecture)
    whole = Renderer(spec(folder, chat_template=BARE), None).render([request("word " * 50)])[0]
    renderer = Renderer(spec(folder, chat_template=BARE, max_length=LIMIT, truncation_side=side), None)
    row = renderer.render([request("word " * 50)])[0]
    first, content, last = whole.ids[:front], whole.ids[front : len(whole.ids) - end], whole.ids[len(whole.ids) - end :]
    room = LIMIT - front - end
    assert row.ids == first + (content[-room:] if side == "left" else content[:room]) + last
    assert row.full_length == len(whole.ids)
    assert row.truncated
    assert row.text == whole.text
    exact = spec(folder, chat_template=BARE, max_length=len(whole.ids), truncation_side=side)
    assert Renderer(exact, None).render([request("word " * 50)]) == [whole]
    assert not whole.truncated


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_appended_eos_survives_truncation(side: Any, tokenizer: Tokenizer) -> None:
    folder = tokenizer("llama")
    options = {"chat_template": BARE, "eos": "append", "truncation_side": side}
    whole = Renderer(spec(folder, **options), None).render([request("word " * 50)])[0]
    row = Renderer(spec(folder, **options, max_length=LIMIT), None).render([request("word " * 50)])[0]
    assert len(row.ids) == LIMIT
    assert (row.ids[0], row.ids[-1]) == (whole.ids[0], whole.ids[-1])
    assert row.full_length == len(whole.ids)


def test_an_eos_before_a_line_break_counts(tokenizer: Tokenizer) -> None:
    template = BARE + "{{ eos_token }}\n"
    folder = tokenizer("llama")
    kept, appended = (
        Renderer(spec(folder, chat_template=template, eos=eos), None).render([request("an answer")])[0]
        for eos in ("keep", "append")
    )
    assert kept == appended


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("eos", ["keep", "append"])
def test_a_cut_text_fills_the_limit(side: Any, eos: Any, tokenizer: Tokenizer) -> None:
    """Also where template and tokenizer both write BOS, and the template writes EOS."""
    options = spec(tokenizer("llama"), max_length=LIMIT, truncation_side=side, eos=eos)
    row = Renderer(options, None).render([request("word " * 50)])[0]
    assert (len(row.ids), row.truncated) == (LIMIT, True)


def test_left_truncation_leaves_one_bos_of_two(tokenizer: Tokenizer) -> None:
    """The template's BOS is cut off with the start of the text, the tokenizer's stays."""
    renderer = Renderer(spec(tokenizer("llama"), max_length=LIMIT), None)
    row = renderer.render([request("word " * 50)])[0]
    inside = plain(renderer, row.text)
    assert row.ids == (renderer.tokenizer.bos_token_id, *inside[1 - LIMIT :])
    assert row.full_length == len(inside)
    assert row.double_bos


def test_type_ids_stay_aligned(tokenizer: Tokenizer) -> None:
    folder = tokenizer(
        "bert",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        bos_token="[CLS]",
        eos_token="[PAD]",
    )
    template = "{{ bos_token }}" + BARE
    for limit in (None, LIMIT):
        renderer = Renderer(spec(folder, chat_template=template, eos="append", max_length=limit), None)
        row = renderer.render([request("word " * 50)])[0]
        assert row.type_ids == (0,) * len(row.ids)
        assert row.double_bos
        assert row.ids[:2].count(renderer.tokenizer.bos_token_id) == 1
        assert row.ids[-1] == renderer.tokenizer.eos_token_id
        assert row.truncated == (limit is not None)
    assert Renderer(spec(tokenizer("bert")), None).render([request("x")])[0].type_ids is None


@pytest.mark.parametrize(
    ("tokenizers_limit", "context", "max_length", "limit"),
    [
        (100, 50, None, 50),
        (50, 100, None, 50),
        (50, None, None, 50),
        (10**30, 70, None, 70),
        (10**30, None, None, None),
        (10**30, None, 20, 20),
        (50, 100, 20, 20),
        (50, 100, 100, 100),
    ],
)
def test_limit_is_the_smallest_that_is_known(
    tokenizers_limit: int, context: int | None, max_length: int | None, limit: int | None, tokenizer: Tokenizer
) -> None:
    folder = tokenizer("llama", model_max_length=tokenizers_limit)
    renderer = Renderer(spec(folder, max_length=max_length), context)
    assert renderer.limit == limit
    row = renderer.render([request("word " * 300)])[0]
    assert row.full_length > 300
    assert len(row.ids) == (limit or row.full_length)


def test_a_limit_above_the_context_is_an_error(tokenizer: Tokenizer) -> None:
    folder = tokenizer("llama")
    with pytest.raises(
        ModelError, match=r"'tiny'.*101 is more than its context of 100.*lower models\.tiny\.max_length"
    ):
        Renderer(spec(folder, max_length=101), 100)


@pytest.mark.parametrize("own", [None, [{"name": "rag", "template": BARE}]])
def test_no_template_is_an_error_with_the_fix(own: Any, tokenizer: Tokenizer) -> None:
    folder = tokenizer("llama", chat_template=own)
    with pytest.raises(ModelError, match=r"model 'tiny'.*no chat template.*set models\.tiny\.chat_template to"):
        Renderer(spec(folder), None)
    assert Renderer(spec(folder, chat_template=BARE), None).render([request("x")])[0].text.endswith("assistant: x\n")


def test_the_default_of_several_templates_is_used(tokenizer: Tokenizer) -> None:
    several = [{"name": "rag", "template": "rag"}, {"name": "default", "template": BARE}]
    renderer = Renderer(spec(tokenizer("llama", chat_template=several)), None)
    assert renderer.text([Message("user", "hi")]) == "user: hi\n"


def test_template_arguments(tokenizer: Tokenizer) -> None:
    folder = tokenizer("llama")
    template = "{{ mode }}|{{ add_generation_prompt }}|{{ messages[-1]['role'] }}"
    text = Renderer(spec(folder, chat_template=template), None).render([request("x")])[0].text
    assert text == "|False|assistant"
    kwargs = {"mode": "strict", "add_generation_prompt": True}
    renderer = Renderer(spec(folder, chat_template=template, template_kwargs=kwargs), None)
    assert renderer.text([Message("user", "x")]) == "strict|True|user"
    assert renderer.text([Message("user", "x")], add_generation_prompt=False) == "strict|False|user"


def test_a_template_that_refuses_is_a_model_error(tokenizer: Tokenizer) -> None:
    renderer = Renderer(spec(tokenizer("llama"), chat_template="{{ raise_exception('roles must alternate') }}"), None)
    with pytest.raises(ModelError, match=r"'tiny': its chat template fails: .*roles must alternate"):
        renderer.render([request("x")])


def test_the_tokenizer_may_live_elsewhere(tokenizer: Tokenizer, tmp_path: Path) -> None:
    elsewhere = tokenizer("llama", chat_template=BARE)
    assert Renderer(spec(tmp_path, tokenizer=str(elsewhere)), None).text([Message("user", "hi")]) == "user: hi\n"
    with pytest.raises(ModelError, match="'tiny': cannot load the tokenizer of "):
        Renderer(spec(tmp_path), None)


@pytest.fixture(scope="module")
def renderers(tokenizer: Tokenizer) -> list[Renderer]:
    """Every way to shorten a conversation, on tokenizers that put special tokens in different places."""
    llama, bert, gpt2 = tokenizer("llama"), tokenizer("bert"), tokenizer("gpt2")
    options: list[tuple[Path, dict[str, Any]]] = [
        (llama, {}),
        (llama, {"truncation_side": "right", "eos": "append"}),
        (llama, {"bos": "keep", "eos": "append"}),
        (llama, {"chat_template": BARE, "truncation_side": "right"}),
        (bert, {}),
        (gpt2, {"chat_template": TURNS, "eos": "append"}),
    ]
    return [Renderer(spec(path, max_length=LIMIT, **fields), None) for path, fields in options]


TEXTS = st.one_of(
    st.text(max_size=60), st.lists(st.sampled_from(["<s>", "</s>", "[CLS]", "\n", "<|user|>", "a", " "])).map("".join)
)


@settings(deadline=None, max_examples=60)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_any_text_renders_within_the_limit(pairs: list[tuple[str, str]], renderers: list[Renderer]) -> None:
    requests = [request(answer, prompt) for prompt, answer in pairs]
    for renderer in renderers:
        rows = renderer.render(requests)
        assert rows == renderer.render(requests)
        assert rows == [renderer.render([one])[0] for one in requests]
        for row in rows:
            assert 0 < len(row.ids) <= LIMIT
            assert row.truncated == (row.full_length > LIMIT)
        for row in rows:
            assert all((row.ids == other.ids) == (row.hash == other.hash) for other in rows)


def test_nothing_renders_to_nothing(renderers: list[Renderer]) -> None:
    assert renderers[0].render([]) == []


@pytest.mark.parametrize(("architecture", "fields"), [("bert", {"max_length": 2}), ("llama", {"max_length": 1})])
def test_a_limit_without_room_for_text_is_refused(architecture: str, fields: Any, tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match=r"'tiny'.*leave no room for text; set max_length"):
        Renderer(spec(tokenizer(architecture), **fields), None)


def test_an_empty_template_is_not_the_tokenizers_own(tokenizer: Tokenizer) -> None:
    assert Renderer(spec(tokenizer("llama"), chat_template=""), None).text((Message("user", "q"),)) == ""


def test_a_fallback_template_is_used_only_without_one_of_the_tokenizers_own(tokenizer: Tokenizer) -> None:
    turn = (Message("user", "q"),)
    bare = tokenizer("llama", chat_template=None)
    assert Renderer(spec(bare, fallback_template=BARE), None).text(turn) == "user: q\n"
    assert "user: q" not in Renderer(spec(tokenizer("llama"), fallback_template=BARE), None).text(turn)
    assert Renderer(spec(bare, chat_template="", fallback_template=BARE), None).text(turn) == ""


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each call makes anew."""
    own, calls = Renderer._made, []

    def made(self: Renderer, requests: Sequence[Request]) -> list[Rendered]:
        calls.append(len(requests))
        return own(self, requests)

    monkeypatch.setattr(Renderer, "_made", made)
    return calls


def test_what_was_rendered_ahead_is_given_once(renderers: list[Renderer], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    asked = [request("one"), request("two"), request("one"), request("three")]
    for renderer in renderers:
        whole = renderer.render(asked)
        assert renderer.ahead(asked) == whole
        calls.clear()
        assert renderer.render(asked[1:]) == whole[1:]
        assert calls == [], "all were made ahead"
        assert renderer.render(asked) == whole
        assert calls == [4], "and are kept no longer"


def test_no_more_tokens_are_kept_than_memory_allows(renderers: list[Renderer], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [request(answer) for answer in ("one", "two", "three", "four")]
    for renderer in renderers:
        lengths = [len(row.ids) for row in renderer.render(asked)]
        with monkeypatch.context() as patch:
            patch.setattr(render, "KEPT_TOKENS", sum(lengths[:2]))
            whole = renderer.ahead(asked)
            calls = counted(patch)
            assert renderer.render(asked) == whole
        assert calls == [2]


def test_many_texts_take_several_calls_of_the_tokenizer(
    renderers: list[Renderer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [request(answer) for answer in ("one", "two", "three", "four", "five")]
    for renderer in renderers:
        whole = renderer.render(asked)
        with monkeypatch.context() as patch:
            patch.setattr(render, "ENCODED", 2)
            assert renderer.render(asked) == whole
