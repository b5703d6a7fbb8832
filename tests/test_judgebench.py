"""JudgeBench: both forms of its file, the golden figure of the length baseline, published accuracies of real scores."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.benchmarks import OVERALL, Judged, find
from orchestrator.metrics import score
from tests.conftest import Cli
from workers.errors import InputError

BENCHMARK = find("judgebench")
ROW = {
    "pair_id": "p1",
    "question": "What is two and two?",
    "response_A": "Four.",
    "response_B": "Five.",
    "label": "A>B",
    "source": "mmlu-pro-math",
}


def test_the_label_says_which_one_is_chosen(write_pairs: Callable[..., Path]) -> None:
    rows = [ROW, ROW | {"pair_id": "p2", "label": "B>A", "source": "livebench-math"}]
    one, two = sorted(BENCHMARK.load(str(write_pairs(rows))), key=lambda row: row.id)
    assert (one.subset, one.responses) == ("knowledge", ("Four.", "Five."))
    assert (two.subset, two.responses, two.id) == ("math", ("Five.", "Four."), "p2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "A=B"}, "'label' must be A>B or B>A, found 'A=B'"),
        ({"source": "gsm8k"}, "unknown category 'gsm8k'"),
        ({"response_B": None}, "'response_B' is missing"),
    ],
)
def test_a_bad_row_is_named(write_pairs: Callable[..., Path], change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        BENCHMARK.load(str(write_pairs([ROW, ROW | change])))
    assert "line 2: " in str(error.value)
    assert message in str(error.value)


def test_the_length_baseline_has_its_golden_figure(cli: Cli, shared: Path) -> None:
    data = f"data.judgebench={shared / 'data' / 'judgebench_pairs.jsonl.gz'}"
    done = cli("run", "model=[longest]", data, "store=s", "pool=local", "output=json")
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert model["overall"] == pytest.approx(0.448387, abs=5e-7)
    assert {name: cell["n"] for name, cell in model["subsets"].items()} == {
        "knowledge": 154,
        "reasoning": 75,
        "math": 45,
        "coding": 36,
    }


# As published, over all 350 pairs of gpt-4o; strictly higher wins.
PUBLISHED = {
    "Skywork/Skywork-Reward-Llama-3.1-8B": 0.6229,
    "Skywork/Skywork-Reward-Gemma-2-27B": 0.6429,
    "internlm/internlm2-7b-reward": 0.5943,
    "internlm/internlm2-20b-reward": 0.6343,
    "Ray2333/GRM-Gemma-2B-rewardmodel-ft": 0.5943,
}


def test_real_scores_give_the_published_accuracies(shared: Path, write_pairs: Callable[..., Path]) -> None:
    path = shared / "data" / "per-example-scores" / "judgebench_gpt4o_rm_scores.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    rows = [ROW | {key: row[key] for key in ("pair_id", "source", "label")} for row in found]
    examples = {row.id: row for row in BENCHMARK.load(str(write_pairs(rows)))}
    rule = BENCHMARK.rule(None)
    for model, expected in PUBLISHED.items():
        judged = [
            Judged(examples[row["pair_id"]], (row["scores"][model]["chosen"], row["scores"][model]["rejected"]))
            for row in found
        ]
        assert score(judged, rule).overall == pytest.approx(expected, abs=5.1e-5)
    assert sum(rule.weights({"math": 3, "coding": 1})[OVERALL].values()) == pytest.approx(1)
