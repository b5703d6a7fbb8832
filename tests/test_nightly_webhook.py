"""What is posted where, how often, and that the address is nowhere but in the environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import webhook
from tests.conftest import Cli
from tests.receiver import Receiver, receiving
from tests.refusals import nothing_written, one_line
from workers.errors import InputError

SECRET = "T00CANARY/B00CANARY/xoxCANARY"
NIGHT = ("nightly", "suite=baselines", "pool=local")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def post(receiver: Receiver, payload: Any = None) -> tuple[str | None, list[float]]:
    pauses: list[float] = []
    return webhook.post(f"{receiver.url}/{SECRET}", payload or {"text": "t"}, pauses.append), pauses


def test_a_message_is_posted_once(receiver: Receiver) -> None:
    payload = webhook.message("Nightly: ok", ["<!channel> & *all*", "日本語"], "s3://b/nightly/2026-01-31")
    assert post(receiver, payload) == (None, [])
    ((path, kind, found),) = receiver.posted
    assert (path, kind) == (f"/{SECRET}", "application/json; charset=utf-8")
    assert found == payload
    assert found["text"] == "Nightly: ok"
    assert [block["type"] for block in found["blocks"]] == ["header", "section", "context"]
    assert found["blocks"][1]["text"] == {"type": "mrkdwn", "text": "• &lt;!channel&gt; &amp; *all*\n• 日本語"}


def test_a_message_fits_slack_whatever_it_holds() -> None:
    found = webhook.message("t" * 1000, ["x" * 500] * 100, "l" * 9000)
    assert len(found["blocks"][0]["text"]["text"]) == 150
    assert len(found["blocks"][1]["text"]["text"]) == 3000
    assert len(found["blocks"][2]["elements"][0]["text"]) == 3000
    assert [block["type"] for block in webhook.message("t", [], "l")["blocks"]] == ["header", "context"]


@pytest.mark.parametrize(
    ("answers", "posts", "problem"),
    [
        ([500], 2, None),
        ([503, 429], 3, None),
        ([500, 502, 504], 3, "the receiver answered 504, 3 times"),
        ([404], 1, "the receiver answered 404"),
        ([400], 1, "the receiver answered 400"),
        ([302], 1, "the receiver answered 302"),
    ],
)
def test_retries_are_few_and_only_where_they_may_help(
    receiver: Receiver, answers: list[int], posts: int, problem: str | None
) -> None:
    receiver.answers += answers
    receiver.headers = {"Location": f"{receiver.url}/elsewhere"}
    found, pauses = post(receiver)
    assert (found, len(receiver.posted)) == (problem, posts)
    assert pauses == list(webhook.PAUSES)[: posts - 1]
    assert receiver.asked == [], "a redirection was followed"


def test_the_receiver_may_ask_for_a_pause_within_reason(receiver: Receiver) -> None:
    receiver.answers += [429]
    receiver.headers = {"Retry-After": "7"}
    assert post(receiver) == (None, [7.0])
    receiver.answers += [429, 429]
    receiver.headers = {"Retry-After": "86400"}
    assert post(receiver) == (None, [webhook.LONGEST_PAUSE] * 2)


def test_who_does_not_answer_is_given_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "SECONDS", 0.2)
    receiver.answers += [0, 0, 0]
    assert post(receiver)[0] == "the receiver cannot be reached (TimeoutError), 3 times"
    assert webhook.post("http://127.0.0.1:1/" + SECRET, {}, lambda _: None) == (
        "the receiver cannot be reached (Connection refused), 3 times"
    )


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"hooks.example/{SECRET}",
        f"ftp://host/{SECRET}",
        f"http:///{SECRET}",
        f"https://host/{SECRET} x",
        f"https://host:port/{SECRET}",
        f"https://[host/{SECRET}",
        f"https://host/{SECRET}\n/",
        f"https://host/ü{SECRET}",
    ],
)
def test_a_wrong_address_is_refused_without_being_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HOOK", value)
    with pytest.raises(InputError, match=r"^webhook=HOOK: ") as refused:
        webhook.address("HOOK")
    assert "CANARY" not in str(refused.value)
    if value:
        with pytest.raises(InputError, match=r"^webhook: ") as refused:
            webhook.address(value)
        assert "CANARY" not in str(refused.value)


def test_the_night_posts_and_tells_nobody_where(cli: Cli, receiver: Receiver, tmp_path: Path) -> None:
    url = f"{receiver.url}/{SECRET}?a=b"
    done = cli(*NIGHT, f"store={tmp_path / 's'}", "webhook=SLACK", settings={"SLACK": url})
    assert done.returncode == 0, done.stderr
    inline = cli(*NIGHT, f"store={tmp_path / 's'}", f"webhook={url}")
    assert inline.returncode == 0, inline.stderr
    receiver.answers += [403]
    failed = cli(*NIGHT, f"store={tmp_path / 's'}", f"webhook={url}")
    assert failed.returncode == 0, "a webhook that fails is no failed night"
    assert "warning: webhook: the receiver answered 403; the report is in " in failed.stderr
    shown = cli(*NIGHT, f"webhook={url}", "--cfg", "job")
    assert shown.returncode == 0
    assert "webhook: REWARDSWEEP_WEBHOOK" in shown.stdout
    odd = cli(*NIGHT, f"store={tmp_path / 's'}", f"webhook={url}", "benchmarks=[")
    assert odd.returncode == 2
    assert [path for path, _, _ in receiver.posted] == [f"/{SECRET}?a=b"] * 3
    texts = [found["text"] for _, _, found in receiver.posted]
    assert all(text.endswith(": ok") for text in texts)
    assert "the first night" not in json.dumps(receiver.posted[1][2])
    for ran in (done, inline, failed, shown, odd):
        assert "CANARY" not in ran.stdout + ran.stderr
    kept = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert len(kept) > 20
    assert not [path for path in kept if b"CANARY" in path.read_bytes() or b"127.0.0.1" in path.read_bytes()]


def test_a_variable_that_is_not_there_stops_the_night_before_it_begins(cli: Cli, tmp_path: Path) -> None:
    line = one_line(cli(*NIGHT, f"store={tmp_path / 'store'}", "webhook=NO_SUCH"))
    assert line == "error: webhook=NO_SUCH: the environment has no variable of that name, or it is empty"
    nothing_written(tmp_path)
