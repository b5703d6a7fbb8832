"""The command as a user meets it: help, every verb, every output format, models from files and folders."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from orchestrator import __version__
from orchestrator.benchmarks.rewardbench import SECTIONS
from orchestrator.cli import NAMING, VERBS, _arranged
from orchestrator.config import settings
from orchestrator.paths import CONF_DIR
from tests.conftest import ROOT, Cli

DEMO = [json.loads(line) for line in (CONF_DIR / "data" / "demo_pairs.jsonl").read_text(encoding="utf-8").splitlines()]
BASELINES = {"longest": len, "shortest": lambda text: -len(text)}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SCORE_FIELDS = ["model", "benchmark", "subset", "id", "response", "kind", "score", "tokens", "truncated"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the baselines on the shipped pairs."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-P", "-m", "orchestrator", "run", "suite=baselines", "pool=local", "store=store"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"rank +┃ model +┃ family", done.stdout)
    for place in ("measurements", "leaderboards/demo/rewardbench-v1"):
        assert f"{folder}/store/{place}" in done.stderr
        assert (folder / "store" / place).is_dir()
    return folder / "store"


def examples(text: str) -> list[list[str]]:
    """The words of the example commands in a help text, without redirections."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("  rewardsweep ")]
    return [shlex.split(line.partition(" > ")[0]) for line in lines]


def jobs(words: list[str]) -> list[list[str]]:
    """One list of overrides for each job that the words ask for."""
    parsed = OverridesParser.create().parse_overrides([word for word in _arranged(words) if word != "-m"])
    assert "-m" in words or not any(override.is_sweep_override() for override in parsed)
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [str(override.input_line)]
        for override in parsed
    ]
    return [list(choice) for choice in itertools.product(*choices)]


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_the_verb_with_three_examples_that_parse(cli: Cli, verb: str) -> None:
    done = cli(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"rewardsweep {verb}: " in done.stdout
    ruled, output = ("benchmarks=", "rule="), ("output=",)
    keys = {
        "status": output,
        "verify": output,
        "compact": output,
        "gc": ("apply=true", "keep_runs=", "keep_days=", "grace_hours=", *output),
        "check": ("model=", "suite=", "data.", *ruled, *output),
        "compare": (*ruled, *output),
        "correlate": (*ruled, *output),
        "site": ruled,
        "timeline": output,
        "import": ("benchmarks=", "data."),
        "export": ruled,
    }
    for key in (
        *(("store=",) if verb != "check" else ()),
        *keys.get(verb, ("model=", "suite=", "data.", *ruled, *output)),
    ):
        assert key in done.stdout
    found = examples(done.stdout)
    assert len(found) == 3
    for command in found:
        assert command[:2] == ["rewardsweep", verb]
        words = [word for word in command[2:] if verb not in NAMING or "=" in word]
        for overrides in jobs(words):
            with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                made = settings(compose("config", [*overrides, f"verb={verb}"]))
            assert made.verb == verb
            assert made.models or verb not in ("run", "plan")


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["--help"], 0, ["usage: rewardsweep VERB", *VERBS]),
        (["help"], 0, ["usage: rewardsweep VERB"]),
        ([], 2, ["usage: rewardsweep VERB"]),
        (["--version"], 0, [f"rewardsweep {__version__}\n"]),
        (["run", "--cfg", "job"], 0, ["store: rewardsweep-store", "verb: run"]),
    ],
    ids=["--help", "help", "nothing", "--version", "--cfg"],
)
def test_what_needs_no_store(cli: Cli, words: list[str], code: int, parts: list[str]) -> None:
    done = cli(*words)
    assert (done.returncode, done.stderr) == (code, "")
    for part in parts:
        assert part in done.stdout


def accuracy(score: Callable[[str], int], subset: str) -> float:
    won = [score(row["chosen"]) > score(row["rejected"]) for row in DEMO if row["subset"] == subset]
    return sum(won) / len(won)


def test_leaderboard_json_is_the_promised_object(cli: Cli, demo: Path) -> None:
    done = cli("leaderboard", f"store={demo}", "output=json")
    assert (done.returncode, done.stderr) == (0, "")
    board = json.loads(done.stdout)
    assert (board["benchmark"], board["rule"]) == ("demo", "rewardbench-v1")
    assert [entry["overall"] for entry in board["models"]] == sorted(
        (entry["overall"] for entry in board["models"]), reverse=True
    )
    found = {entry["name"]: entry for entry in board["models"]}
    assert found.keys() == {"longest", "shortest", "random", "position"}
    for name, score in BASELINES.items():
        entry = found[name]
        assert (entry["family"], entry["rows"], entry["rows_missing"]) == ("baseline", len(DEMO), 0)
        assert entry["truncated"] == 0
        assert entry["ties"] == sum(len(row["chosen"]) == len(row["rejected"]) for row in DEMO)
        expected = {subset: accuracy(score, subset) for weights in SECTIONS.values() for subset in weights}
        assert {subset: cell["accuracy"] for subset, cell in entry["subsets"].items()} == pytest.approx(expected)
        assert sum(cell["n"] for cell in entry["subsets"].values()) == len(DEMO)
        assert list(entry["sections"]) == list(SECTIONS)
        assert entry["overall"] == pytest.approx(sum(entry["sections"].values()) / 4)


