"""A run with a deadline leaves what it did not begin, says so, and the next one scores it. Priorities."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Cli

ROWS = 20
SLOW = ("+models.slow.family=baseline", "+models.slow.engine=tests.faulty_engine")


@pytest.fixture
def words(write_pairs: Callable[..., Path]) -> list[str]:
    rows = [{"prompt": f"question {row}", "chosen": f"answer {row} x", "rejected": f"no {row}"} for row in range(ROWS)]
    settings = ["benchmarks=[pairs]", f"data.pairs={write_pairs(rows)}", "pool=local", "shard_rows=10", "output=json"]
    return ["run", "model=[longest]", *SLOW, *settings]


def test_what_is_not_begun_before_the_deadline_is_left_for_the_next_run(
    cli: Cli, words: list[str], tmp_path: Path
) -> None:
    """The slow model has four shards of 1.5 s; how many are begun in three depends on the machine."""
    words = [*words, "+models.slow.options.seconds=1.5", f"store={tmp_path / 'store'}"]
    done = cli(*words, "deadline=3")
    assert done.returncode == 1, done.stderr
    assert "deadline: " in done.stderr
    assert "run the same command again to resume" in done.stderr
    (run,) = json.loads(cli("status", words[-1], "output=json").stdout)["runs"]
    account = run["account"]
    assert run["state"] == "deadline"
    assert account["failed"] == account["quarantined"] == 0
    assert account["left"] > 0
    assert account["asked"] == account["scored"] + account["left"]
    again = cli(*words)
    assert again.returncode == 0, again.stderr
    assert {model["rows_missing"] for model in json.loads(again.stdout)["models"]} == {0}


def test_a_priority_must_be_a_model_of_the_command(cli: Cli, words: list[str]) -> None:
    done = cli(*words, "priority=[slwo]")
    assert done.returncode == 2
    assert "priority=slwo" in done.stderr
    assert "slow" in done.stderr


@pytest.mark.parametrize(("first", "second"), [("longest", "slow"), ("slow", "longest")])
def test_a_model_with_priority_is_scored_first(
    cli: Cli, words: list[str], tmp_path: Path, first: str, second: str
) -> None:
    done = cli(*words, f"store={tmp_path / 'store'}", f"priority=[{first}]")
    assert done.returncode == 0, done.stderr
    loaded = [line.split(":")[0] for line in done.stderr.splitlines() if "weights loaded" in line]
    assert loaded == [first, second]
