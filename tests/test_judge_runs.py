"""Judges from the command line: texts are stored, read anew for every table, and what cannot be read is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from workers import tiny_judge

ROWS = [
    {"prompt": f"question {number}", "chosen": f"a good answer {number}", "rejected": f"an answer {number}"}
    for number in range(12)
]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Model files of a judge that says A, one that says C, and an ensemble of three."""
    models = tmp_path / "conf" / "model"
    models.mkdir(parents=True)
    paths = {name: tiny_judge.build(tmp_path / name, verdict) for name, verdict in (("a", "[[A]]"), ("c", "[[C]]"))}
    common: dict[str, Any] = {"engine": "transformers", "options": {"max_new_tokens": 4}}
    entries = {name: {"family": "judge", "path": str(path), **common} for name, path in paths.items()}
    members = {
        "one": {"path": str(paths["a"]), **common},
        "two": {"path": str(paths["c"]), **common},
        "three": {"path": str(paths["a"]), **common, "options": {"max_new_tokens": 5}},
    }
    entries["jury"] = {"family": "judge", "members": members}
    for name, entry in entries.items():
        (models / f"{name}.yaml").write_text(f"# @package models\n{json.dumps({name: entry})}\n", encoding="utf-8")
    return tmp_path / "conf"


def test_a_judge_from_the_command_line(cli: Cli, conf: Path, write_pairs: Any) -> None:
    common = ["store=s", f"data.pairs={write_pairs(ROWS)}", "pool=local", "--config-dir", str(conf)]
    done = cli("run", "model=[a,c,jury]", *common, "output=json")
    assert done.returncode == 0, done.stderr
    assert "36 of 36 scored" in done.stderr, "a jury shares the texts of members that are judges of their own"
    found = {model["name"]: model for model in json.loads(done.stdout)["models"]}
    assert found["a"]["unparsed"] == found["a"]["ties"] == 0
    assert 0 < found["a"]["overall"] < 1, "shown first as often as drawn"
    assert (found["c"]["unparsed"], found["c"]["ties"], found["c"]["overall"]) == (12, 12, 0.5)
    assert found["jury"]["overall"] == found["a"]["overall"]
    assert found["jury"]["unparsed"] == 12

    table = cli("leaderboard", "store=s", "model=[a,c]", "--config-dir", str(conf))
    assert "note: c: 12 of 12 rows have a text without a verdict; see `scores`" in table.stdout
    assert "note: a" not in table.stdout

    lines = cli("scores", "store=s", "model=[a,jury]", "--config-dir", str(conf), "output=jsonl").stdout.splitlines()
    scores = list(map(json.loads, lines))
    assert all(line["kind"] == "generate" for line in scores)
    assert [line["texts"] for line in scores if line["model"] == "a"] == [["[[A]]"]] * 24
    said = [line["texts"] for line in scores if line["model"] == "jury" and line["id"] == scores[0]["id"]]
    assert said == [["[[A]]", "[[A]]"], ["[[C]]"]], "every text once"
    csv = cli("scores", "store=s", "model=[a]", "--config-dir", str(conf), "output=csv")
    assert csv.stdout.splitlines()[0].endswith("tokens,truncated")

    both = cli("run", "model=[a]", "+models.a.scoring.orders=both", *common, "output=json")
    assert both.returncode == 0, both.stderr
    assert "12 of 24 measurements are owed" in both.stderr, "the other order only"
    (judged,) = json.loads(both.stdout)["models"]
    assert (judged["overall"], judged["ties"], judged["unparsed"]) == (0.5, 12, 0), "nothing but position"
    again = cli("run", "model=[a]", "+models.a.scoring.seed=4", "+models.a.scoring.orders=both", *common)
    assert "nothing to score" in again.stderr, "another seed asks the same two orders"
    assert cli("verify", "store=s").returncode == 0


def test_a_wrong_option_is_one_line(cli: Cli, conf: Path, write_pairs: Any) -> None:
    words = ["store=s", f"data.pairs={write_pairs(ROWS)}", "pool=local", "--config-dir", str(conf), "model=[a]"]
    wrong = cli("plan", *words, "+models.a.scoring.prompt=gpt")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == [
        "error: models.a.scoring.prompt=gpt: must be one of mtbench, gemini, prometheus, offsetbias, con_j, atla, rise"
    ]
