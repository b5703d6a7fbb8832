"""A real Prometheus scrapes the metrics of a sweep on a real Ray, and answers with the right numbers."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.telemetry import GPU_SECONDS, METRICS
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus (apt-get install prometheus)"),
    pytest.mark.skipif(
        importlib.util.find_spec("opentelemetry") is None, reason="no metrics agent (rewardsweep[metrics])"
    ),
]
ROWS = 20
NODE = """
global: {scrape_interval: 1s}
scrape_configs: [{job_name: ray, static_configs: [{targets: ['127.0.0.1:%d']}]}]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def started(*command: str, **environment: str) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, env={**os.environ, **environment}, start_new_session=True, stdout=quiet, stderr=quiet
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=15)


def until(found: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.5)
    pytest.fail(f"not within {seconds} s: {what}")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def ray_and_prometheus(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Ray's address and the port of a Prometheus that scrapes it."""
    ray, metrics, port = free_port(), free_port(), free_port()
    head = started(
        str(Path(sys.executable).parent / "ray"),
        *("start", "--head", "--block", "--num-cpus", "2", "--disable-usage-stats", "--include-dashboard", "false"),
        *("--port", str(ray), "--metrics-export-port", str(metrics)),
        RAY_AUTH_MODE="disabled",
    )
    (tmp_path / "prometheus.yml").write_text(NODE % metrics)
    server = started(
        "prometheus",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    try:
        until(lambda: listens(ray) and listens(metrics) and listens(port), 90, "Ray, its metrics agent and Prometheus")
        yield f"127.0.0.1:{ray}", port
    finally:
        stop(server)
        stop(head)


def asked(port: int, query: str) -> list[tuple[dict[str, str], float]]:
    """What Prometheus answers: labels and value of each series."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)
    assert found["status"] == "success"
    return [(series["metric"], float(series["value"][1])) for series in found["data"]["result"]]


def test_prometheus_knows_what_a_sweep_did(
    ray_and_prometheus: tuple[str, int], write_pairs: Callable[..., Path], tmp_path: Path
) -> None:
    address, port = ray_and_prometheus
    rows = [{"prompt": f"q{row}", "chosen": f"good {row}", "rejected": f"bad {row}"} for row in range(ROWS)]
    words = [
        *("run", "model=[longest]", "+models.slow.family=baseline", "+models.slow.engine=tests.sleepy_engine"),
        *("benchmarks=[pairs]", f"data.pairs={write_pairs(rows)}", "shard_rows=4", "output=json"),
        *(f"store={tmp_path / 'store'}", f"ray.address={address}"),
    ]
    sweep = subprocess.Popen(
        [sys.executable, "-P", "-m", "orchestrator", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def whole() -> bool:
        """Every row of both models is counted; before the agent forgets the driver, which is soon after its end."""
        scored = dict((labels["model"], value) for labels, value in asked(port, "ray_rewardsweep_rows_total"))
        return scored == {"longest": 2.0 * ROWS, "slow": 2.0 * ROWS}

    try:
        half = until(lambda: asked(port, "0 < ray_rewardsweep_sweep_progress < 1"), 120, "progress between 0 and 1")
        owed = asked(port, "ray_rewardsweep_owed_rows")
        queue = asked(port, "ray_rewardsweep_queue_shards")
        until(whole, 120, "all rows counted")
        assert half
        assert owed
        assert {labels["model"] for labels, _ in queue} == {"longest", "slow"}
        [(labels, _)] = asked(port, "ray_rewardsweep_rows_total{model='slow'}")
        assert labels["state"] == "scored"
        tokens = dict((labels["model"], value) for labels, value in asked(port, "ray_rewardsweep_tokens_total"))
        assert tokens["longest"] == sum(len(row["chosen"]) + len(row["rejected"]) for row in rows)
        [(_, seen)] = asked(port, "ray_rewardsweep_last_event_timestamp_seconds")
        assert abs(time.time() - seen) < 120
        known = {labels["__name__"] for labels, _ in asked(port, '{__name__=~"ray_rewardsweep_.*"}')}
        assert known <= {f"ray_{metric.name}" for metric in METRICS}
        assert f"ray_{GPU_SECONDS.name}" not in known, "no GPU was held"
    finally:
        out, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, err
    assert {model["name"] for model in json.loads(out)["models"]} == {"longest", "slow"}
