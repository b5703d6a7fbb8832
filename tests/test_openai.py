"""Judges behind an endpoint: what is sent, what each kind of answer means, what is paid for."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.pin import pin_model
from tests.conftest import Cli
from tests.fake_endpoint import Endpoint, Reply, completion, failure, serving
from workers.engines import openai as engine
from workers.errors import EngineError, InputError, ModelError, SweepError
from workers.protocol import Message, ModelSpec, Output, Request

KEY = "sk-very-secret-0123456789"
ROWS = [
    {"prompt": f"question {number}", "chosen": f"a good answer {number}", "rejected": f"an answer {number}"}
    for number in range(12)
]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


def spec(endpoint: Endpoint | str, entry: dict[str, Any] | None = None, **settings: Any) -> ModelSpec:
    url = endpoint if isinstance(endpoint, str) else endpoint.url
    given = {"path": "a-model", "family": "judge", "engine": "openai", **(entry or {})}
    return pin_model("m", {**given, "endpoint": {"url": url, "retries": 2, **settings}}, cuda=True).streams[0]


def request(text: str = "which is better?") -> Request:
    return Request("generate", (Message("system", "judge"), Message("user", text)), ())


def answers(model: ModelSpec, *requests: Request) -> list[Output]:
    client = engine.load(model)
    try:
        return client.run(requests or (request(),))
    finally:
        client.close()


def test_what_is_sent_and_what_comes_back(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    options = {"max_new_tokens": 7, "temperature": 0.5, "top_p": 0.9, "body": {"top_k": 4}}
    model = spec(endpoint, {"options": options}, key="MY_KEY")
    (found,) = answers(model)
    (body,) = endpoint.bodies
    assert body["messages"] == [{"role": "system", "content": "judge"}, {"role": "user", "content": "which is better?"}]
    sent = {name: body[name] for name in ("model", "max_tokens", "temperature", "top_p", "top_k")}
    assert sent == {"model": "a-model", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 4}
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert (found.text, found.num_tokens, found.extra) == ("[[A]]", 11, {"completion_tokens": 3.0})
    assert found.token_hash == engine.token_hashes(model, [request()])[0]
    assert (model.gpus, KEY in json.dumps(model.to_json())) == (0, False)


def test_the_seed_is_of_the_request_alone(endpoint: Endpoint) -> None:
    answers(spec(endpoint), request("one"), request("other"))
    answers(spec(endpoint, {"options": {"seed": 1}}), request("one"))
    answers(spec(endpoint), request("one"))
    seeds = [body["seed"] for body in sorted(endpoint.bodies[:2], key=lambda body: body["messages"][1]["content"])]
    assert seeds[0] == endpoint.bodies[3]["seed"]
    assert len({*seeds, endpoint.bodies[2]["seed"]}) == 3
    answers(spec(endpoint, seed=False))
    assert "seed" not in endpoint.bodies[-1]


def test_a_reasoning_model_is_asked_in_its_own_way(endpoint: Endpoint) -> None:
    endpoint.replies.append(Reply(body=completion("[[B]]", reasoning_content="[[A]]? no")))
    (found,) = answers(spec(endpoint, {"options": {"reasoning": True, "max_new_tokens": 9}}))
    assert endpoint.bodies[0]["max_completion_tokens"] == 9
    assert not {"max_tokens", "temperature", "seed", "top_p"} & endpoint.bodies[0].keys()
    assert found.text == "<think>\n[[A]]? no\n</think>\n[[B]]"


def test_it_tries_again_as_the_endpoint_says(endpoint: Endpoint) -> None:
    slow_down = Reply(429, failure("slow down"), {"Retry-After": "1"})
    endpoint.replies += [slow_down, Reply(503, failure("busy"), {"Retry-After": "0.1"})]
    assert answers(spec(endpoint))[0].text == "[[A]]"
    waits = [later - sooner for sooner, later in zip(endpoint.times, endpoint.times[1:], strict=False)]
    assert len(waits) == 2
    assert waits[0] >= 1.0


def test_no_more_requests_at_a_time_than_allowed(endpoint: Endpoint) -> None:
    endpoint.always = Reply(seconds=0.05)
    asked = [request(str(number)) for number in range(12)]
    assert len(answers(spec(endpoint, concurrency=3), *asked)) == 12
    assert endpoint.most == 3


def test_answers_keep_the_order_of_the_requests(endpoint: Endpoint) -> None:
    endpoint.replies += [Reply(body=completion(str(number)), seconds=0.3 - number * 0.1) for number in range(3)]
    found = answers(spec(endpoint, concurrency=1), *[request(str(number)) for number in range(3)])
    assert [output.text for output in found] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(400, failure("the response was filtered", "content_filter")),
        Reply(400, failure("This model's maximum context length is 8192 tokens. However, you requested 9000.", None)),
        Reply(200, completion(None, refusal="no")),
        Reply(200, {**completion(), "choices": []}),
    ],
)
def test_what_is_not_answered_is_kept_as_an_empty_text(endpoint: Endpoint, reply: Reply) -> None:
    endpoint.replies.append(reply)
    (found,) = answers(spec(endpoint))
    assert found.text == ""
    assert found.extra["refused"] == 1.0
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (Reply(401, failure(f"Incorrect API key: {KEY}")), ModelError, "refuses the key in MY_KEY: "),
        (Reply(403, failure("not your model")), ModelError, "refuses the key in MY_KEY: "),
        (Reply(404, failure("no such model")), ModelError, "knows no model 'a-model'"),
        (Reply(400, failure("unknown field top_k")), ModelError, "refuses the request: "),
        (Reply(429, failure("pay first", "insufficient_quota")), ModelError, "refuses the request: "),
        (Reply(429, failure("slow down")), EngineError, "still limits the rate after 1 retries"),
        (Reply(500, failure("out of order")), EngineError, "fails after 1 retries"),
        (Reply(200, b"<html>welcome</html>", {"Content-Type": "text/html"}), ModelError, "not with a chat completion"),
        (Reply(200, b"{nonsense"), ModelError, "not with a chat completion"),
        (Reply(200, {"hello": "world"}), ModelError, "not with a chat completion"),
        (Reply(200, b"[1, 2]"), ModelError, "not with a chat completion"),
        (Reply(200, completion(7)), ModelError, "not with a chat completion"),  # type: ignore[arg-type]
        (
            Reply(200, {**completion(), "choices": ["x"]}),
            ModelError,
            "not with a chat completion",
        ),
    ],
)
def test_an_error_is_one_line_without_the_key(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, reply: Reply, error: type[SweepError], message: str
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    endpoint.always = reply
    with pytest.raises(error) as raised:
        answers(spec(endpoint, key="MY_KEY", retries=1))
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"model 'm': {endpoint.url} ")
    assert len(str(raised.value).splitlines()) == 1
    assert KEY not in str(raised.value)


def test_an_endpoint_that_is_down_is_one_line() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    with pytest.raises(ModelError, match="cannot be reached, after 1 retries"):
        answers(spec(url, retries=1))


def test_a_key_that_is_not_there_is_named_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelError, match="needs a key; set OPENAI_API_KEY in the workers' environment"):
        engine.lint(spec("openai"), [request()])


def test_the_providers_key_does_not_go_to_another_endpoint(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers(spec(endpoint))
    assert endpoint.keys == ["Bearer none"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "openia"}, "models.m.endpoint.url: must be one of openai, anthropic, gemini, together, or an http"),
        ({"url": "https://me:secret@host/v1"}, "models.m.endpoint.url: must be one of"),
        ({"url": None}, "models.m.endpoint.url: must be one of"),
        ({"key": "sk-1234"}, "models.m.endpoint.key: must be the name of an environment variable"),
        ({"concurrency": 0}, "models.m.endpoint.concurrency=0: must be a whole number of at least 1"),
        ({"concurrency": True}, "models.m.endpoint.concurrency=True: must be a whole number"),
        ({"input_price": "free"}, "models.m.endpoint.input_price=free: must be a number: dollars"),
        ({"tiemout": 3}, "models.m.endpoint: unknown key 'tiemout': did you mean 'timeout'?"),
    ],
)
def test_a_wrong_setting_is_named_without_secrets(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        spec("openai", **settings)
    assert message in str(error.value)
    assert "secret" not in str(error.value)
    assert "sk-1234" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 3}, "models.m.options: unknown key 'top_k'"),
        ({"reasoning": True, "temperature": 1.0}, "models.m.options.temperature: a reasoning model takes none"),
        ({"body": 3}, "models.m.options.body: must hold"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        engine.load(spec("http://localhost:1/v1", {"options": options}))
    assert message in str(error.value)


def test_only_an_engine_that_calls_a_server_has_an_endpoint() -> None:
    with pytest.raises(InputError, match=r"models\.m\.endpoint: only a model that is not loaded here has one"):
        pin_model("m", {"path": "x", "family": "judge", "endpoint": "openai"}, cuda=False)


def test_a_texts_key_names_the_model_and_the_address_only() -> None:
    one = spec("https://one/v1")
    assert one.fingerprint == spec("https://one/v1/", concurrency=3, key="K", input_price=1).fingerprint
    assert one.fingerprint != spec("https://two/v1").fingerprint
    assert one.fingerprint != spec("https://one/v1", {"path": "b-model"}).fingerprint
    moved = [spec(url, serves="weights 1").fingerprint for url in ("https://one/v1", "https://two/v1")]
    assert moved[0] == moved[1]


def words(endpoint: Endpoint, pairs: Path, *more: str) -> list[str]:
    keys = ["path=a-model", "family=judge", "engine=openai", f"endpoint.url={endpoint.url}"]
    named = [f"+models.api.{key}" for key in keys]
    return ["run", "pool=local", "store=s", f"data.pairs={pairs}", *named, *more]


def test_nothing_is_paid_for_twice_and_the_cost_is_said(cli: Cli, endpoint: Endpoint, write_pairs: Any) -> None:
    prices = ["+models.api.endpoint.input_price=2.5", "+models.api.endpoint.output_price=10"]
    endpoint.replies += [Reply(400, failure("filtered", "content_filter"))]
    first = cli(*words(endpoint, write_pairs(ROWS[:8]), *prices))
    assert first.returncode == 0, first.stderr
    paid = 7 * (11 * 2.5 + 3 * 10) / 1e6
    assert f"cost: api: 8 answers, 1 refused, 77 prompt tokens, 21 completion tokens: ${paid:.4f}" in first.stderr
    assert "note: api: 1 of 8 rows have a text without a verdict" in first.stdout
    more = cli(*words(endpoint, write_pairs(ROWS), *prices, "output=json"))
    assert "cost: api: 4 answers, 44 prompt tokens" in more.stderr
    again = cli(*words(endpoint, write_pairs(ROWS), *prices))
    assert "nothing to score" in again.stderr
    assert "cost" not in again.stderr
    assert len(endpoint.bodies) == 12
    runs = json.loads(cli("status", "store=s", "output=json").stdout)["runs"]
    assert [run["costs"][0]["answers"] if run["costs"] else 0 for run in runs] == [8, 4, 0]
    assert runs[0]["costs"][0]["dollars"] == pytest.approx(paid)
    assert cli("verify", "store=s").returncode == 0


def test_an_endpoint_that_fails_costs_its_own_model_only(cli: Cli, endpoint: Endpoint, write_pairs: Any) -> None:
    endpoint.always = Reply(200, b"<html>not here</html>", {"Content-Type": "text/html"})
    done = cli(*words(endpoint, write_pairs(ROWS), "model=[longest]", "output=json"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = {model["name"]: model for model in json.loads(done.stdout)["models"]}
    assert found["longest"]["rows_missing"] == 0
    assert "answers, but not with a chat completion" in found["api"]["failure"]
    assert "answers, but not with a chat completion" in cli("status", "store=s").stdout


def test_in_ray_one_worker_asks_however_many_rows_there_are(cli: Cli, endpoint: Endpoint, write_pairs: Any) -> None:
    rows = [{**ROWS[0], "prompt": f"question {number}"} for number in range(400)]
    endpoint.always = Reply(seconds=0.01)
    done = cli(*words(endpoint, write_pairs(rows), "pool=ray", "+models.api.endpoint.concurrency=4"))
    assert done.returncode == 0, done.stderr
    assert len(endpoint.bodies) == 400
    assert endpoint.most <= 4
