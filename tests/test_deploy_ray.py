"""`deploy/ray/submit.py` against a real cluster with a dashboard and a token: submit, stop midway, submit again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT, Cli

pytestmark = [pytest.mark.deploy, pytest.mark.ray, pytest.mark.timeout(400)]
pytest.importorskip("aiohttp_cors", reason="ray[default] is not installed (make test-deploy)")

SUBMIT = Path("deploy", "ray", "submit.py")
SENT = ("orchestrator", "workers", "conf", "deploy")
UPLOADED = "0+uploaded"
MIB = 1024 * 1024
ROWS = 800
OWN = "own"
"""Stands for the cluster's token."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def token() -> str:
    """A token as the pages make one, in a home of its own."""
    command = [str(Path(sys.executable).parent / "ray"), "get-auth-token", "--generate"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    with tempfile.TemporaryDirectory() as home:
        settings = {"HOME": home, "RAY_AUTH_MODE": "token"}
        done = subprocess.run(command, env=environment | settings, capture_output=True, text=True, check=True)
    assert len(done.stdout) == 64, "the shell's $(...) must give the token and nothing else"
    return done.stdout


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray cluster of its own with the jobs API, on loopback, that asks for a token; its dashboard's address."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus", "3"]
    options = {"--port": free_port(), "--dashboard-host": "127.0.0.1", "--dashboard-port": port}
    process = subprocess.Popen(
        [*command, *(str(word) for pair in options.items() for word in pair), "--disable-usage-stats"],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token(), "PATH": path_with_python()},
        cwd=tmp_path_factory.mktemp("head"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(port), 90, "the dashboard does not answer")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def path_with_python() -> str:
    """PATH with this environment first, as in a container or an activated environment."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def answers(port: int) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", "list", "--address", f"http://127.0.0.1:{port}"],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token()},
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def wait_until(true: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout that says of itself another version than the one installed on the cluster."""
    folder = tmp_path_factory.mktemp("laptop") / "checkout"
    for name in SENT:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "orchestrator" / "__init__.py").write_text(f'__version__ = "{UPLOADED}"\n')
    return folder


@pytest.fixture
def words(write_pairs: Callable[..., Path], tmp_path: Path) -> list[str]:
    rows = [{"prompt": f"q {row}", "chosen": f"long {row} xx", "rejected": f"short {row}"} for row in range(ROWS)]
    return [
        "run",
        "model=[longest,random]",
        "benchmarks=[pairs]",
        f"data.pairs={write_pairs(rows)}",
        f"store={tmp_path / 'a store'}",
        "shard_rows=4",
        "output=json",
    ]


def start(checkout: Path, dashboard: str | None, words: list[str], given: str | None = OWN) -> subprocess.Popen[str]:
    settings = {"RAY_ADDRESS": dashboard, "RAY_AUTH_TOKEN": token() if given == OWN else given}
    hidden = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, str(checkout / SUBMIT), *words],
        env={**hidden, **{name: value for name, value in settings.items() if value is not None}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def test_a_job_stopped_midway_is_resumed_by_the_same_command(
    dashboard: str, checkout: Path, words: list[str], tmp_path: Path, cli: Cli
) -> None:
    parts = tmp_path / "a store" / "measurements"
    first = start(checkout, dashboard, words)
    wait_until(lambda: len(list(parts.glob("*/*.parquet"))) >= 5, 120, "no part was written")
    first.send_signal(signal.SIGINT)
    code, output = finished(first)
    assert code == 130, output
    assert "submit the same command again" in output

    def accounts() -> list[dict[str, int]]:
        done = cli("status", f"store={tmp_path / 'a store'}", "output=json")
        assert done.returncode == 0, done.stderr
        return [run["account"] for run in json.loads(done.stdout)["runs"] if run["account"]]

    time.sleep(5)  # Ray gives a stopped job three seconds
    kept = len(list(parts.glob("*/*.parquet")))
    assert 5 <= kept < 4 * ROWS / 4, "the job was not stopped midway"

    code, output = finished(start(checkout, dashboard, words))
    assert code == 0, output
    last = accounts()[-1]
    assert last["asked"] == last["scored"] + last["reused"] == 4 * ROWS
    assert last["reused"] >= 4 * 5
    assert last["scored"] > 0
    records = [path.read_text() for path in (tmp_path / "a store" / "runs").rglob("*") if path.is_file()]
    assert any(UPLOADED in record for record in records), "the cluster ran its own code, not what was sent"


def test_a_failed_command_gives_its_own_exit_code_and_reason(dashboard: str, checkout: Path, tmp_path: Path) -> None:
    code, output = finished(start(checkout, dashboard, ["run", "model=[no-such-model]", f"store={tmp_path}"]))
    assert code == 2, output
    assert "no-such-model" in output


def test_a_wrong_or_missing_token_submits_nothing(
    dashboard: str, checkout: Path, words: list[str], tmp_path: Path
) -> None:
    for wrong in ("w" * 64, None):
        code, output = finished(start(checkout, dashboard, words, given=wrong))
        assert code == 2, output
        assert "Traceback" not in output
        assert "oken" in output
    assert not (tmp_path / "a store").exists()


def test_what_travels_is_code_and_configuration_under_ten_mebibytes(tmp_path: Path) -> None:
    """The package as Ray itself builds it, of a checkout with a .git, data and environments in it."""
    from ray._private.runtime_env.packaging import create_package

    sys.path.insert(0, str((ROOT / SUBMIT).parent))
    try:
        import submit
    finally:
        sys.path.pop(0)
    checkout = tmp_path / "checkout"
    for folder in SENT:
        shutil.copytree(ROOT / folder, checkout / folder)
    litter = (".git/objects/pack", ".venv/lib", "data", "shared", "rewardsweep-store/measurements", "my-checkpoint")
    for folder in litter:
        (checkout / folder).mkdir(parents=True)
        (checkout / folder / "big.bin").write_bytes(os.urandom(11 * MIB))
    (checkout / "conf" / "secret.yaml").write_text("token: canary\n")
    (checkout / ".env").write_text("HF_TOKEN=canary\n")
    create_package(
        str(checkout), tmp_path / "package.zip", include_gitignore=False, excludes=submit.runtime_env()["excludes"]
    )
    assert (tmp_path / "package.zip").stat().st_size < 10 * MIB
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        names = package.namelist()
    assert {name.split("/")[0] for name in names} == set(SENT)
    assert "conf/secret.yaml" not in names
    assert {name for name in names if name.startswith("deploy/") and not name.startswith("deploy/ray/")} == set()
    assert "deploy/ray/with_gpus.py" in names
    sources = {str(path.relative_to(checkout)) for name in SENT for path in (checkout / name).rglob("*.py")}
    assert sources <= set(names)


def test_mistakes_are_told_before_anything_travels(checkout: Path, words: list[str]) -> None:
    for address, given, named in (
        (None, words, "RAY_ADDRESS"),
        ("http://127.0.0.1:9", ["run", "store=relative"], "store="),
        ("http://127.0.0.1:9", [], "give a command"),
        (f"http://127.0.0.1:{free_port()}", words, "RAY_ADDRESS=http"),
    ):
        code, output = finished(start(checkout, address, given))
        assert code == 2, output
        assert output.startswith("error: ")
        assert named in output
        assert len(output.splitlines()) == 1, output
