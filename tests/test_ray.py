"""Real Ray: actors that die, clusters that are joined with a token, models that no machine can hold."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Cli

pytestmark = pytest.mark.ray

ROWS = 60


@pytest.fixture
def pairs(write_pairs: Callable[..., Path]) -> Path:
    rows = [
        {"prompt": f"question {row}", "chosen": f"answer {row} x", "rejected": f"reply {row}"} for row in range(ROWS)
    ]
    return write_pairs(rows)


def words(pairs: Path, store: Path, **options: str) -> list[str]:
    faults = [f"+models.faulty.options.{name}='{value}'" for name, value in options.items()]
    return [
        "run",
        "model=[longest]",
        "+models.faulty.family=baseline",
        "+models.faulty.engine=tests.faulty_engine",
        *faults,
        "benchmarks=[pairs]",
        f"data.pairs={pairs}",
        f"store={store}",
        "shard_rows=10",
        "output=json",
    ]


def models(text: str) -> dict[str, dict[str, object]]:
    return {model["name"]: model for model in json.loads(text)["models"]}


def test_a_killed_actor_costs_one_retry_and_nothing_else(cli: Cli, pairs: Path, tmp_path: Path) -> None:
    done = cli(*words(pairs, tmp_path / "store", once=str(tmp_path / "died")))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert "lost" in done.stderr
    found = models(done.stdout)
    assert found["faulty"]["rows_missing"] == 0
    assert found["faulty"]["overall"] == found["longest"]["overall"] == 1.0


def test_a_row_that_kills_every_actor_is_quarantined_and_the_rest_goes_on(
    cli: Cli, pairs: Path, tmp_path: Path
) -> None:
    done = cli(*words(pairs, tmp_path / "store", poison="reply 7"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = models(done.stdout)
    assert found["longest"]["rows_missing"] == 0
    assert found["faulty"]["rows_missing"] == 1, "the row that kills, and no other of its shard"
    assert found["faulty"]["overall"] is None
    assert "worker lost" in str(found["faulty"]["failure"])
    account = json.loads(cli("status", f"store={tmp_path / 'store'}", "output=json").stdout)["runs"][-1]["account"]
    assert account["quarantined"] == 1
    assert "quarantined: request" in str(found["faulty"]["failure"])
    assert account["asked"] == account["scored"] + account["quarantined"] == 4 * ROWS


def test_a_model_that_needs_more_gpus_than_there_are_fails_alone(
    cli: Cli, pairs: Path, tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    done = cli(
        "run",
        "model=[longest]",
        f"+models.big.path={checkpoint('llama')}",
        "+models.big.family=scalar",
        "+models.big.gpus=1",
        "+models.big.dtype=bfloat16",
        "device=cuda",
        "benchmarks=[pairs]",
        f"data.pairs={pairs}",
        f"store={tmp_path / 'store'}",
    )
    assert done.returncode == 1
    assert "needs 1 GPUs, the cluster has 0" in done.stderr
    assert "longest" in done.stdout


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of its own on loopback, with token authentication; its address."""
    token = tmp_path / "token"
    token.write_text("a" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus", "2"]
    options = ["--port", str(port), "--include-dashboard", "false", "--disable-usage-stats"]
    process = subprocess.Popen(
        [*command, *options],
        env={**os.environ, "RAY_AUTH_MODE": "token"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def _wait_for(port: int) -> None:
    for _ in range(120):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(2)
                return
        time.sleep(0.5)
    pytest.fail("the Ray cluster did not start within a minute")


def test_a_cluster_is_joined_with_its_token(
    cli: Cli, cluster: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli(*words(pairs, tmp_path / "store"), f"ray.address={cluster}")
    assert done.returncode == 0, done.stderr
    assert models(done.stdout)["faulty"]["overall"] == 1.0

    wrong = tmp_path / "wrong"
    wrong.write_text("b" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    refused = cli(*words(pairs, tmp_path / "other"), f"ray.address={cluster}")
    assert refused.returncode == 2
    assert [line for line in refused.stderr.splitlines() if line.startswith("error:")] == refused.stderr.splitlines()[
        -1:
    ]
    assert "token" in refused.stderr
    assert not (tmp_path / "other").exists()
