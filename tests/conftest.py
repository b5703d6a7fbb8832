"""Fixtures that several test files share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from orchestrator.stores.parquet import ParquetStore
from tests.moto_server import moto_server, use
from workers import tiny_zoo

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("REWARDSWEEP_SHARED", ROOT.parent / "shared"))
CLI_SECONDS = 300
REFERENCE_SECONDS = 1800
os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 another test leaves a worker next to nothing

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real preference data and of the reference's runner; the test is skipped without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no test data at {SHARED} (set REWARDSWEEP_SHARED)")
    return SHARED


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """The first test against the reference waits for its environment."""
    for item in items:
        if item.get_closest_marker("reference") is not None:
            item.add_marker(pytest.mark.timeout(REFERENCE_SECONDS))


@pytest.fixture(scope="session")
def reference_venv(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of the reference implementation, built by one process where it is missing."""
    venv = Path(os.environ.get("REWARDSWEEP_REFERENCE_VENV", ROOT / ".venv-reference"))
    runner = shared / "reference" / "run_reference.py"
    if not runner.exists():
        pytest.skip("no runner of the reference implementation")
    with FileLock(tmp_path_factory.getbasetemp().parent / "reference.lock"):
        command = [sys.executable, str(runner), "--venv", str(venv.resolve()), "--", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return venv


def reference_judge(venv: Path, **asked: Any) -> dict[str, Any]:
    """What the reference itself makes of conversations and texts; see `tests/reference_judge.py`."""
    nothing: dict[str, Any] = {name: [] for name in ("pairs", "ranking", "ratings", "verdicts", "ranked", "rated")}
    command = [str(venv / "bin" / "python"), str(ROOT / "tests" / "reference_judge.py")]
    done = subprocess.run(
        command, input=json.dumps(nothing | asked), capture_output=True, text=True, timeout=CLI_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def rewardbench_half(shared: Path) -> Path:
    """The public half of RewardBench."""
    return shared / "data" / "rewardbench_filtered.jsonl.gz"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds tiny checkpoints, each once a session: `checkpoint("llama")`, `checkpoint("gpt2", causal=True)`."""
    folder = tmp_path_factory.mktemp("zoo")

    def build(architecture: str, **options: Any) -> Path:
        name = "-".join([architecture, *(f"{key}-{value}" for key, value in sorted(options.items()))])
        if not (folder / name / "config.json").exists():
            tiny_zoo.build(folder / name, architecture, **options)
        return folder / name

    return build


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs the installed command in a subprocess, from an empty directory; the result has text output."""
    home = tmp_path / "cwd"
    home.mkdir()

    def run(
        *words: str, cwd: Path = home, timeout: int = CLI_SECONDS, settings: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "orchestrator", *words]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **(settings or {})}
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture
def write_pairs(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as a JSON lines file."""

    def write(rows: Sequence[Any], name: str = "pairs.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ParquetStore:
    """A fresh store: in a folder with an awkward name, or as objects in memory."""
    uri = str(tmp_path / "a b [1] *ü #%20") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    return ParquetStore(uri, {"rewardsweep": "1.0", "host": "ü"})


@pytest.fixture
def local(tmp_path: Path) -> ParquetStore:
    return ParquetStore(str(tmp_path / "store"), {})


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that speaks S3: moto's on loopback, or the one at REWARDSWEEP_S3_ENDPOINT."""
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as url:
        yield url


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket; endpoint and keys are in the environment, as a user would have them."""
    use(monkeypatch, server)
    import boto3

    name = f"b-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name
