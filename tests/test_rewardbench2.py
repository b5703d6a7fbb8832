"""RewardBench 2: the reference's worked Ties, published averages of real scores, and rows that are wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.benchmarks import Example, Judged, find
from orchestrator.metrics import score
from orchestrator.statistics import bootstrap, sample_of
from tests.conftest import Cli
from workers.errors import InputError
from workers.protocol import Message

RULE = find("rewardbench2").rule(None)


def judged(subset: str, name: str, num_chosen: int, scores: tuple[float, ...]) -> Judged:
    texts = tuple(f"answer {place}" for place in range(len(scores)))
    return Judged(Example(subset, name, (Message("user", name),), texts, num_chosen), scores)


# Worked by the reference itself; where its two versions differ, both values.
TIES: dict[str, tuple[list[tuple[str, int, tuple[float, ...]]], float]] = {
    "worked by hand": (
        [
            ("ref:1", 1, (2.0, 0.5, -1.0)),
            ("tied:1", 3, (1.0, 0.8, 0.9, 0.1, -0.5)),
            ("ref:2", 1, (0.0, 0.5)),
            ("tied:2", 2, (3.0, 1.0, 0.5)),
        ],
        0.6506916532909695,
    ),
    "zero spread": ([("ref:1", 1, (2.0, 0.5)), ("tied:1", 2, (1.0, 1.0, 0.0))], 1.01),
    "all equal": ([("ref:1", 1, (2.0, 2.0)), ("tied:1", 2, (1.0, 1.0, 1.0))], 0.0),
    "only ref": ([("ref:1", 1, (2.0, 1.0))], 0.3),
    "only tied": ([("tied:1", 2, (2.0, 1.0, 0.0))], 0.3),
    "zero spread, negative gap": ([("ref:1", 1, (1.0, 2.0)), ("tied:1", 2, (1.0, 1.0, 3.0))], -0.01),
    "failed ratings": ([("ref:1", 1, (9.0, -1.0)), ("tied:1", 2, (8.0, -1.0, -1.0))], 0.29238405844044235),
}


@pytest.mark.parametrize("case", TIES)
def test_ties_are_the_references(case: str) -> None:
    rows, expected = TIES[case]
    scores = score([judged("Ties", *row) for row in rows], RULE)
    assert scores.overall == scores.sections["Ties"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "worth"),
    [
        ((2.0, 1.0, 1.0, 0.0), 1.0),
        ((2.0, 2.0, 1.0, 0.0), 1 / 2),
        ((1.0, 1.0, 1.0, 1.0), 1 / 4),
        ((0.0, 1.0, 1.0, 0.0), 0.0),
        ((2.0, float("nan"), 0.0, 0.0), 0.0),
    ],
)
def test_a_shared_best_score_is_shared(scores: tuple[float, ...], worth: float) -> None:
    assert score([judged("Math", "1", 1, scores)], RULE).subsets == {"Math": worth}


# Averages as in the data's README, from the published scores of runs of the reference; the last one is published.
REAL = {
    "LxzGordon__URM-LLaMa-3.1-8B": ((0.6874, 0.4594, 0.6339, 0.9178, 0.9758, 0.7653), 0.7399),
    "Skywork__Skywork-Reward-V2-Llama-3.1-8B": ((0.8463, 0.6562, 0.7760, 0.9667, 0.9838, 0.8124), 0.8402),
}


def real(shared: Path, model: str) -> list[Judged]:
    path = shared / "data" / "per-example-scores" / f"rewardbench_v2_{model}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][1:]
    return [judged(row["subset"], row["id"], row["num_correct"], tuple(map(flat, row["scores"]))) for row in rows]


def flat(score: float | list[float]) -> float:
    """The reference writes the scores of some models as lists of one."""
    return score[0] if isinstance(score, list) else score


@pytest.mark.parametrize("model", REAL)
def test_real_scores_give_the_published_tables(shared: Path, model: str) -> None:
    scores = score(real(shared, model), RULE)
    domains, average = REAL[model]
    assert list(scores.sections.values()) == pytest.approx(domains, abs=5.1e-5)
    assert scores.overall == pytest.approx(average, abs=5.1e-5)


def test_the_composite_has_an_interval_around_it(shared: Path) -> None:
    """Both questions of an N are one draw; the mean of the rows' parts is the composite."""
    rows = real(shared, "LxzGordon__URM-LLaMa-3.1-8B")
    sample = sample_of([rows], RULE)
    assert (
        len({prompt for prompt, subset in zip(sample.prompts, sample.subsets, strict=True) if subset == "Ties"}) == 51
    )
    sizes = {subset: sample.subsets.count(subset) for subset in set(sample.subsets)}
    values = bootstrap(sample, RULE.weights(sizes), 2000)["Ties"][0]
    assert values.mean() == pytest.approx(score(rows, RULE).sections["Ties"], abs=0.005)
    assert 0.02 < values.std() < 0.06


ROW = {"id": "7", "prompt": "q", "chosen": ["right"], "rejected": ["a", "b", "c"], "subset": "Math"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subset": "Maths"}, "unknown subset 'Maths': did you mean 'Math'?"),
        ({"chosen": "right"}, "'chosen' must be a list of texts, found str"),
        ({"rejected": []}, "'rejected' must hold at least one text"),
        ({"rejected": ["a", 3]}, "'rejected' must hold at least one text, and nothing else"),
        ({"id": None}, "'id' is missing"),
        ({"subset": "Ties"}, "'id' of a Ties row must be ref:N or tied:N, found '7'"),
        ({"subset": "Ties", "id": "tied:3"}, "'chosen' of a tied:N row must hold at least two responses"),
    ],
)
def test_a_bad_row_is_named(write_pairs: Callable[..., Path], change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        find("rewardbench2").load(str(write_pairs([ROW, ROW | change])))
    assert "line 2: " in str(error.value)
    assert message in str(error.value)


def test_from_the_command_line(cli: Cli, shared: Path) -> None:
    """Real Ties, with intervals of the overall and none of Wilson's on a composite."""
    data = f"data.rewardbench2={shared / 'data' / 'rewardbench2_ties_sample.jsonl.gz'}"
    done = cli("run", "model=[longest,shortest]", data, "store=s", "pool=local", "output=json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["benchmark"], found["rule"]) == ("rewardbench2", "rewardbench2-v1")
    for model in found["models"]:
        assert model["overall_interval"][0] <= model["overall"] <= model["overall_interval"][1]
        assert model["subsets"]["Ties"]["interval"] is None