def test_scores_are_one_line_a_response_in_every_format(cli: Cli, demo: Path) -> None:
    words = ("scores", f"store={demo}", "model=[longest]")
    lines = [json.loads(line) for line in cli(*words, "output=jsonl").stdout.splitlines()]
    assert all(list(line) == SCORE_FIELDS for line in lines)
    texts = {
        (row["subset"], str(row["id"]), number): row[side]
        for row in DEMO
        for number, side in enumerate(("chosen", "rejected"))
    }
    assert {(line["subset"], line["id"], line["response"]): line["score"] for line in lines} == {
        key: float(len(text)) for key, text in texts.items()
    }
    assert all(line["tokens"] == line["score"] and line["truncated"] is False for line in lines)
    assert {(line["model"], line["benchmark"], line["kind"]) for line in lines} == {("longest", "demo", "reward")}

    assert json.loads(cli(*words, "output=json").stdout) == lines
    table = list(csv.DictReader(io.StringIO(cli(*words, "output=csv").stdout)))
    assert table == [{name: str(value) for name, value in line.items()} for line in lines]
    markdown = cli(*words, "output=markdown").stdout.splitlines()
    assert markdown[0] == f"| {' | '.join(SCORE_FIELDS)} |"
    assert len(markdown) == 2 + len(lines)
    assert len(cli(*words).stdout.splitlines()) >= len(lines)


def test_all_formats_of_a_leaderboard_agree_with_the_saved_tables(cli: Cli, demo: Path) -> None:
    printed = {
        form: cli("leaderboard", f"store={demo}", f"output={form}").stdout for form in ("json", "csv", "markdown")
    }
    saved = demo / "leaderboards" / "demo" / "rewardbench-v1"
    assert printed["json"] == (saved / "leaderboard.json").read_text() + "\n"
    assert printed["csv"] == (saved / "leaderboard.csv").read_text()
    assert printed["markdown"] == (saved / "leaderboard.md").read_text() + "\n"
    models = json.loads(printed["json"])["models"]
    rows = list(csv.DictReader(io.StringIO(printed["csv"])))
    assert [(row["name"], float(row["overall"])) for row in rows] == [
        (entry["name"], entry["overall"]) for entry in models
    ]
    table = [line.split(" | ") for line in printed["markdown"].splitlines() if line.startswith("| ")][2:]
    assert [(cells[1], cells[3]) for cells in table] == [
        (entry["name"], f"{100 * entry['overall']:.1f}") for entry in models
    ]
    assert (saved / "index.html").read_text().startswith("<!doctype html>")


def test_a_second_run_scores_nothing_and_says_so(cli: Cli, demo: Path) -> None:
    parts = sorted((demo / "measurements").rglob("*"))
    words = ("suite=baselines", "pool=local", f"store={demo}", "output=json")
    plan = json.loads(cli("plan", *words).stdout)
    assert (plan["owed"], plan["reused"]) == (0, plan["wanted"])
    assert {stream["model"] for stream in plan["streams"]} == {"longest", "shortest", "random", "position"}
    done = cli("run", *words)
    assert done.returncode == 0
    assert f"nothing to score: all {plan['wanted']} measurements are in the store" in done.stderr
    assert sorted((demo / "measurements").rglob("*")) == parts
    assert done.stdout == cli("leaderboard", f"store={demo}", "output=json").stdout


def test_plan_says_what_is_owed_and_why_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    words = ("plan", "suite=baselines", "store=store", "shard_rows=50")
    plan = json.loads(cli(*words, "output=json").stdout)
    texts = {(row["prompt"], row[side]) for row in DEMO for side in ("chosen", "rejected")}
    assert (plan["wanted"], plan["owed"], plan["reused"]) == (4 * len(texts), 4 * len(texts), 0)
    for stream in plan["streams"]:
        assert (stream["owed"], stream["shards"], stream["reason"]) == (len(texts), -(-len(texts) // 50), "new model")
    assert f"{plan['owed']} of {plan['wanted']} measurements are owed" in cli(*words).stdout
    assert list((tmp_path / "cwd").iterdir()) == []


def test_status_and_verify_report_a_sound_store(cli: Cli, demo: Path) -> None:
    found = json.loads(cli("status", f"store={demo}", "output=json").stdout)
    assert {(run["state"], *run["benchmarks"]) for run in found["runs"]} == {("done", "demo")}
    first = found["runs"][0]["account"]
    assert first["scored"] == first["asked"] > 0 == first["failed"] == first["reused"]
    assert all(model["present"] == model["wanted"] and model["failure"] is None for model in found["models"])
    text = cli("status", f"store={demo}").stdout
    assert text.count("measurements, complete") == 4
    verified = cli("verify", f"store={demo}", "output=json")
    assert verified.returncode == 0
    summary = json.loads(verified.stdout)
    assert (summary["rows"], summary["problems"]) == (first["asked"], [])
    assert summary["tokens_checked"] == 4 * 16
    assert "0 problems" in cli("verify", f"store={demo}").stdout


def test_a_rule_and_models_can_be_chosen_after_the_run(cli: Cli, demo: Path) -> None:
    words = ("leaderboard", f"store={demo}", "model=[longest]", "output=json")
    new, old = (json.loads(cli(*words, f"rule=rewardbench-v1{end}").stdout) for end in ("", "-before-2024-09-10"))
    assert [entry["name"] for entry in new["models"] + old["models"]] == ["longest", "longest"]
    assert old["rule"] == "rewardbench-v1-before-2024-09-10"
    cells: Any = {subset: cell["accuracy"] for subset, cell in old["models"][0]["subsets"].items()}
    weights = SECTIONS["Safety"] | {"xstest-should-refuse": 250, "xstest-should-respond": 154}
    expected = sum(weight * cells[subset] for subset, weight in weights.items()) / sum(weights.values())
    assert old["models"][0]["sections"]["Safety"] == pytest.approx(expected)


def test_a_reader_that_has_seen_enough_is_no_error(demo: Path) -> None:
    command = [sys.executable, "-P", "-m", "orchestrator", "scores", f"store={demo}", "output=jsonl"]
    with subprocess.Popen(
        command, env=ENVIRONMENT, cwd=demo, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["response"] == 0
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
