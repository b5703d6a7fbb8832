"""Names of measurements: what is part of a hash, what is not, and that neither changes by accident."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import errors
from workers.plugins import is_name
from workers.protocol import (
    Message,
    ModelSpec,
    Output,
    Request,
    Shard,
    digest,
    measure,
    measurement_key,
    token_hash,
)

SPEC = ModelSpec(
    name="small",
    path="owner/small",
    weights="hub:owner/small@0123",
    family="scalar",
    family_version="1",
    engine="transformers",
    engine_version="1",
    environment=(("torch", "2.7.0"), ("transformers", "5.17.0")),
    max_length=2048,
    template_kwargs={"thinking": False},
    options={"b": 1, "a": [1.5, None]},
)
REQUEST = Request("reward", (Message("system", "be brief"), Message("user", "q")), ("näive \N{SNOWMAN}\n",))

IDENTITY: dict[str, Any] = {
    "weights": "hub:owner/small@4567",
    "family": "preference",
    "family_version": "2",
    "engine": "vllm",
    "engine_version": "2",
    "environment": (("torch", "2.7.1"), ("transformers", "5.17.0")),
    "tokenizer_files": "sha256:9",
    "dtype": "bfloat16",
    "attention": "eager",
    "numerics": "exact",
    "max_length": 1024,
    "truncation_side": "right",
    "chat_template": "{{ messages }}",
    "template_kwargs": {"thinking": True},
    "bos": "keep",
    "eos": "append",
    "fallback_template": "{{ messages[1] }}",
    "protocol": "reference",
    "trust_remote_code": True,
    "options": {"b": 2, "a": [1.5, None]},
}
"""Another value for each field that can change a score."""

NOT_IDENTITY: dict[str, Any] = {
    "name": "renamed",
    "path": "elsewhere",
    "engine_reason": "no GPU",
    "revision": "main",
    "tokenizer": "elsewhere",
    "tokenizer_revision": "main",
    "allow_pickle": True,
    "gpus": 4,
    "token_budget": 4096,
    "endpoint": {"url": "https://one"},
    "addresses": {"s3": {"endpoint": "http://localhost:9000"}},
}
"""Another value for each field that cannot: a new field belongs into one of the two tables."""


@pytest.mark.parametrize("payload", [float("nan"), float("inf"), [-float("inf")], {"x": float("nan")}])
def test_a_digest_has_no_room_for_numbers_without_json(payload: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        digest(payload)


@pytest.mark.parametrize("payload", [{1, 2}, b"x", object(), SPEC, {"x": {3}}, {("a",): 1}, {1: 1, "a": 2}])
def test_a_digest_has_no_room_for_what_has_no_json(payload: object) -> None:
    with pytest.raises(TypeError):
        digest(payload)


def test_a_digest_ignores_the_order_of_keys_but_not_of_items() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest([1]) != digest([1.0])
    assert digest("1") != digest(1)


def test_golden_digests() -> None:
    """These name what lies in stores: a change here makes every stored score unreachable."""
    assert digest({"b": [1, None], "a": "é"}) == "9b10bedce64e86a275540261fbe95bc6"
    assert REQUEST.digest == "3d8bb176ecdd217db418352b0585d7be"
    assert SPEC.fingerprint == "fdfcfdb88f655423a1de505af55be488"
    assert measurement_key("model", "request") == "06007cb470e0769501f6559ad550286a"
    assert token_hash([0, 1, 31_999, 262_143]) == "117679f9202eb377c06e4c2b823dbbbb"
    assert token_hash([]) == "e3b0c44298fc1c149afbf4c8996fb924"


OTHER_REQUESTS = [
    replace(REQUEST, kind="logprob"),
    replace(REQUEST, prompt=(Message("user", "be brief"), Message("user", "q"))),
    replace(REQUEST, prompt=(Message("system", "be brief"), Message("user", "Q"))),
    replace(REQUEST, prompt=(Message("system", "be brief"),)),
    replace(REQUEST, prompt=REQUEST.prompt[::-1]),
    replace(REQUEST, responses=("näive \N{SNOWMAN}",)),
    replace(REQUEST, responses=()),
    replace(REQUEST, responses=(*REQUEST.responses, "")),
    replace(REQUEST, responses=("nai\N{COMBINING DIAERESIS}ve \N{SNOWMAN}\n",)),
]


def test_a_request_is_named_after_all_that_it_holds() -> None:
    assert len({REQUEST.digest, *(other.digest for other in OTHER_REQUESTS)}) == len(OTHER_REQUESTS) + 1
    again = Request("reward", tuple(Message(turn.role, turn.content) for turn in REQUEST.prompt), REQUEST.responses)
    assert again.digest == REQUEST.digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a", "b"), ("b", "a")),
        (("abc",), ("ab", "c")),
        (('a","b',), ("a", "b")),
        (("",), ()),
    ],
)
def test_the_boundaries_of_texts_count(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert Request("preference", (), one).digest != Request("preference", (), other).digest
    prompts = [tuple(Message("user", text) for text in texts) for texts in (one, other)]
    assert Request("reward", prompts[0], ("r",)).digest != Request("reward", prompts[1], ("r",)).digest


TEXTS = st.lists(st.text(max_size=5), max_size=4).map(tuple)


@given(TEXTS, TEXTS)
def test_two_requests_share_a_digest_only_if_they_are_equal(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    first, second = Request("preference", (), one), Request("preference", (), other)
    assert (first.digest == second.digest) == (first == second)


def test_characters_are_those_of_all_texts() -> None:
    assert REQUEST.characters == len("be brief") + len("q") + len("näive \N{SNOWMAN}\n")
    assert Shard("s", "stream", (REQUEST, REQUEST)).characters == 2 * REQUEST.characters


def test_a_measurement_is_named_after_model_and_request() -> None:
    assert measurement_key("ab", "c") != measurement_key("a", "bc")
    assert measurement_key("a", "b") != measurement_key("b", "a")
    output = Output(0.25, 7, True, "hash", "text")
    row = measure(SPEC.fingerprint, REQUEST, output)
    assert row.key == measurement_key(SPEC.fingerprint, REQUEST.digest)
    assert (row.request, row.kind) == (REQUEST.digest, "reward")
    assert {name: value for name, value in asdict(row).items() if name not in ("key", "request", "kind")} == asdict(
        output
    )


def test_every_field_of_a_spec_is_classified() -> None:
    names = {item.name for item in fields(ModelSpec)}
    assert names == IDENTITY.keys() | NOT_IDENTITY.keys()
    assert not IDENTITY.keys() & NOT_IDENTITY.keys()
    assert SPEC.identity.keys() == IDENTITY.keys()


@pytest.mark.parametrize("name", [item.name for item in fields(ModelSpec)])
def test_a_field_changes_the_fingerprint_only_if_it_can_change_a_score(name: str) -> None:
    value = {**IDENTITY, **NOT_IDENTITY}[name]
    assert value != getattr(SPEC, name), "the table must hold another value"
    changed = replace(SPEC, **{name: value})
    assert (changed.fingerprint != SPEC.fingerprint) == (name in IDENTITY)


def test_fields_do_not_stand_in_for_each_other() -> None:
    """One value in two fields of one type gives two fingerprints."""
    texts = [name for name, value in IDENTITY.items() if isinstance(value, str)]
    assert len({replace(SPEC, **{name: "same"}).fingerprint for name in texts}) == len(texts) > 5


@pytest.mark.parametrize(
    "spec", [SPEC, replace(SPEC, **IDENTITY), replace(SPEC, **NOT_IDENTITY), replace(SPEC, environment=())]
)
def test_a_spec_survives_json(spec: ModelSpec) -> None:
    back = ModelSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert back == spec
    assert back.fingerprint == spec.fingerprint


@pytest.mark.parametrize("name", ["a", "A1", "llama-3.1_8B+lora", "0", "x" * 128, "a..b"])
def test_names_that_are_safe_as_files(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-rf", "~a", "a/b", "../a", "a\\b", "a b", "a\n", "a\0", "a:b", "<b>", "é", "٣"],
)
def test_names_that_are_not(name: str) -> None:
    assert not is_name(name)


def test_a_name_is_short_enough_for_a_file() -> None:
    assert not is_name("x" * 129)


def test_token_hashes_tell_order_and_boundaries() -> None:
    assert len({token_hash(ids) for ids in ([], [0], [0, 0], [1, 2], [2, 1], [258], [2, 1, 0], [513])}) == 8


ERRORS = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.SweepError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_survive_pickling(kind: type[errors.SweepError]) -> None:
    """Workers raise them in another process."""
    back = pickle.loads(pickle.dumps(kind("model 'x': no head")))
    assert type(back) is kind
    assert str(back) == "model 'x': no head"


def test_all_errors_are_known() -> None:
    names = {item.__name__ for item in ERRORS}
    assert names == {
        "SweepError",
        "InputError",
        "StoreError",
        "ModelError",
        "UnavailableError",
        "ShardError",
        "EngineError",
    }


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (ValueError("odd\nand more"), "m: ValueError: odd"),
        (KeyError(), "m: KeyError"),
        (MemoryError(), "m: MemoryError"),
    ],
)
def test_what_escapes_a_plug_in_is_named(cause: Exception, message: str) -> None:
    with pytest.raises(errors.ModelError) as caught, errors.boundary(errors.ModelError, "m"):
        raise cause
    assert str(caught.value) == message
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("passing", [errors.StoreError("full"), errors.ShardError("big"), KeyboardInterrupt()])
def test_what_already_says_what_to_do_passes_unchanged(passing: BaseException) -> None:
    with pytest.raises(type(passing)) as caught, errors.boundary(errors.EngineError, "m"):
        raise passing
    assert caught.value is passing
