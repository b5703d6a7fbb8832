"""A cluster at zero that grows when a sweep asks it to: Ray's autoscaler, with machines that are processes here.

Takes most of a minute and the port that Ray's provider for tests insists on, so it runs with `REWARDSWEEP_RAY_SCALE=1`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import sweeps
from tests.conftest import ROOT
from tests.sweeps import Sweep

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif("REWARDSWEEP_RAY_SCALE" not in os.environ, reason="set REWARDSWEEP_RAY_SCALE=1"),
]

ROWS = 40
PORT = 6379
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
EMPTY = ("auth", "docker", "file_mounts")
NOTHING = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
CONFIG = {
    "cluster_name": "growing",
    "max_workers": 2,
    "provider": {"type": "external", "module": PROVIDER},
    "head_node_type": "head",
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 1,
    "available_node_types": {
        "slot": {
            "resources": {"CPU": 1, "object_store_memory": 10**8},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    },
    **{name: {} for name in EMPTY},
    **{f"{name}_commands": [] for name in NOTHING},
    "cluster_synced_files": [],
}


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Path]:
    """A head without resources, and an autoscaler; its log."""
    config, session = tmp_path / "cluster.json", Path(tempfile.mkdtemp(prefix="ray-"))  # paths of sockets are short
    config.write_text(json.dumps(CONFIG))
    options = ["--port", str(PORT), "--num-cpus", "0", "--include-dashboard", "false", "--temp-dir", str(session)]
    head = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", *options, "--autoscaling-config", config],
        env={
            **os.environ,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "PYTHONPATH": str(ROOT),
        },
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = session / "session_latest" / "logs" / "monitor.log"
    try:
        while not (log.exists() and "Autoscaler status" in log.read_text()):
            assert head.poll() is None, "the head has ended"
            time.sleep(0.5)
        yield log
    finally:
        head.kill()
        head.wait()
        for pid in _processes(str(session)):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(session, ignore_errors=True)


def _processes(word: str) -> list[int]:
    """Of the machines that the autoscaler has started."""
    lines = {int(one.parent.name): one for one in Path("/proc").glob("[0-9]*/cmdline") if one.parent.name.isdigit()}
    return [pid for pid, line in lines.items() if pid != os.getpid() and word in _text(line)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_a_cluster_at_zero_grows_for_a_sweep_and_is_let_go(growing: Path, tmp_path: Path) -> None:
    sweeps.write_pairs(tmp_path / "pairs.jsonl", ROWS)
    words = ("model=[longest,random]", "benchmarks=[pairs]", f"data.pairs={tmp_path / 'pairs.jsonl'}")
    sweeps.output("run", *words, "pool=local", f"store={tmp_path / 'alone'}")
    sweep = Sweep(words, 4 * ROWS, sweeps.results(tmp_path / "alone"))
    sweeps.output("run", *words, f"ray.address=127.0.0.1:{PORT}", f"store={tmp_path / 'store'}")
    sweeps.check(sweep, tmp_path / "store")
    log = growing.read_text()
    assert "{'CPU': 1.0}: 2 from request_resources()" in log, "a worker for each model"
    time.sleep(3)
    wanted = [line for line in growing.read_text().splitlines() if "request_resources()" in line or "(none)" in line]
    assert "(none)" in wanted[-1], "nothing is asked for any longer"
