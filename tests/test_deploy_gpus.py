"""`deploy/ray/with_gpus.py` on a cluster of Ray's own autoscaler that starts without a GPU, on nodes that are faked."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.deploy, pytest.mark.ray, pytest.mark.timeout(300)]
pytest.importorskip("aiohttp_cors", reason="ray[default] is not installed (make test-deploy)")

SCRIPT = ROOT / "deploy" / "ray" / "with_gpus.py"
SEEN = """
import json, ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
print(json.dumps(ray.cluster_resources()))
raise SystemExit(7)
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("with_gpus", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def growing() -> Iterator[None]:
    """Head without GPUs; up to two nodes of one GPU each, that go after six seconds without work."""
    from ray.cluster_utils import AutoscalingCluster

    node = {"resources": {"CPU": 1, "GPU": 1, "accelerator_type:L4": 1}, "node_config": {}}
    cluster = AutoscalingCluster(
        head_resources={"CPU": 1},
        worker_node_types={"gpu": {**node, "min_workers": 0, "max_workers": 2}},
        idle_timeout_minutes=0.1,
    )
    cluster.start()
    yield
    cluster.shutdown()


def call(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def gpus() -> int:
    code = SEEN.replace("raise SystemExit(7)", "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return int(json.loads(done.stdout).get("GPU", 0))


def wait_until(true: Callable[[], bool], tries: int) -> bool:
    return any(true() for _ in range(tries))


def test_gpus_come_for_the_command_and_go_with_it(growing: None) -> None:
    assert gpus() == 0
    done = call("1:L4", "--", sys.executable, "-c", SEEN)
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout)["GPU"] >= 1
    assert wait_until(lambda: gpus() == 0, 30), "the node was not let go"


def test_gpus_that_never_come_are_told_and_forgotten(growing: None) -> None:
    done = call("8:H100", "--", "false", REWARDSWEEP_GPU_WAIT="3")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no GPU came within 3 s")


def test_what_is_asked_for_is_read(script: ModuleType) -> None:
    assert script.bundles(["8"]) == [{"GPU": 8.0}]
    assert script.bundles(["2x8:H100", "1"]) == [{"GPU": 8.0, "accelerator_type:H100": 0.001}] * 2 + [{"GPU": 1.0}]
    assert script.bundles(["0"]) == []
    for wrong in ("eight", "8:", "x8", "-1", "8 "):
        with pytest.raises(script.Refused):
            script.bundles([wrong])


def test_a_signal_is_the_commands(script: ModuleType, tmp_path: Path) -> None:
    """It ends in its own time, with a code of its own, as the driver does."""
    child = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
print("up", flush=True)
time.sleep(60)
"""
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import with_gpus\n"
    code += f"raise SystemExit(with_gpus.run([sys.executable, '-c', {child!r}]))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(timeout=30) == 130
