"""`rewardsweep compare`: the same rows, read for two models and more."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from orchestrator.benchmarks import OVERALL, Example, Judged, find
from orchestrator.compare import comparisons, disagreements
from orchestrator.metrics import score
from tests.conftest import Cli
from workers.protocol import Message

SUBSETS = {"alpacaeval-easy": 60, "donotanswer": 40, "hep-go": 30, "llmbar-natural": 50}


def judged(model: int, share: float) -> list[Judged]:
    draws = np.random.default_rng(model)
    return [
        Judged(
            Example(subset, str(number), (Message("user", f"{subset} {number}"),), ("good", "bad")),
            (1.0 if draws.random() < share else -1.0, 0.0),
        )
        for subset, size in SUBSETS.items()
        for number in range(size)
    ]


def test_every_cell_is_that_of_its_rows() -> None:
    rule = find("rewardbench").rule(None)
    models = {"a": judged(0, 0.9), "b": judged(1, 0.6), "c": judged(2, 0.88)}
    found = {(row.cell, row.other): row for row in comparisons(models, rule)}
    assert {cell for cell, _ in found} == {OVERALL, "Chat", "Chat Hard", "Safety", "Reasoning"}
    for name in ("b", "c"):
        ours, theirs = score(models["a"], rule), score(models[name], rule)
        overall = found[OVERALL, name]
        assert (overall.accuracy, overall.other_accuracy) == pytest.approx((ours.overall, theirs.overall))
        assert overall.low < overall.difference < overall.high
        chat = found["Chat", name]
        wins = [(mine.scores[0] > 0, its.scores[0] > 0) for mine, its in zip(models["a"], models[name], strict=True)][
            :60
        ]
        better, worse = wins.count((True, False)), wins.count((False, True))
        assert (chat.only_model, chat.only_other) == (better, worse)
        exact = stats.binomtest(better, better + worse).pvalue
        assert chat.p == pytest.approx(exact - stats.binom.pmf(min(better, worse), better + worse, 0.5))
        assert chat.p_holm >= chat.p
    assert found[OVERALL, "b"].p < 0.001
    assert found[OVERALL, "b"].low > 0
    assert found[OVERALL, "c"].p_holm > 0.05


def test_a_model_does_not_differ_from_itself() -> None:
    same = {"a": judged(0, 0.7), "b": judged(0, 0.7)}
    for row in comparisons(same, find("rewardbench").rule(None)):
        assert (row.difference, row.low, row.high, row.only_model, row.only_other, row.p) == (0, 0, 0, 0, 0, 1)
    assert disagreements(same) == []


def test_it_comes_out_the_other_way_round() -> None:
    """The draws are the rows', so a comparison mirrors exactly."""
    rule, one, two = find("rewardbench").rule(None), judged(0, 0.8), judged(1, 0.7)
    there, back = comparisons({"a": one, "b": two}, rule), comparisons({"b": two, "a": one}, rule)
    for row, mirrored in zip(there, back, strict=True):
        assert (row.difference, row.low, row.high) == pytest.approx(
            (-mirrored.difference, -mirrored.high, -mirrored.low)
        )
        assert (row.only_model, row.only_other, row.p) == (
            mirrored.only_other,
            mirrored.only_model,
            pytest.approx(mirrored.p),
        )


def test_the_most_distant_row_comes_first() -> None:
    rows = judged(0, 0.5)
    far = [Judged(row.example, (-row.scores[0], 0.0)) for row in rows]
    far[7] = Judged(rows[7].example, (-9 * rows[7].scores[0], 0.0))
    found = disagreements({"a": rows, "b": far})
    assert len(found) == 10
    assert (found[0].subset, found[0].id) == (rows[7].example.subset, rows[7].example.id)
    assert found[0].distance > found[1].distance


ROWS = [{"prompt": f"q {number}", "chosen": "long " * (number % 7), "rejected": "short " * 3} for number in range(60)]


def test_from_the_command_line(cli: Cli, write_pairs: Any) -> None:
    words = [f"data.pairs={write_pairs(ROWS)}", "store=s", "pool=local"]
    assert cli("run", "model=[longest,shortest,random]", *words).returncode == 0
    done = cli("compare", "longest", "shortest", "random", "store=s", "output=json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["cell"], row["model"], row["other"]) for row in found["comparisons"]] == [
        ("overall", "longest", "shortest"),
        ("overall", "longest", "random"),
    ]
    board = {
        row["name"]: row["overall"] for row in json.loads(cli("leaderboard", "store=s", "output=json").stdout)["models"]
    }
    assert found["comparisons"][0]["other_accuracy"] == pytest.approx(board["shortest"])
    assert found["disagreements"]
    text = cli("compare", "longest", "random", "store=s").stdout
    assert "the rows of greatest disagreement" in text
    assert cli("compare", "longest", "random", "store=s", "output=csv").stdout.count("\n") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["longest"], "name at least two models"),
        (["longest", "longets"], "unknown model 'longets': did you mean 'longest'?"),
        (["longest", "a,b"], "unknown model 'a,b'"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, write_pairs: Any, words: list[str], message: str) -> None:
    assert cli("run", "model=[longest]", f"data.pairs={write_pairs(ROWS)}", "store=s", "pool=local").returncode == 0
    done = cli("compare", *words, "store=s")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_model_with_missing_rows_is_not_compared(cli: Cli, write_pairs: Any) -> None:
    words = ["store=s", "pool=local"]
    assert cli("run", "model=[longest]", f"data.pairs={write_pairs(ROWS[:50])}", *words).returncode == 0
    assert cli("run", "model=[random]", f"data.pairs={write_pairs(ROWS)}", *words).returncode == 0
    done = cli("compare", "longest", "random", "store=s")
    assert done.returncode == 2
    assert "compare: longest has no scores on" in done.stderr
