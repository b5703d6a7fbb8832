"""The built wheel works in any directory: configuration, templates, shipped data and the page's template inside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    secret = ROOT / "conf" / "secret.yaml"
    secret.write_text("token: x\n")
    try:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    finally:
        secret.unlink()
    (wheel,) = folder.glob("rewardsweep-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_two_top_level_names_and_no_secret(installed: Path) -> None:
    names = sorted(path.name for path in installed.iterdir() if not path.name.endswith(".dist-info"))
    assert names == ["orchestrator", "workers"]
    shipped = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert {"orchestrator/conf/config.yaml", "orchestrator/conf/model/longest.yaml"} <= shipped
    assert {"orchestrator/conf/data/demo_pairs.jsonl", "workers/templates/tulu.jinja"} <= shipped
    assert "workers/families/judge_prompts.toml" in shipped
    assert not [name for name in shipped if "secret" in name or name.startswith("tests")]


def test_the_wheel_runs_from_any_directory(installed: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "orchestrator",
        "run",
        "suite=baselines",
        "pool=local",
        "store=here",
        "output=json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {"longest", "shortest", "random", "position"}
    assert {model["name"] for model in json.loads(done.stdout)["models"]} == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    command[4:] = ["site", "public", "store=here"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "<script>" in (tmp_path / "public" / "index.html").read_text(encoding="utf-8")
