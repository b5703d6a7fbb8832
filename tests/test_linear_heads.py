"""Heads of one layer or two: against the published formulas by hand, and the reference's own classes where they are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.parity import difference, flips, load_rows, requests
from orchestrator.pin import pin_model
from tests import linear_checkpoints
from tests.conftest import ROOT
from workers import tiny_zoo
from workers.checkpoint import config_of, renderer_of
from workers.engines import transformers as engine
from workers.errors import ModelError
from workers.protocol import Message, ModelSpec, Request

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in linear_checkpoints.CONFIGS},
    "oasst_neox mean": ("oasst_neox", {"pooling": "mean"}),
    "grm linear": ("grm", {"vhead_layer_type": "linear"}),
    "beaver_reward normalised": ("beaver_reward", {"do_normalize": True, "normalizer_type": "RunningMeanStd"}),
    "beaver_cost normalised": ("beaver_cost", {"do_normalize": True, "normalizer_type": "RunningMeanStd"}),
}
IN_THE_REFERENCE = [name for name in CASES if name not in ("openbmb_eurus", "ziya", "oasst_neox mean")]
"""Eurus and Ziya are code of the hub; the mean of OpenAssistant's class fails on its own shapes."""
ALLOWED = {"starling_gpt": {"allow_pickle": True}, "ziya": {"trust_remote_code": True}}
STEP, LONGEST = 30, 4000

Build = Callable[[str], Path]


@pytest.fixture(scope="session")
def build(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("linear-heads")

    def make(case: str) -> Path:
        family, config = CASES[case]
        path = folder / case.replace(" ", "-")
        return path if path.exists() else linear_checkpoints.build(path, base(checkpoint, family), family, **config)

    return make


def base(checkpoint: Callable[..., Path], family: str) -> Path:
    return checkpoint("gpt-neox" if family == "oasst_neox" else "llama", causal=True)


def pinned(path: Path, case: str, **entry: Any) -> ModelSpec:
    family = CASES[case][0]
    return pin_model("tiny", {"path": str(path), "family": family, **ALLOWED.get(family, {}), **entry}, False).streams[
        0
    ]


def made_up() -> list[Request]:
    """Pairs of different lengths, chosen and rejected in turn, and two of the same text."""
    texts = tiny_zoo.corpus()
    rows = [(texts[2 * at], texts[2 * at + 1][: 40 + 60 * at], texts[2 * at + 1][: 400 - 40 * at]) for at in range(6)]
    pairs = [*rows, ("Same.", "Same.", "Same."), ("日本語", "", "\U0001f600 assistant\n\n")]
    return [Request("reward", (Message("user", row[0]),), (text,)) for row in pairs for text in row[1:]]


def scores(spec: ModelSpec, asked: list[Request]) -> list[float]:
    return [output.value for output in engine.load(spec).run(asked)]


def ids_of(spec: ModelSpec, asked: list[Request]) -> list[tuple[int, ...]]:
    return [row.ids for row in renderer_of(spec, config_of(spec, "reward")).render(asked)]


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_published_formula(case: str, build: Build, checkpoint: Callable[..., Path]) -> None:
    spec, asked = pinned(build(case), case), made_up()
    family = CASES[case][0]
    config = json.loads((build(case) / "config.json").read_text())
    with torch.inference_mode():
        theirs = [
            linear_checkpoints.by_hand(base(checkpoint, family), family, config, ids) for ids in ids_of(spec, asked)
        ]
    ours = scores(spec, asked)
    assert max(ours) - min(ours) > 0.1, "scores that hardly differ compare nothing"
    assert difference(ours, theirs) <= 1e-4
    assert flips(ours, theirs) == 0


@pytest.mark.parametrize("case", CASES)
def test_a_score_does_not_depend_on_its_batch(case: str, build: Build) -> None:
    spec, asked = pinned(build(case), case), made_up()
    alone = scores(spec, asked)
    for budget, order in ((20_000, 1), (1_000, -1)):
        batched = scores(replace(spec, token_budget=budget), asked[::order])[::order]
        assert batched == pytest.approx(alone, abs=1e-5, rel=0)


@pytest.fixture(scope="session")
def real(shared: Path) -> list[Request]:
    rows = [
        row
        for row in load_rows(shared, STEP)
        if sum(len(row[key]) for key in ("prompt", "chosen", "rejected")) < LONGEST
    ]
    assert len(rows) >= 30
    return requests(rows)


@pytest.fixture(scope="session")
def reference(
    reference_venv: Path, real: list[Request], build: Build, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    """What the reference's classes make of the ids of the real pairs, by case."""
    folder = tmp_path_factory.mktemp("reference-linear")
    jobs = {
        case: {"family": CASES[case][0], "path": str(build(case)), "ids": ids_of(pinned(build(case), case), real)}
        for case in IN_THE_REFERENCE
    }
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = ROOT / "tests" / "reference_linear_heads.py"
    command = [reference_venv / "bin" / "python", script, folder / "jobs.json", folder / "out.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[float]] = json.loads((folder / "out.json").read_text())
    return found


@pytest.mark.reference
@pytest.mark.parametrize("case", IN_THE_REFERENCE)
def test_scores_equal_the_references_own_class(
    case: str,
    real: list[Request],
    build: Build,
    reference: dict[str, list[float]],
    record_property: Callable[[str, object], None],
) -> None:
    ours = scores(pinned(build(case), case), real)
    record_property("largest difference", difference(ours, reference[case]))
    assert difference(ours, reference[case]) <= 1e-4
    assert flips(ours, reference[case]) == 0


@pytest.mark.parametrize("case", [name for name in CASES if " " not in name and name != "ziya"])
def test_another_checkpoint_is_one_line(case: str, checkpoint: Callable[..., Path]) -> None:
    folder = base(checkpoint, CASES[case][0])
    with pytest.raises(ModelError) as error:
        engine.load(pinned(folder, case))
    assert str(error.value).splitlines() == [str(error.value)]
    assert f"is not a model of family '{case}': it has no weights for" in str(error.value)


def test_remote_code_runs_only_where_the_file_allows_it(build: Build) -> None:
    with pytest.raises(ModelError, match="trust_remote_code"):
        engine.load(pinned(build("ziya"), "ziya", trust_remote_code=False))


def test_a_starling_without_configuration_names_its_base(build: Build, tmp_path: Path) -> None:
    from workers.checkpoint import config_of as configuration

    (tmp_path / "pytorch_model.bin").write_bytes((build("starling_gpt") / "pytorch_model.bin").read_bytes())
    bare = replace(pinned(build("starling_gpt"), "starling_gpt"), path=str(tmp_path))
    with pytest.raises(ModelError, match=r"has no config\.json; set models\.tiny\.options\.base"):
        configuration(bare, "reward")
    found = configuration(replace(bare, options={"base": str(build("starling_gpt") / "base")}), "reward")
    assert found.model_type == "llama"
