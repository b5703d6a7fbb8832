"""What a person sees: a live table on a terminal, plain lines elsewhere, findings with their subsets."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import progress
from orchestrator.benchmarks import Example
from orchestrator.events import Capacity, Done, Failed, Linted, Lost, Node, Ready
from orchestrator.pin import pin_model
from orchestrator.plan import make_plan
from orchestrator.progress import Progress
from orchestrator.scheduler import Scheduler
from tests.conftest import ROOT
from workers.errors import EngineError, ModelError
from workers.protocol import Finding, Message, ShardReport

EXAMPLES = [
    Example(subset, str(row), (Message("user", f"q{row}"),), (f"good {subset} {row}", f"bad {subset} {row}"))
    for subset in ("easy", "hard")
    for row in range(4)
]


@pytest.fixture
def watched(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Feeds events to a scheduler of one model under a clock that leaps a minute; gives what was said."""

    def watch(*events: object) -> str:
        clock = iter(range(0, 100_000, 61))
        monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
        model = pin_model("longest", {"family": "baseline", "options": {"score": "longest"}}, cuda=False)
        plan = make_plan([model], {"b": EXAMPLES}, {}, {}, shard_rows=8)
        scheduler = Scheduler(plan.streams.values(), Capacity((Node("n", 1, 0, "cpu"),)))
        with Progress(plan, scheduler) as shown:
            scheduler.begin()
            first = plan.streams[model.streams[0].fingerprint].shards[0].id
            for given in events:
                event = given(first) if callable(given) else given
                if event is not None:
                    scheduler.handle(event)  # type: ignore[arg-type]
                shown.observe(event)  # type: ignore[arg-type]
        return capsys.readouterr().err

    return watch


def test_lines_tell_how_far_the_sweep_is(watched: Callable[..., str]) -> None:
    said = watched(Linted(0, ()), Ready(0, 1.25), lambda first: Done(0, first, ShardReport(8, 80, 2.0, 0)))
    assert "16 of 16 measurements are owed, 0 are in the store" in said
    assert "longest: weights loaded in 1.2 s" in said
    assert "8 of 16 scored in" in said
    assert "left; running: longest" in said


def test_a_finding_names_its_subsets_only_where_it_is_not_everywhere(watched: Callable[..., str]) -> None:
    model = pin_model("longest", {"family": "baseline", "options": {"score": "longest"}}, cuda=False)
    owed = make_plan([model], {"b": EXAMPLES}, {}, {}, shard_rows=8).streams[model.streams[0].fingerprint]
    hard = tuple(index for index, place in enumerate(owed.subsets) if place == "b/hard")
    some, everywhere = Finding("truncated", "warning", "too long", hard), Finding("x", "warning", "y", tuple(range(16)))
    said = watched(Linted(0, (some, everywhere)))
    assert "preflight warning: truncated: too long (8 of 16 responses: b/hard 8)" in said
    assert "preflight warning: x: y (all 16 responses)" in said


def test_failures_are_said_once_with_their_reason(watched: Callable[..., str]) -> None:
    said = watched(Linted(0, ()), Failed(0, ModelError("model 'longest': no head")), None, None)
    assert said.count("error: model 'longest' is given up, 16 rows: model 'longest': no head") == 1


def test_a_lost_worker_and_a_failed_shard_are_said(watched: Callable[..., str]) -> None:
    said = watched(
        Linted(0, ()), Ready(0, 0.0), Lost(0, "killed"), Linted(1, ()), Failed(1, EngineError("odd [tensor]"))
    )
    assert "worker 0 lost (killed)" in said
    assert "worker failed: odd [tensor]" in said


def test_a_terminal_gets_a_live_table_and_a_clean_standard_output(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{row}", "chosen": f"good {row}", "rejected": f"bad {row}"} for row in range(300)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    master, slave = pty.openpty()
    words = ["run", "model=[longest,random]", "benchmarks=[pairs]", f"data.pairs={data}", "pool=local", "shard_rows=4"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "orchestrator", *words, f"store={tmp_path / 'store'}", "output=json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
    )
    os.close(slave)
    seen = _read(master)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0, seen
    assert {model["name"] for model in json.loads(stdout)["models"]} == {"longest", "random"}
    for column in ("model", "state", "rows", "failed", "tokens/s", "left"):
        assert column in seen
    assert "1 busy" in seen
    assert "1200 of 1200 scored" in seen
    assert "\x1b[?25h" in seen, "the cursor is shown again"


def _read(terminal: int) -> str:
    """Everything until the other side is closed, which a terminal reports as an error."""
    chunks = []
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks).decode(errors="replace")
