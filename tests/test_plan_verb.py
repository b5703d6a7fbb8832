"""The verb `plan` for a cluster that one does not have, and what a run makes of its prediction."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import Cli


def cluster_plan(cli: Cli, *words: str, code: int = 0) -> dict[str, Any]:
    done = cli("plan", "benchmarks=[demo]", "output=json", *words)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_plan_for_a_cluster_that_one_does_not_have(cli: Cli) -> None:
    """No GPU and no hub here: models are planned by their files, and each is placed or said to be impossible."""
    names = "model=[Skywork-Reward-Llama-3_1-8B-v0_2,tulu-2-dpo-70b,tulu-2-dpo-7b,longest]"
    made = cluster_plan(cli, names, "gpus=64", "gpu=A100-80G")
    placed = {stream["model"]: stream for stream in made["streams"]}
    assert placed["Skywork-Reward-Llama-3_1-8B-v0_2"]["placement"] == "1 A100-80G"
    assert placed["tulu-2-dpo-70b"]["placement"] == "4 A100-80G"
    assert placed["tulu-2-dpo-70b.reference"]["engine"] == "vllm"
    assert placed["longest"]["placement"] == "cpu"
    assert made["impossible"] == {}
    assert made["makespan_over_bound"] >= 1
    assert made["gpu_hours"] == pytest.approx(sum(stream["gpu_hours"] for stream in made["streams"]), abs=1e-3)
    assert made["dollars"] == pytest.approx(made["gpu_hours"] * 3.43, abs=0.02)
    assert not placed["tulu-2-dpo-7b"]["pinned"]
    assert placed["tulu-2-dpo-7b"]["reason"].startswith("by its file, not pinned: ")
    assert "assumed" in placed["tulu-2-dpo-7b"]["rates"]


def test_plan_for_several_kinds_says_what_none_of_them_can_hold(cli: Cli) -> None:
    names = "model=[UltraRM-13b,tulu-2-dpo-13b]"
    words = (names, "gpu={L4-24G:8,A10G-24G:8}", "dollars={L4-24G:2}", "node_gpus=4")
    done = cli("plan", "benchmarks=[demo]", *words)
    assert done.returncode == 1
    needs = "needs 29 GB of memory, L4-24G has 24; needs 29 GB of memory, A10G-24G has 24; "
    lines = done.stdout.splitlines()
    alone = "only vLLM spreads a model over GPUs, and it does not serve family openbmb_llama"
    assert f"not placed: UltraRM-13b: {needs}{alone}" in lines
    assert any(
        line.startswith("not placed: tulu-2-dpo-13b: ") and "set models.tulu-2-dpo-13b.gpus=4" in line for line in lines
    )
    assert "3 of 3 streams are planned by their files alone: all they want counts as owed" in lines
    made = cluster_plan(cli, *words, code=1)
    assert list(made["impossible"]) == ["UltraRM-13b", "tulu-2-dpo-13b", "tulu-2-dpo-13b.reference"]


def test_a_large_model_whose_head_is_its_own_is_in_the_plan_with_the_reason(cli: Cli) -> None:
    made = cluster_plan(cli, "model=[INF-ORM-Llama3_1-70B]", "gpus=64", "gpu=A100-80G", code=1)
    (reason,) = made["impossible"].values()
    assert reason.endswith("only vLLM spreads a model over GPUs, and it does not serve family inf_orm")


def test_a_model_without_a_size_is_said_to_have_none(cli: Cli) -> None:
    words = ("+models.mine.path=org/unknown", "+models.mine.family=scalar", "gpus=8", "gpu=A100-80G")
    (stream,) = cluster_plan(cli, *words, code=1)["streams"]
    assert stream["why_not"] == "unknown size: set models.mine.size to its billions of parameters"
    (stream,) = cluster_plan(cli, *words, "+models.mine.size=8")["streams"]
    assert stream["placement"] == "1 A100-80G"


def test_plan_without_gpus_places_on_cpus(cli: Cli) -> None:
    made = cluster_plan(cli, "model=[reward-model-deberta-v3-large-v2]", "gpus=0")
    (stream,) = made["streams"]
    assert (stream["placement"].endswith("cpu)") or stream["placement"] == "cpu", stream["gpu_hours"]) == (True, 0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["plan", "gpus=64"], "error: gpus=64: of which kind? add gpu=NAME, one of B200-180G, "),
        (["plan", "gpu=A100-80G"], "error: gpu=A100-80G: how many? add gpus=N"),
        (["plan", "gpus=8", "gpu=A100"], "error: gpu=A100: unknown GPU 'A100': did you mean 'A100-80G'? "),
        (["plan", "gpus=-1", "gpu=L4-24G"], "error: gpus=-1: must be a whole number"),
        (["plan", "gpus=8", "gpu={L4-24G:8}"], "error: gpus=8: gpu={...} holds the counts already"),
        (["plan", "gpu={L4-24G:many}"], "error: gpu.L4-24G=many: must be a whole number"),
        (["plan", "gpus=8", "gpu=L4-24G", "node_gpus=0"], "error: node_gpus=0: must be a whole number of at least 1"),
        (["run", "gpus=8", "gpu=L4-24G"], "error: run: gpus and gpu describe a cluster to plan for; "),
        (["plan", "dollars={L4:1}"], "error: dollars: unknown device 'L4': did you mean 'L4-24G'? "),
        (["plan", "dollars={L4-24G:-1}"], "error: dollars.L4-24G=-1: must be a number of dollars an hour"),
        (["plan", "dollars=3"], "error: dollars=3: must hold prices an hour"),
    ],
)
def test_a_cluster_that_makes_no_sense_is_one_line(cli: Cli, words: list[str], line: str) -> None:
    done = cli(*words, "model=[longest]", "benchmarks=[demo]")
    said = done.stderr
    assert done.returncode == 2
    assert said.startswith(line), said
    assert said.count("\n") == 1


def test_a_run_keeps_its_prediction_and_reports_the_outcome(cli: Cli, checkpoint: Callable[..., Path]) -> None:
    mine = (f"+models.mine.path={checkpoint('llama')}", "+models.mine.family=scalar", "pool=local", "device=cpu")
    done = cli("run", *mine, "benchmarks=[demo]", "store=kept")
    assert done.returncode == 0, done.stderr
    assert re.search(r"mine: predicted [\d,]+ tokens in [\d.]+ s of its workers, measured [\d,]+ in", done.stderr)
    assert re.search(r"the sweep: predicted [\d.,]+ s \(at least [\d.,]+\), took [\d.,]+ s, [\d.,]+ x", done.stderr)
    status = json.loads(cli("status", "store=kept", "output=json").stdout)
    (run,), (both,), (model,) = status["runs"], status["prediction"], status["models"]
    sweep, (kept,) = run["predicted"].pop(""), run["predicted"].values()
    assert kept["seconds"] == pytest.approx(sweep["makespan"], rel=1e-2)
    assert sweep["makespan"] >= sweep["bound"] > 0
    assert both["predicted"] == kept
    assert both["measured"]["tokens"] == model["tokens"] > 0
    shown = cli("status", "store=kept").stdout
    assert "latest run: mine: predicted" in shown
    assert "latest run: the sweep: predicted" in shown
    assert f"{model['cpu_hours']:.3f} CPU-hours, $0.0" in shown
    (scored,) = json.loads(cli("leaderboard", "store=kept", "output=json").stdout)["models"]
    assert scored["gpu_hours"] == 0.0, "no GPU, no hours of one"
    price = 0.05
    assert scored["dollars"] == pytest.approx(both["measured"]["seconds"] / 3600 * price)
    assert both["measured"]["dollars"] == pytest.approx(scored["dollars"])
    dearer = cli("leaderboard", "store=kept", "output=json", "dollars={cpu:5}")
    assert json.loads(dearer.stdout)["models"][0]["dollars"] == pytest.approx(100 * scored["dollars"])


def test_status_and_leaderboard_show_hours_of_gpus_and_dollars(cli: Cli, tmp_path: Path) -> None:
    """A store whose parts say that two H200s made them: 2 x (90 + 30 x parts) seconds at the list price."""
    done = cli("run", "model=[longest]", "benchmarks=[demo]", "store=gpus", "shard_rows=8", "pool=local")
    assert done.returncode == 0, done.stderr
    parts = list((tmp_path / "cwd" / "gpus" / "measurements").rglob("*.parquet"))
    for path in parts:
        table = pq.read_table(path)
        footer = json.loads(table.schema.metadata[b"rewardsweep"])
        footer["provenance"] |= {"device": "NVIDIA H200", "gpus": "2", "load_seconds": "90", "compute_seconds": "30"}
        footer["provenance"]["mfu"] = "0.62"
        rewritten = table.replace_schema_metadata({b"rewardsweep": json.dumps(footer).encode()})
        pq.write_table(rewritten, path)
        path.rename(path.with_stem(hashlib.sha256(path.read_bytes()).hexdigest()))
    hours = 2 * (90 + 30 * len(parts)) / 3600
    (entry,) = json.loads(cli("leaderboard", "store=gpus", "output=json").stdout)["models"]
    assert entry["gpu_hours"] == pytest.approx(hours)
    assert entry["dollars"] == pytest.approx(hours * 7.91)
    for output in ("text", "markdown"):
        assert f"{hours:.3f}" in cli("leaderboard", "store=gpus", f"output={output}").stdout
    (row,) = csv.DictReader(cli("leaderboard", "store=gpus", "output=csv").stdout.splitlines()[:2])
    assert float(row["gpu_hours"]) == pytest.approx(hours)
    assert cli("site", "pages", "store=gpus").returncode == 0
    front = (tmp_path / "cwd" / "pages" / "index.html").read_text(encoding="utf-8")
    assert f">{hours:.3f}</td>" in front
    assert f">{hours * 7.91:.2f}</td>" in front
    said = cli("status", "store=gpus", "dollars={H200-141G:2}").stdout
    assert f"{hours:,.3f} GPU-hours, ${2 * hours:,.2f}, MFU 62%" in said
