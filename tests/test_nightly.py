"""The verb as cron meets it: one line, an exit code, a report; hubs that do not answer, signals, kills, no Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import orchestrator.data
from orchestrator.benchmarks import Source
from orchestrator.benchmarks import pairs as pairs_module
from orchestrator.cli import main
from tests import nightly_engine
from tests.conftest import ROOT, Cli
from tests.loopback_hub import hub
from tests.refusals import files_below, nothing_written, one_line
from tests.test_runs import _heed_interrupts, pairs, some_rows

WritePairs = Callable[..., Path]

BASELINES = ("suite=baselines", "pool=local")
ANYWHERE = """
import functools, sys
from orchestrator import cli, lease, nightly
nightly.hold = functools.partial(lease.hold, beat=0.1, patience=1.0)
code = cli.main(sys.argv[1:])
assert "ray" not in sys.modules, "Ray was imported"
sys.exit(code)
"""
"""The command with a hasty lease, that never touches Ray."""


def report(store: Path, night: str | None = None) -> dict[str, Any]:
    """A night's report, the last one's if none is named."""
    folder = store / "nightly" / night if night else max((store / "nightly").glob("*/"), key=os.path.getmtime)
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def started(words: list[str], **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", "-c", ANYWHERE, "nightly", *words]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, preexec_fn=_heed_interrupts, **streams, **options)  # noqa: PLW1509


def ran(words: list[str]) -> tuple[int, str, str]:
    process = started(words, stdin=subprocess.DEVNULL)
    output, errors = process.communicate(timeout=100)
    return process.returncode, output, errors


def test_two_nights_of_one_day_are_two_folders_and_one_line_each(cli: Cli, tmp_path: Path) -> None:
    store = tmp_path / "s"
    first = cli("nightly", *BASELINES, f"store={store}")
    assert first.returncode == 0, first.stderr
    day = first.stdout.split()[1].rstrip(":")
    assert first.stdout == (
        f"nightly {day}: ok; 4 models, 808 of 808 measurements scored; the first night; "
        f"{store}/nightly/{day}/report.md\n"
    )
    kept = files_below(store / "nightly" / day)
    assert {"snapshot.json", "report.json", "report.md", "index.html", "demo/leaderboard.csv"} <= kept.keys()
    runs = len(list((store / "runs").iterdir()))
    second = cli("nightly", *BASELINES, f"store={store}", "output=json")
    assert second.returncode == 0
    assert second.stdout.count("\n") == 1
    found = json.loads(second.stdout)
    assert (found["previous"], found["state"], found["account"]["scored"]) == (day, "ok", 0)
    assert found["night"] in (f"{day}.2", report(store)["night"])
    assert files_below(store / "nightly" / day) == kept
    assert len(list((store / "runs").iterdir())) == runs, "a night that asked for nothing new left a run"
    assert cli("leaderboard", f"store={store}").returncode == 0
    assert cli("verify", f"store={store}").returncode == 0
    assert "Nothing changed." in cli("nightly", *BASELINES, f"store={store}", "output=markdown").stdout


def test_with_nothing_new_no_ray_and_no_cluster_is_asked(tmp_path: Path) -> None:
    store = tmp_path / "s"
    assert ran([*BASELINES, f"store={store}"])[0] == 0
    code, output, errors = ran(["suite=baselines", "pool=ray", "ray.address=127.0.0.1:1", f"store={store}"])
    assert code == 0, errors
    assert "nothing changed" in output


def test_a_hundred_and_twenty_models_with_nothing_new_take_seconds(tmp_path: Path) -> None:
    names = [f"seed{number:03d}" for number in range(120)]
    (tmp_path / "conf" / "model").mkdir(parents=True)
    for number, name in enumerate(names):
        options = f"options: {{score: random, seed: {number}}}"
        text = f"# @package models\n{name}:\n  family: baseline\n  {options}\n"
        (tmp_path / "conf" / "model" / f"{name}.yaml").write_text(text)
    words = ["--config-dir", str(tmp_path / "conf"), f"model=[{','.join(names)}]", "benchmarks=[demo]"]
    words.append(f"store={tmp_path / 's'}")
    assert ran([*words, "pool=local"])[0] == 0
    began = time.monotonic()
    code, output, errors = ran(words)
    assert code == 0, errors
    assert "; 120 models, 0 of 24240 measurements scored; nothing changed; " in output
    assert time.monotonic() - began < 30


def test_a_cluster_that_does_not_answer_makes_the_night_incomplete(cli: Cli, tmp_path: Path) -> None:
    store = tmp_path / "s"
    assert cli("nightly", *BASELINES, f"store={store}").returncode == 0
    new = ["+models.mine.family=baseline", "+models.mine.options.score=random", "+models.mine.options.seed=5"]
    done = cli("nightly", "suite=baselines", *new, "ray.address=127.0.0.1:1", f"store={store}")
    assert done.returncode == 20, done.stderr
    found = report(store)
    assert len(found["problems"]) == 1
    assert found["problems"][0].startswith(
        "mine has no whole result on demo, 101 rows missing: ray.address=127.0.0.1:1"
    )
    assert found["account"]["left"] > 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "error: no model: give model=[name,...]"),
        (("model=[longest]", "benchmarks=[pairs]", "rule=no-such"), "error: benchmark pairs: unknown rule 'no-such'"),
        (("model=[longest]", "benchmarks=[nonsense]"), "error: unknown benchmark 'nonsense'"),
        (("model=[longest]", "output=csv"), "error: output=csv: must be one of text, json, markdown"),
        (("+models.x.path=p", "+models.x.family=scalr"), "error: models.x.family: unknown family 'scalr'"),
    ],
)
def test_a_mistake_stops_the_night_before_it_begins(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], line: str
) -> None:
    assert one_line(cli("nightly", *words, f"store={tmp_path / 'store'}")).startswith(line)
    nothing_written(tmp_path)


def test_a_branch_of_a_hub_is_followed_and_nothing_stands_in_for_a_hub_that_is_gone(
    cli: Cli, tmp_path: Path, write_pairs: WritePairs
) -> None:
    store, folder = tmp_path / "s", tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights.json").write_text('{"skill": 0.5, "seed": 1}')
    nightly_engine.install(tmp_path / "site", "1.0")
    model = ["+models.mine.path=org/m", "+models.mine.family=baseline", "+models.mine.engine=tests.nightly_engine"]
    rows = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}", "id": n} for n in range(30)]
    data = pairs(write_pairs(rows))
    words = ["nightly", "model=[longest]", *data, *model, "pool=local", "device=cpu", f"store={store}", "output=json"]
    online = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": f"{ROOT}:{tmp_path / 'site'}"}
    with hub({"org/m": folder}) as server:
        online["HF_ENDPOINT"] = server.url
        assert cli(*words, settings=online).returncode == 0
        (folder / "weights.json").write_text('{"skill": 1.0, "seed": 1}')
        server.commit = "d" * 40
        moved = cli(*words, settings=online)
        assert moved.returncode == 0, moved.stderr
        (found,) = json.loads(moved.stdout)["benchmarks"][0]["moved"]
        assert found["causes"] == ["weights hub:org/m@cccccccc -> hub:org/m@dddddddd"]
        assert found["significant"] == ["overall"]
        assert json.loads(moved.stdout)["account"]["scored"] == 60
    for how in ({}, {"HF_HUB_OFFLINE": "1"}):
        gone = cli(*words, settings={**online, **how})
        assert gone.returncode == 20, gone.stderr
        report = json.loads(gone.stdout)
        (problem,) = report["problems"]
        assert problem.startswith(
            "mine cannot be resolved: models.mine.path=org/m: no such folder, and the hub gives no"
        )
        board = json.loads((store / "nightly" / report["night"] / "pairs" / "leaderboard.json").read_text())
        assert {entry["name"]: entry["rows_missing"] for entry in board["models"]} == {"longest": 0, "mine": 30}


def test_a_data_sets_current_revision_is_asked_for(
    tmp_path: Path, write_pairs: WritePairs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_pairs(some_rows(6))
    source = Source("org/pairs", "1" * 40, "pairs.jsonl", "0" * 64)
    monkeypatch.setattr(pairs_module, "BENCHMARK", replace(pairs_module.BENCHMARK, source=source))
    monkeypatch.setattr(orchestrator.data, "from_hub", lambda *asked: str(file))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    words = ["nightly", "model=[longest]", "benchmarks=[pairs]", "pool=local", f"store={tmp_path / 's'}"]
    notes = []
    with hub({"org/pairs": tmp_path}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        for commit in ("1", "2", "2"):
            server.commit = commit * 40
            assert main([*words, "output=json"]) == 0
            notes.append(json.loads(capsys.readouterr().out)["notes"])
    assert [len(found) for found in notes] == [0, 1, 0], "told once"
    assert notes[1][0].startswith("org/pairs is at 222222222222 now; pairs stays at 111111111111")
    assert main([*words, "output=json"]) == 20
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem.startswith("benchmark pairs: the hub gives no current revision of org/pairs (")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_night_that_is_stopped_writes_no_snapshot_and_frees_the_lease(
    tmp_path: Path, write_pairs: WritePairs, number: signal.Signals
) -> None:
    store, process = _at_work(tmp_path, write_pairs)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert output == "nightly: interrupted, no snapshot written; run the same command again to resume\n"
    assert "Traceback" not in errors
    assert json.loads((store / "nightly" / "lease.json").read_text())["free"] is True
    assert not list((store / "nightly").glob("*/"))


def test_a_night_that_is_killed_is_taken_over_and_resumed(tmp_path: Path, write_pairs: WritePairs) -> None:
    store, process = _at_work(tmp_path, write_pairs)
    late = ran(_words(store, tmp_path / "pairs.jsonl"))
    assert late[0] == 30, late
    assert late[1].startswith(f"nightly: another night is at work: process {process.pid} on ")
    assert late[1].count("\n") == 1
    process.kill()
    process.communicate()
    scored = len(list(store.glob("measurements/*/*.parquet")))
    started_at = time.monotonic()
    code, output, errors = ran(_words(store, tmp_path / "pairs.jsonl"))
    assert code == 0, errors
    assert time.monotonic() - started_at > 1.0
    assert f"lease: no sign of life of process {process.pid} on " in errors
    assert f"; 1 models, {2000 - scored} of 2000 measurements scored; the first night; " in output


def _words(store: Path, file: Path) -> list[str]:
    return ["model=[longest]", *pairs(file), "pool=local", "shard_rows=1", f"store={store}"]


def _at_work(tmp_path: Path, write_pairs: WritePairs) -> tuple[Path, subprocess.Popen[str]]:
    """A night in the middle of 2,000 shards."""
    store = tmp_path / "s"
    process = started(_words(store, write_pairs(some_rows(1000))))
    until = time.monotonic() + 60
    while len(list(store.glob("measurements/*/*.parquet"))) < 20 and time.monotonic() < until:
        time.sleep(0.02)
    return store, process


class Page(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))


def test_pages_and_markdown_show_hostile_texts_as_they_are(cli: Cli, tmp_path: Path, write_pairs: WritePairs) -> None:
    hostile = "<script>alert(1)</script>|[x](http://localhost/)\u202e"
    store = tmp_path / "s"
    rows = [{**row, "subset": hostile} for row in some_rows(12)]
    words = ["nightly", "model=[longest]", "pool=local", f"store={store}"]
    assert cli(*words, *pairs(write_pairs(rows))).returncode == 0
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    broken = ["+models.mine.family=scalar", f"+models.mine.path='{folder}'"]
    done = cli(*words, *pairs(write_pairs(rows[1:])), *broken)
    assert done.returncode == 20, done.stderr
    night = max((store / "nightly").glob("*/"), key=os.path.getmtime)
    html = (night / "index.html").read_text()
    front = (store / "nightly" / "index.html").read_text()
    assert front == html.replace('href="', f'href="{night.name}/')
    for text, at in ((html, night), (front, night.parent)):
        links = re.findall(r'href="([^"]+)"', text)
        assert links
        assert all((at / link).is_file() for link in links), links
    page = Page(html)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "img"} & set(names)
    assert {"svg", "polyline"} <= set(names)
    assert not [name for _, given in page.tags for name in given if name.startswith("on") or name == "src"]
    assert "\u202e" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    markdown = (night / "report.md").read_text()
    assert "<img" not in markdown
    assert "- data: was " in markdown
    assert "0 rows came, 1 went" in markdown
