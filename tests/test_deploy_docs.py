"""The commands of docs/deploy that need other programs, run as they are written; `test_docs` sees to all others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from tests.conftest import ROOT
from tests.pages import BLOCKS, Block

pytestmark = pytest.mark.deploy

PAGES = sorted((ROOT / "docs" / "deploy").glob("*.md"))
DEPLOY = ROOT / "deploy"
RUN = [block for block in BLOCKS if block.mark == "run"]


def test_there_is_a_page_a_platform() -> None:
    pages = {"clouds", "containers", "dashboards", "job-submission", "kuberay", "slurm"}
    assert pages <= {page.stem for page in PAGES}
    assert pages <= {Path(block.page).stem for block in BLOCKS}


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_a_command_runs_as_it_is_written(block: Block) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    programs = {command.split()[0] for command in block.commands}
    absent = [program for program in programs if which(program, path=path) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_of_deploy_is_on_a_page() -> None:
    """A file that no page names, directly or by its folder, is one that nobody finds."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    files = [path.relative_to(ROOT) for path in DEPLOY.rglob("*") if path.is_file() and path.name != "README.md"]
    kustomized = ("kuberay",)
    lost = [str(path) for path in files if path.parts[1] not in kustomized and path.name not in text]
    assert lost == []


def test_the_targets_exist() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "test-deploy", "audit"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pytest -m deploy" in done.stdout
    assert "pip-audit --strict --requirement constraints.txt" in done.stdout
