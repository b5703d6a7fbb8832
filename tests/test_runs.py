"""Whole runs through the command: where models come from, what must not change a score, damage and interruption."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Cli
from tests.refusals import files_below

WritePairs = Callable[..., Path]


def some_rows(count: int) -> list[dict[str, Any]]:
    """Rows with ids of their own, the first two of them with one id, as RewardBench has it once."""
    draw = random.Random(0)
    return [
        {
            "prompt": f"question {number}",
            "chosen": "yes " * draw.randrange(1, 30) + str(number),
            "rejected": "no " * draw.randrange(1, 30) + str(number),
            "subset": "ab"[number % 2] if number > 1 else "a",
            "id": max(number, 1),
        }
        for number in range(count)
    ]


def pairs(path: Path) -> tuple[str, str]:
    return "benchmarks=[pairs]", f"data.pairs={path}"


def board(cli: Cli, store: Path, *words: str) -> dict[str, dict[str, Any]]:
    done = cli("leaderboard", f"store={store}", "output=json", *words)
    assert done.returncode == 0, done.stderr
    return {entry["name"]: entry for entry in json.loads(done.stdout)["models"]}


def test_a_local_checkpoint_needs_no_file(
    cli: Cli, tmp_path: Path, write_pairs: WritePairs, checkpoint: Callable[..., Path]
) -> None:
    model = (f"+models.mine.path={checkpoint('llama')}", "+models.mine.family=scalar")
    done = cli("run", *model, *pairs(write_pairs(some_rows(6))), "pool=local", "device=cpu", f"store={tmp_path / 's'}")
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    lines = [json.loads(line) for line in cli("scores", f"store={tmp_path / 's'}", "output=jsonl").stdout.splitlines()]
    assert len(lines) == 12
    assert len({line["score"] for line in lines}) > 1
    assert all(line["kind"] == "reward" and line["tokens"] > 4 and line["truncated"] is False for line in lines)
    verified = cli("verify", f"store={tmp_path / 's'}", "output=json")
    assert verified.returncode == 0
    assert json.loads(verified.stdout)["tokens_checked"] == 12


@pytest.mark.parametrize("front", [True, False], ids=["option in front", "option behind"])
def test_a_private_configuration_folder_adds_models(
    cli: Cli, tmp_path: Path, write_pairs: WritePairs, front: bool
) -> None:
    (tmp_path / "private" / "model").mkdir(parents=True)
    (tmp_path / "private" / "model" / "lucky.yaml").write_text(
        "# @package models\nlucky:\n  family: baseline\n  options:\n    score: random\n    seed: 7\n"
    )
    words = ["model=[lucky,longest]", *pairs(write_pairs(some_rows(3))), "pool=local", f"store={tmp_path / 's'}"]
    option = ["--config-dir", str(tmp_path / "private")]
    done = cli("run", *(option + words if front else words + option))
    assert done.returncode == 0, done.stderr
    assert board(cli, tmp_path / "s").keys() == {"lucky", "longest"}
    misspelt = cli("run", *option, *words, "model=[lukcy]")
    assert "unknown model 'lukcy': did you mean 'lucky'? available: " in misspelt.stderr


def test_multirun_leaves_nothing_but_the_store(cli: Cli, tmp_path: Path, write_pairs: WritePairs) -> None:
    words = ("run", "-m", *pairs(write_pairs(some_rows(3))), "pool=local", "output=json", "store=s")
    done = cli(*words, "model=[longest],[random]")
    assert done.returncode == 0, done.stderr
    assert board(cli, tmp_path / "cwd" / "s").keys() == {"longest", "random"}
    assert [path.name for path in (tmp_path / "cwd").iterdir()] == ["s"]


@pytest.mark.ray
def test_a_foreign_package_and_relative_paths_mean_nothing_to_ray(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "cwd"
    for name in ("workers", "orchestrator"):
        (home / name).mkdir()
        (home / name / "__init__.py").write_text("raise RuntimeError('a foreign package was imported')\n")
    (home / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some_rows(4)))
    done = cli("run", "model=[longest]", *pairs(Path("pairs.jsonl")), "pool=ray", "workers=1", "store=here")
    assert done.returncode == 0, done.stderr
    assert board(cli, home / "here")["longest"]["rows_missing"] == 0


def result(cli: Cli, store: Path, *words: str) -> str:
    """Everything that a user can see of a finished run."""
    done = cli("run", "model=[longest,random]", f"store={store}", *words)
    assert done.returncode == 0, done.stderr
    scores = cli("scores", f"store={store}", "output=jsonl").stdout
    assert scores.count("\n") == 2 * 2 * 40
    return scores + cli("leaderboard", f"store={store}", "output=json").stdout


@pytest.mark.parametrize(
    ("words", "environment", "shuffled"),
    [
        (("pool=local", "shard_rows=1"), {}, False),
        (("pool=local", "shard_rows=7"), {"PYTHONHASHSEED": "1"}, False),
        (("pool=local",), {"PYTHONHASHSEED": "2"}, True),
        pytest.param(("pool=ray", "workers=2", "shard_rows=3"), {"PYTHONHASHSEED": "3"}, True, marks=pytest.mark.ray),
    ],
    ids=["shards of one", "shards and hash seed", "row order", "two workers"],
)
def test_shards_workers_hash_seed_and_row_order_change_nothing(
    cli: Cli,
    tmp_path: Path,
    write_pairs: WritePairs,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    environment: Mapping[str, str],
    shuffled: bool,
) -> None:
    rows = some_rows(40)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    expected = result(cli, tmp_path / "plain", "pool=local", *pairs(write_pairs(rows)))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if shuffled:
        random.Random(1).shuffle(rows)
    assert result(cli, tmp_path / "other", *words, *pairs(write_pairs(rows, "other.jsonl"))) == expected


NAMES = [
    "<script>alert(1)</script>",
    "a|b",
    "back\\slash|`code`",
    "*bold* [link](http://localhost/)",
    "two\nlines\r\nthree",
    "&amp; \"quotes\" 'too'",
    "[red]markup[/red]",
    "日本語 🎉",
    "=1+1",
]


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_odd_subset_names_are_shown_as_they_are(cli: Cli, tmp_path: Path, write_pairs: WritePairs) -> None:
    store = tmp_path / "s"
    rows = [{**row, "subset": name} for row, name in zip(some_rows(len(NAMES)), NAMES, strict=True)]
    assert cli("run", "model=[longest]", *pairs(write_pairs(rows)), "pool=local", f"store={store}").returncode == 0
    assert set(board(cli, store)["longest"]["subsets"]) == set(NAMES)
    page = Page((store / "leaderboards" / "pairs" / "pairs-v1" / "index.html").read_bytes().decode())
    assert not page.tags & {"script", "b", "img", "red"}
    assert set(NAMES) <= {text.strip() for text in page.texts}

    table = cli("scores", f"store={store}", "output=markdown").stdout
    assert len(table.splitlines()) == 2 + 2 * len(NAMES)
    for line in table.splitlines():
        assert len(re.findall(r"(?<!\\)\|", line)) == 10
    for shown in (
        "&lt;script>",
        r"a\|b",
        r"back\\slash\|\`code\`",
        r"\*bold\* \[link\](http",
        "two lines three",
        "&amp;amp;",
    ):
        assert shown in table
    lines = [json.loads(line) for line in cli("scores", f"store={store}", "output=jsonl").stdout.splitlines()]
    assert {line["subset"] for line in lines} == set(NAMES)
    records = csv.DictReader(io.StringIO(cli("scores", f"store={store}", "output=csv").stdout, newline=""))
    assert {line["subset"] for line in records} == {name.replace("\r\n", "\n") for name in NAMES}  # `cli` reads text
    assert "[red]markup[/red]" in cli("scores", f"store={store}").stdout


def test_a_damaged_part_is_named_and_only_its_rows_are_scored_again(
    cli: Cli, tmp_path: Path, write_pairs: WritePairs
) -> None:
    store = tmp_path / "s"
    words = (
        "model=[longest,random]",
        *pairs(write_pairs(some_rows(20))),
        "pool=local",
        "shard_rows=8",
        f"store={store}",
    )
    assert cli("run", *words).returncode == 0
    expected = cli("scores", f"store={store}", "output=jsonl").stdout
    parts = sorted((store / "measurements").rglob("*.parquet"))
    assert len(parts) == 2 * 5
    content = bytearray(parts[3].read_bytes())
    content[len(content) // 2] ^= 1
    parts[3].write_bytes(content)
    name = str(parts[3].relative_to(store))

    verified = cli("verify", f"store={store}")
    assert verified.returncode == 1
    problems = [line for line in verified.stderr.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 1
    assert problems[0].startswith(f"problem: {name}: damaged")
    assert "delete it" in problems[0]
    assert "9 parts, 72 rows" in verified.stdout

    before = files_below(store / "measurements")
    again = cli("run", *words)
    assert again.returncode == 0
    assert f"warning: {name}: damaged" in again.stderr
    assert "8 of 80 measurements are owed, 72 are in the store" in again.stderr
    after = files_below(store / "measurements")
    assert len(after.keys() - before.keys()) == 1
    assert {path: after[path] for path in before} == before
    assert cli("scores", f"store={store}", "output=jsonl").stdout == expected

    parts[3].unlink()
    assert cli("verify", f"store={store}").returncode == 0
    assert cli("scores", f"store={store}", "output=jsonl").stdout == expected


def _heed_interrupts() -> None:
    """A shell starts background jobs with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_cleanly_and_resumes(
    cli: Cli, tmp_path: Path, write_pairs: WritePairs, number: signal.Signals
) -> None:
    store = tmp_path / "s"
    words = ["run", "model=[longest]", *pairs(write_pairs(some_rows(2000))), "pool=local", f"store={store}"]
    command = [sys.executable, "-P", "-m", "orchestrator", *words, "shard_rows=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, preexec_fn=_heed_interrupts, **streams) as process:  # noqa: PLW1509
        until = time.monotonic() + 60
        while len(list(store.glob("measurements/*/*.parquet"))) < 20 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == ""
    assert "Traceback" not in errors
    kept = len(list(store.glob("measurements/*/*.parquet")))
    assert 20 <= kept < 4000
    said = re.search(rf"interrupted: (\d+) of 4000 measurements are in {store}; run the same command again", errors)
    assert said is not None
    assert kept - int(said[1]) in (0, 1), "one may have been written and not yet counted"
    assert list(store.rglob(".*")) == []
    assert json.loads(cli("status", f"store={store}", "output=json").stdout)["runs"][0]["state"] == "interrupted"

    done = cli(*words)
    assert done.returncode == 0, done.stderr
    assert f"{4000 - kept} of 4000 measurements are owed, {kept} are in the store" in done.stderr
    assert board(cli, store)["longest"]["rows_missing"] == 0
