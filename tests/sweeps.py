"""Sweeps through the command line that are disturbed, and what must come of them all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.stores import open_store
from orchestrator.stores.parts import read_part
from tests.conftest import ROOT


@dataclass(frozen=True)
class Sweep:
    """A command without its store, and what it gives when nobody disturbs it."""

    words: tuple[str, ...]
    rows: int
    results: tuple[str, str]


def command(*words: str) -> list[str]:
    """The command line's own process."""
    return [sys.executable, "-P", "-m", "orchestrator", *words]


def environment() -> dict[str, str]:
    """Of that process."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def output(*words: str) -> str:
    """What a command prints that must succeed."""
    done = subprocess.run(command(*words), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(store: Path) -> tuple[str, str]:
    """The leaderboard, and every score."""
    return output("leaderboard", f"store={store}", "output=json"), output("scores", f"store={store}", "output=jsonl")


def account(store: Path) -> dict[str, Any]:
    """Of the last run."""
    runs = json.loads(output("status", f"store={store}", "output=json"))["runs"]
    found: dict[str, Any] = runs[-1]["account"]
    return found


def stored_rows(store: Path) -> int:
    """Rows of all parts, those that are there twice too."""
    opened = open_store(str(store))
    return sum(len(read_part(opened.load(path) or b"", path)[0]) for path in opened.list("measurements"))


def check(sweep: Sweep, store: Path) -> None:
    """Everything was scored, and the results are those of a sweep that nobody disturbed."""
    found = account(store)
    assert found["asked"] == found["scored"] + found["reused"] == sweep.rows, found
    assert found["failed"] == found["quarantined"] == found["left"] == 0, found
    assert results(store) == sweep.results


def write_pairs(path: Path, rows: int) -> None:
    """Pairs of which the longer one is right."""
    pairs = [
        {"prompt": f"question {row}", "chosen": f"answer {row} " * 3, "rejected": f"reply {row} " * 2, "subset": "s"}
        for row in range(rows)
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
