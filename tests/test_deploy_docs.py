"""Every command of docs/deploy: run here, run by the test it names, or marked with why not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.deploy

PAGES = sorted((ROOT / "docs" / "deploy").glob("*.md"))
DEPLOY = ROOT / "deploy"


class Block(NamedTuple):
    """A fenced block of shell commands and the comment right before it."""

    page: str
    mark: str
    commands: str


def blocks() -> list[Block]:
    return [
        Block(page.name, mark, commands)
        for page in PAGES
        for mark, commands in re.findall(r"(?:<!-- (.+?) -->\n)?```\w*\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    ]


BLOCKS = blocks()
RUN = [block for block in BLOCKS if block.mark == "run"]


def test_there_is_a_page_a_platform() -> None:
    pages = {"clouds", "containers", "dashboards", "job-submission", "kuberay", "slurm"}
    assert pages <= {page.stem for page in PAGES}
    assert pages <= {block.page.removesuffix(".md") for block in BLOCKS}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.commands.split()[0]}")
def test_every_command_is_run_or_says_why_not(block: Block) -> None:
    kind, _, rest = block.mark.partition(": ")
    assert kind in ("run", "tested", "not run"), f"{block.page}: a block without a mark:\n{block.commands}"
    if kind == "tested":
        test = (ROOT / rest).read_text(encoding="utf-8")
        files = {Path(word).name for word in re.findall(r"deploy/\S+\.\w+", block.commands)}
        assert all(name in test for name in files), f"{rest} does not use {files}"
    if kind == "not run":
        assert len(rest.split()) >= 3, "say why"


@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.page}:{block.commands.split()[0]}")
def test_a_command_runs_as_it_is_written(block: Block) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    programs = {line.split()[0] for line in block.commands.replace("\\\n", " ").splitlines() if line.strip()}
    absent = [program for program in programs if which(program, path=path) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.commands],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", [*PAGES, DEPLOY / "README.md", ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"(?<![\w/])(?:deploy|tests)/[\w./-]+\.\w+", text):
        if "NAME" not in path:
            assert (ROOT / path).exists(), path


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
