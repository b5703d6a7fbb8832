"""Loads that fail and may not fail again: what is one, and what becomes of a model that has some."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import Failed, Linted, Ready, Tick
from orchestrator.faults import Limits
from tests.conftest import ROOT
from tests.loopback_hub import COMMIT, hub
from tests.test_scheduler import account, done, play, scheduler_of, stream
from workers.errors import EngineError, ModelError, UnavailableError, boundary
from workers.transient import STATUSES, passes

AGAIN = UnavailableError("the hub does not answer")
ASK = """
import json, sys
from huggingface_hub.utils import _http
_http.time.sleep = lambda seconds: None  # the library tries again by itself, and waits for that
from workers.errors import SweepError
from workers.fetch import fetch
from workers.protocol import ModelSpec
spec = ModelSpec.from_json({**json.loads(sys.argv[1]), "environment": []})
for line in sys.stdin:
    try:
        fetch(spec)
        print("fetched", flush=True)
    except SweepError as error:
        print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
"""


class AnswerError(OSError):
    """As HTTP libraries have one."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} for this address")
        self.response = SimpleNamespace(status_code=status)


class OfflineModeIsEnabled(ConnectionError):
    """As the hub's library has it."""


def raised(error: Exception, cause: Exception | None) -> Exception:
    """An error as it arrives: raised while another one was handled, where there was one."""
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "cause", "may_pass"),
    [
        (ConnectionResetError(), None, True),
        (TimeoutError(), None, True),
        (socket.gaierror(-3, "name resolution"), None, True),
        (OSError(errno.ENETUNREACH, "no route"), None, True),
        (OSError(errno.ESTALE, "stale handle"), None, True),
        (IncompleteRead(b""), None, True),
        (OSError("We could not connect"), ConnectionRefusedError(), True),
        (FileNotFoundError("not in the cache"), AnswerError(503), True),
        (AnswerError(429), None, True),
        (AnswerError(404), None, False),
        (AnswerError(401), ConnectionResetError(), False),
        (FileNotFoundError("config.json"), None, False),
        (FileNotFoundError("not in the cache"), OfflineModeIsEnabled("HF_HUB_OFFLINE"), False),
        (OSError(errno.ENOSPC, "disk full"), None, False),
        (PermissionError(errno.EACCES, "weights"), None, False),
        (ValueError("needs trust_remote_code"), None, False),
        (KeyError("model_type"), None, False),
    ],
)
def test_what_may_pass_is_told_from_what_never_works(error: Exception, cause: Exception | None, may_pass: bool) -> None:
    found = raised(error, cause)
    assert passes(found) == may_pass
    expected = UnavailableError if may_pass else ModelError
    with pytest.raises(expected, match="cannot be loaded"), boundary(ModelError, "cannot be loaded", UnavailableError):
        raise found
    with pytest.raises(EngineError), boundary(EngineError, "shard"):
        raise found


@given(st.integers(100, 599))
def test_the_status_of_an_answer_decides(status: int) -> None:
    assert passes(AnswerError(status)) == (status in STATUSES)


@contextmanager
def asking(folder: Path, url: str) -> Iterator[Callable[[], str]]:
    """A process that fetches a checkpoint from a hub whenever it is asked to, and says what came of it."""
    spec = {"name": "m", "path": "org/m", "weights": "w", "revision": COMMIT, "family": "scalar"}
    spec |= {"family_version": "1", "engine": "transformers", "engine_version": "1"}
    home = {"HF_ENDPOINT": url, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", ASK, json.dumps(spec)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": {**os.environ, **home}}
    with subprocess.Popen(line, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> str:
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline()

        yield ask
        process.stdin.close()


@pytest.mark.parametrize("status", [503, 429, 0])
def test_a_hub_that_fails_for_a_while_fails_no_model(
    status: int, tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    with hub({"org/m": checkpoint("llama")}) as server, asking(tmp_path, server.url) as ask:
        server.refusals, server.status = 10**6, status
        for _ in range(2):
            assert ask().startswith("UnavailableError model 'm': cannot fetch org/m: ")
        server.refusals = 0
        assert ask() == "fetched\n"


def test_a_hub_that_is_not_there_may_come(tmp_path: Path) -> None:
    with hub({}) as server:
        url = server.url
    with asking(tmp_path, url) as ask:
        assert ask().startswith("UnavailableError")


def test_a_model_that_the_hub_does_not_have_is_none_that_may_come(tmp_path: Path) -> None:
    with hub({}) as server, asking(tmp_path, server.url) as ask:
        assert ask().startswith("ModelError")


def test_a_model_rests_meanwhile_others_have_its_place() -> None:
    scheduler = scheduler_of(stream("a", length=9), stream("b"), limits=Limits(back_off=15.0))
    scheduler.begin()
    scheduler.handle(Tick(0.0))
    assert play(scheduler, Linted(0, ()), Failed(0, AGAIN)) == "stop 0, start 1 b, lint 1"
    assert play(scheduler, Linted(1, ()), Ready(1, 1.0), done(1)) == "stop 1"
    assert not scheduler.finished
    assert play(scheduler, Tick(5.0), Tick(14.0)) == ""
    assert play(scheduler, Tick(15.5)) == "start 2 a, load 2"
    assert play(scheduler, Ready(2, 1.0), done(2)) == "stop 2"
    assert scheduler.finished
    assert account(scheduler) == {"a": (2, 0, None), "b": (2, 0, None)}


def test_three_loads_in_a_row_each_later_end_the_model_with_the_reason() -> None:
    scheduler = scheduler_of(stream("a"), limits=Limits(back_off=10.0))
    scheduler.begin()
    scheduler.handle(Tick(0.0))
    assert play(scheduler, Failed(0, AGAIN), Tick(9.0)) == ""
    assert play(scheduler, Tick(11.0)) == "start 1 a, lint 1"
    assert play(scheduler, Failed(1, AGAIN), Tick(30.0), Tick(50.0)) == ""
    assert play(scheduler, Tick(51.5)) == "start 2 a, lint 2"
    assert play(scheduler, Failed(2, AGAIN)) == "stop 2"
    assert scheduler.finished
    assert account(scheduler) == {"a": (0, 2, "the hub does not answer")}


def test_a_load_that_succeeds_is_a_new_beginning() -> None:
    scheduler = scheduler_of(stream("a", shards=2), limits=Limits(max_attempts=2, back_off=10.0))
    scheduler.begin()
    scheduler.handle(Tick(0.0))
    play(scheduler, Linted(0, ()), Failed(0, AGAIN), Tick(11.0), Ready(1, 1.0), done(1))
    state = next(iter(scheduler.streams.values()))
    assert (state.loads, state.resting <= scheduler.now) == (0, True)


def test_a_replica_that_cannot_fetch_leaves_the_others_alone() -> None:
    scheduler = scheduler_of(stream("a", shards=9), cpus=2)
    scheduler.begin()
    scheduler.handle(Tick(0.0))
    play(scheduler, Linted(0, ()), Ready(0, 1.0))
    assert set(scheduler.workers) == {0, 1}
    assert play(scheduler, Failed(1, AGAIN)) == "stop 1"
    assert set(scheduler.workers) == {0}
