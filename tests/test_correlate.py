"""Correlations with a user's results: against scipy, by simulation, and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.correlate import coefficients, correlations, read_results
from tests.conftest import Cli
from workers.errors import InputError

numbers = st.integers(-5, 5).map(float)


@given(st.integers(3, 12).flatmap(lambda n: st.tuples(*2 * [st.lists(numbers, min_size=n, max_size=n)])))
def test_the_coefficients_are_scipys(sides: tuple[list[float], list[float]]) -> None:
    one, two = map(np.array, sides)
    found = coefficients(one[None], two[None])
    if len(set(sides[0])) == 1 or len(set(sides[1])) == 1:
        assert all(np.isnan(value[0]) for value in found.values())
        return
    assert found["spearman"][0] == pytest.approx(stats.spearmanr(one, two).statistic, abs=1e-9)
    assert found["kendall"][0] == pytest.approx(stats.kendalltau(one, two).statistic, abs=1e-9)
    assert found["pearson"][0] == pytest.approx(stats.pearsonr(one, two).statistic, abs=1e-9)


def test_the_intervals_hold_the_truth() -> None:
    """Of 200 samples of 40 models whose numbers have r = .6, about 95% of the intervals hold it."""
    draws, held = np.random.default_rng(0), 0
    for _ in range(200):
        one = draws.normal(size=40)
        two = 0.6 * one + 0.8 * draws.normal(size=40)
        sides = [{str(model): float(value) for model, value in enumerate(side)} for side in (one, two)]
        pearson = correlations("b", "overall", "ppo", *sides)[2]
        assert pearson.low is not None
        assert pearson.high is not None
        held += pearson.low <= 0.6 <= pearson.high
    assert 0.88 <= held / 200 <= 0.99


def test_only_models_with_both_numbers_count() -> None:
    scores = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.9}
    assert correlations("b", "overall", "ppo", scores, {"a": 1.0, "b": 2.0, "x": 3.0}) == []
    found = correlations("b", "overall", "ppo", scores, {"a": 1.0, "b": 2.0, "c": 3.0, "x": 0.0})
    assert [(row.coefficient, row.models) for row in found] == [("spearman", 3), ("kendall", 3), ("pearson", 3)]
    assert [row.value for row in found] == pytest.approx([1, 1, 1])
    still = correlations("b", "overall", "ppo", dict.fromkeys(scores, 0.5), scores)
    assert [(row.value, row.low) for row in still] == [(None, None)] * 3


ROWS = [{"prompt": f"q {n}", "chosen": "long " * (n % 7), "rejected": "short " * 3} for n in range(60)]


def test_from_the_command_line(cli: Cli, write_pairs: Any, tmp_path: Path) -> None:
    words = [f"data.pairs={write_pairs(ROWS)}", "store=s", "pool=local"]
    assert cli("run", "model=[longest,shortest,random]", *words).returncode == 0
    file = tmp_path / "ppo.csv"
    file.write_text("model,ppo,best of 16\nlongest,0.1,3\nshortest,0.4,\nrandom,0.2,1\nposition,0.3,2\nother,1,1\n")
    done = cli("correlate", str(file), "store=s", "output=json")
    assert done.returncode == 0, done.stderr
    assert "pairs: no complete scores of other; left out" in done.stderr
    found = {(row["column"], row["result"], row["coefficient"]): row for row in json.loads(done.stdout)}
    assert found["overall", "ppo", "spearman"]["models"] == 4
    assert found["overall", "best of 16", "kendall"]["models"] == 3
    assert ("subset all", "ppo", "pearson") in found
    for output in ("text", "csv", "markdown"):
        assert "ppo" in cli("correlate", str(file), "store=s", f"output={output}").stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model,ppo\na,1\na,2\n", "row 3: model 'a' is there twice"),
        ("model,ppo\na,high\n", "row 2: 'ppo' must be a number or empty, found 'high'"),
        ("model,ppo\na,nan\n", "'ppo' must be a number"),
        ("model\na\n", "holds no results"),
        ("name,ppo\na,1\n", "'model' is missing"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.csv").write_text(content)
    with pytest.raises(InputError) as error:
        read_results(str(tmp_path / "r.csv"))
    assert message in str(error.value)


def test_a_mistake_is_one_line(cli: Cli, write_pairs: Any, tmp_path: Path) -> None:
    assert cli("run", "model=[longest]", f"data.pairs={write_pairs(ROWS)}", "store=s", "pool=local").returncode == 0
    (tmp_path / "r.csv").write_text("model,ppo\na,1\nb,2\nc,3\n")
    for words, message in (([], "name one file"), ([str(tmp_path / "r.csv")], "fewer than 3 of its models")):
        done = cli("correlate", *words, "store=s")
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
