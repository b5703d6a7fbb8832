"""docs/add-a-model.md is true: its commands and its code, as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "add-a-model.md").read_text(encoding="utf-8")
FIRST, SECOND = PAGE.split("## A head of your own")
UNITS = 16


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def bash(commands: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs commands as a reader would, `rewardsweep` being this checkout's."""
    (cwd / "bin").mkdir(exist_ok=True)
    tool = cwd / "bin" / "rewardsweep"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator "$@"\n')
    tool.chmod(0o755)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{cwd / 'bin'}:{os.environ['PATH']}",
    }
    script = commands.replace('PYTHONPATH="$PWD"', f'PYTHONPATH="$PWD:{ROOT}"')
    return subprocess.run(
        ["bash", "-euc", script], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def two_layers(body: Path, folder: Path) -> Path:
    """A checkpoint with the head of the page beside a Llama body."""
    shutil.copytree(body, folder)
    weights = load_file(folder / "model.safetensors")
    width = weights.pop("score.weight").shape[1]
    torch.manual_seed(7)
    weights["value_head.up.weight"] = torch.randn(UNITS, width) / width**0.5
    weights["value_head.up.bias"] = torch.randn(UNITS)
    weights["value_head.down.weight"] = torch.randn(1, UNITS)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.ray
def test_a_checkpoint_becomes_a_row(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoint("llama"), tmp_path / "my-checkpoint")
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (yaml,) = blocks(FIRST, "yaml")
    (tmp_path / "mine" / "model" / "my-model.yaml").write_text(yaml)
    check, run, file = blocks(FIRST, "sh")
    checked = bash(check, tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "alone and in one batch" in checked.stdout
    ran = bash(run, tmp_path)
    assert ran.returncode == 0, ran.stderr
    kept = bash(file, tmp_path)
    assert kept.returncode == 0, kept.stderr
    assert "nothing to score" in kept.stderr
    rows = [line for line in kept.stdout.splitlines() if "my-model" in line]
    assert len(rows) >= 3, "in the listing and in two leaderboards"


@pytest.mark.ray
def test_a_head_class_becomes_a_family(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = two_layers(checkpoint("llama"), tmp_path / "our-checkpoint")
    (tmp_path / "ours").mkdir()
    (code,) = blocks(SECOND, "python")
    (tmp_path / "ours" / "two_layers.py").write_text(code)
    (commands,) = blocks(SECOND, "sh")
    done = bash(commands, tmp_path)
    assert done.returncode == 0, done.stderr
    assert any("ours.two_layers" in line for line in done.stdout.splitlines()[-3:])
    line = 'export PYTHONPATH="$PWD"\nrewardsweep scores store=scores output=jsonl'
    scores = [json.loads(row) for row in bash(line, tmp_path).stdout.splitlines()]
    assert len(scores) == 202
    text = json.loads(
        bash(
            'export PYTHONPATH="$PWD"\nrewardsweep check +models.ours.path=./our-checkpoint '
            "+models.ours.family=ours.two_layers benchmarks=[demo] output=json",
            tmp_path,
        ).stdout
    )["rows"][0]
    found = next(
        row for row in scores if (row["subset"], row["id"], row["response"]) == (text["subset"], text["id"], 0)
    )
    assert found["score"] == pytest.approx(by_hand(folder, text["texts"][0]), abs=1e-5)


def by_hand(folder: Path, text: str) -> float:
    """The head's formula over transformers' own hidden states."""
    from transformers import AutoModel, AutoTokenizer

    weights = load_file(folder / "model.safetensors")
    ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        state = AutoModel.from_pretrained(folder, dtype=torch.float32)(ids).last_hidden_state[0, -1]
    hidden = weights["value_head.up.weight"] @ state + weights["value_head.up.bias"]
    return float(weights["value_head.down.weight"] @ hidden.relu())
