"""Log lines: one object a line with run, model and shard, from the driver and from its workers, and never a secret."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Cli
from workers import logs

SECRET = "hf_abcdefgh12345678"


def record(message: str, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("rewardsweep", logging.INFO, "", 0, "%s", (message,), None)
    made.fields = fields
    return made


def test_a_line_carries_what_is_bound_and_what_it_brings() -> None:
    with logs.bound(run="r", model="m"), logs.bound(shard="s"):
        entry = json.loads(logs.JsonLines().format(record("said \n {}", worker=3, nothing=None)))
        text = logs.TextLines().format(record("said"))
    assert {key: entry[key] for key in ("level", "message", "run", "model", "shard", "worker")} == {
        "level": "info",
        "message": "said \n {}",
        "run": "r",
        "model": "m",
        "shard": "s",
        "worker": 3,
    }
    assert "nothing" not in entry
    assert text.endswith("info rewardsweep [run=r model=m shard=s]: said")
    assert "run" not in json.loads(logs.JsonLines().format(record("outside")))


def test_no_line_holds_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("SHORT_KEY", "abc")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path))
    said = f"{SECRET} https://me:hunter2@host/x abc {tmp_path}"
    for line in (logs.JsonLines().format(record(said, url=SECRET)), logs.TextLines().format(record(said))):
        assert SECRET not in line
        assert "hunter2" not in line
        assert "https://me:***@host/x abc" in line
        assert str(tmp_path) in line, "a path is no secret"


WORKER = """
import logging, sys, warnings
from tests import chatty_engine
from workers.actor import Worker
from workers.protocol import Message, ModelSpec, Request, Shard

spec = ModelSpec("longest", "none", "none", "baseline", "1", "tests.chatty_engine", "1", ())
worker = Worker(spec, lambda *given: None, {"form": sys.argv[1], "run": "r1"})
worker.lint([])
worker.load()
worker.score(Shard("shard-7", spec.fingerprint, (Request("reward", (Message("user", "q"),), ("12345",)),)))
"""


def said_by_worker(form: str) -> list[str]:
    command = [sys.executable, "-c", WORKER, form]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


def test_what_a_worker_logs_says_what_it_is_about() -> None:
    lines = [json.loads(line) for line in said_by_worker("json")]
    assert {(line["run"], line["model"]) for line in lines} == {("r1", "longest")}
    by = {line["message"]: line for line in lines}
    assert "a library warns" in by
    assert "a library with a handler of its own warns" in by
    assert any("a Python warning" in message for message in by)
    assert by["a library warns"]["shard"] == "shard-7"
    scored = next(line for message, line in by.items() if message.startswith("1 rows, 5 tokens"))
    assert (scored["shard"], scored["logger"]) == ("shard-7", "rewardsweep.worker")
    assert any(
        line.endswith("warning library [run=r1 model=longest shard=shard-7]: a library warns")
        for line in said_by_worker("text")
    )


def test_a_run_logs_as_json_with_run_model_and_shard(cli: Cli, write_pairs: Callable[..., Path]) -> None:
    data = write_pairs([{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20)])
    words = ["benchmarks=[pairs]", f"data.pairs={data}", "pool=local", "shard_rows=10", "store=s", "output=json"]
    done = cli(
        "run",
        "model=[longest]",
        "+models.odd.family=baseline",
        "+models.odd.options.score=nonsense",
        *words,
        "log=json",
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["benchmark"] == "pairs"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len({line["run"] for line in lines}) == 1
    shards = [line for line in lines if line["message"] == "done"]
    assert {(line["model"], line["rows"]) for line in shards} == {("longest", 10)}
    assert len({line["shard"] for line in shards}) == 4
    [given_up] = [line for line in lines if line["level"] == "error"]
    assert given_up["model"] == "odd"
    assert "nonsense" in given_up["message"]
    wrong = cli("run", "model=[lngest]", "log=json")
    assert wrong.returncode == 2
    assert json.loads(wrong.stderr)["level"] == "error"
    assert "must be one of text, json" in cli("run", "model=[longest]", "log=yaml").stderr
