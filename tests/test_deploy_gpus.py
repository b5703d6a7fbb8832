"""`deploy/ray/with_gpus.py` on a cluster of Ray's own autoscaler that starts without a GPU, on nodes that are faked."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.deploy, pytest.mark.ray]
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


def config(port: int) -> dict[str, Any]:
    """A head without GPUs; up to two nodes of one GPU each, that go after six seconds without work."""
    node = {"resources": {"CPU": 1, "GPU": 1, "accelerator_type:L4": 1}, "node_config": {}}
    nothing: dict[str, Any] = {"auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": []}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        **nothing,
        **{f"{name}_commands": [] for name in commands},
        "cluster_name": "growing",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        # all nodes have one address here: by it the autoscaler would not know which of them is idle
        "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}", "use_node_id_as_ip": True},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "gpu": {**node, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
    }


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray's own autoscaler over nodes that are processes of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    written = tmp_path_factory.mktemp("growing") / "cluster.yaml"
    written.write_text(json.dumps(config(port)))
    temporary = Path(tempfile.mkdtemp(prefix="rs"))  # Ray's sockets need a short path
    options = {"port": port, "num-cpus": 1, "temp-dir": temporary, "autoscaling-config": written}
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--include-dashboard", "false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "g" * 64)
        process = subprocess.Popen(
            [*command, "--node-ip-address", "127.0.0.1", *(f"--{name}={value}" for name, value in options.items())],
            env={**os.environ, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        try:
            assert wait_until(lambda: listens(port), 120), "the head does not answer"
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(2)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)
            shutil.rmtree(temporary, ignore_errors=True)


def listens(port: int) -> bool:
    time.sleep(0.5)
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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


def test_nothing_is_asked_for_where_nothing_is_to_be_scored(growing: None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "run", "model=[longest]", "benchmarks=[demo]", "pool=local"]
    command.append(f"store={tmp_path / 'store'}")
    done = call("8:H100", "--", *command, REWARDSWEEP_GPU_WAIT="3", PYTHONPATH=str(ROOT))
    assert done.returncode == 2, "what is owed asks for GPUs, of which none come"
    assert not (tmp_path / "store").exists()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    for verb, code in (("run", 0), ("nightly", 0)):
        words = [verb if word == "run" else word for word in command]
        done = call("8:H100", "--", *words, REWARDSWEEP_GPU_WAIT="3", RAY_ADDRESS="127.0.0.1:9", PYTHONPATH=str(ROOT))
        assert done.returncode == code, done.stderr
        assert "longest" in done.stdout or "nightly" in done.stdout


def test_of_other_commands_there_is_no_telling(script: ModuleType) -> None:
    for command in (["true"], ["rewardsweep", "check"], ["rewardsweep", "run", "-m"], ["env", "run"]):
        assert script.owes(command)


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
