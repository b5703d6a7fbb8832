"""The side-by-side measurements run, switch off what they say, and make their table from what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import lengths, performance
from bench.padded import reference_batches, sorted_batches
from bench.reference_clock import Clock
from orchestrator.benchmarks import find
from tests.conftest import ROOT

GPU_STEPS = {
    *(f"classifier, {name}" for name in ("ours", "sorted", "one by one", "reference")),
    *(f"dpo, {name}" for name in ("ours", "ours, second policy", "sorted", "reference")),
}


VARLEN = """
import atexit, torch.nn.attention.varlen as kernel
from tests.test_packed import varlen_by_the_book
from workers import packed
calls = []
def counted(*given, **told):
    calls.append(1)
    return varlen_by_the_book(*given, **told)
kernel.varlen_attn, packed._kernels = counted, lambda body: ("varlen",)
atexit.register(lambda: print(len(calls), file=sys.stderr))
"""
"""Puts what torch documents of its variable-length kernel in the kernel's place, which needs a GPU."""


def run(*words: str, blocked: str = "", before: str = "", said: list[str] | None = None) -> str:
    """What a bench prints; `blocked` packages cannot be imported in it."""
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in blocked.split())
    start = f"sys.argv = {list(words)!r}\nrunpy.run_module(sys.argv[0], run_name='__main__')"
    code = f"import runpy, sys\n{block}{before}\n{start}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    if said is not None:
        said += done.stderr.splitlines()
    return done.stdout


def test_the_gpu_bench_runs_with_torch_and_transformers_alone(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    printed = run(
        "bench.gpu",
        "--device",
        "cpu",
        "--tiny",
        "--seconds",
        "600",
        "--out",
        str(out),
        blocked="ray hydra omegaconf datasets scipy rich jinja2 orchestrator",
    ).splitlines()
    result = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(printed[-1]) == result
    assert len(printed) == len(GPU_STEPS) + 1, "a line after each step, so that nothing is lost"
    assert set(result["steps"]) == GPU_STEPS
    for step in result["steps"].values():
        assert step["pairs"] == 48
        assert step["tokens_per_second"] > 0
    ours, plain = (result["steps"][f"classifier, {name}"]["flops"] for name in ("ours", "sorted"))
    assert 0 < ours < plain, "a shared beginning is computed once"
    assert result["mfu"] is None, "the peak of a CPU is not in a data sheet"
    assert result["against_reference"] > 0
    for found in result["differences"].values():
        assert found["conversations"] == 96
        assert 0 < found["largest"] < 1e-4 * found["range"] < 1


def test_the_gpu_bench_runs_with_the_kernel_of_variable_lengths() -> None:
    said: list[str] = []
    printed = run("bench.gpu", "--device", "cpu", "--tiny", "--seconds", "600", before=VARLEN, said=said).splitlines()
    result = json.loads(printed[-1])
    assert int(said[-1]) > 20, "calls of the kernel, those of its trial left aside"
    for found in result["differences"].values():
        assert 0 < found["largest"] < 1e-4 * found["range"] < 1


def test_the_gpu_bench_stops_when_its_time_is_over(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--tiny", "--seconds", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    result = json.loads(done.stdout.splitlines()[-1])
    assert {step["error"] for step in result["steps"].values()} == {"no time left"}
    assert result["mfu"] is None
    assert result["against_reference"] is None


def test_made_up_conversations_have_the_lengths_of_real_ones() -> None:
    real = json.loads(lengths.PATH.read_text(encoding="utf-8"))
    assert len(real) == 1493
    assert all(0 < prompt <= shared <= min(sides) for prompt, shared, *sides in real)
    made = lengths.conversations(128256)
    for (prompt, shared, *whole), pair in zip(real, made, strict=True):
        first, second = (row.ids for row in pair)
        assert first[:shared] == second[:shared]
        assert first[shared] != second[shared]
        assert [max(length, shared + 1) for length in whole] == [len(first), len(second)]
        assert all(row.prompt == max(2, prompt) or row.prompt == max(2, shared) for row in pair)
        assert 0 not in first + second


def test_the_references_batches_are_those_of_its_command() -> None:
    pairs = lengths.conversations(512)[:20]
    sizes = [(batch[0].side, len(batch)) for batch in reference_batches(pairs, causal=False)]
    assert sizes == [(0, 8), (1, 8), (0, 8), (1, 8), (0, 4), (1, 4)]
    assert [len(batch) for batch in reference_batches(pairs, causal=True)] == [16, 16, 8]
    assert sum(len(batch) for batch in sorted_batches(pairs, False)) == 40


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for example in find("demo").load(None)[:12]:
            sides = {"chosen": example.responses[0], "rejected": example.responses[1]}
            out.write(json.dumps({"prompt": example.prompt[0].content, **sides}) + "\n")
    return path


def technique(checkpoint: Path, rows: Path, off: str, *words: str) -> dict[str, Any]:
    line = run(
        "bench.techniques",
        "--checkpoint",
        str(checkpoint),
        "--rows",
        str(rows),
        "--off",
        off,
        "--matmul",
        "256",
        *words,
    )
    found: dict[str, Any] = json.loads(line)
    assert found["scoring"] > 0
    for best, together in zip(found["matmul"], found["matmul_together"], strict=True):
        assert all(0 < together[name] <= best[name] * 1.000001 for name in best)
    return found


def test_a_technique_that_is_switched_off_is_off(checkpoint: Callable[..., Path], rows: Path) -> None:
    switched = ("nothing", "sharing", "packing", "last layer", "batching")
    found = {off: technique(checkpoint("llama"), rows, off) for off in switched}
    work = {off: int(facts["details"]["computed_tokens"]) for off, facts in found.items()}
    assert work["nothing"] < work["sharing"] == work["batching"] == found["nothing"]["tokens"] < work["packing"]
    assert work["last layer"] == work["nothing"]
    done = {off: int(facts["details"]["flops"]) for off, facts in found.items()}
    assert done["nothing"] < done["last layer"] < done["batching"]
    assert [found[off]["details"]["batching"].partition(" ")[0] for off in found] == [
        "packed",
        "packed",
        "padded",
        "packed",
        "alone",
    ]
    for facts in found.values():
        assert facts["scores"] == pytest.approx(found["nothing"]["scores"], abs=1e-5)


def test_log_probabilities_can_be_measured_with_all_logits_and_without(
    checkpoint: Callable[..., Path], rows: Path
) -> None:
    policy = checkpoint("llama", causal=True)
    family = ("--family", "dpo")
    found = {off: technique(policy, rows, off, *family) for off in ("nothing", "completion-only logits", "logits")}
    assert found["completion-only logits"]["scores"] == found["nothing"]["scores"]
    assert set(found["logits"]["scores"]) == {0.0}
    assert all(facts["peak_bytes"] > 0 for facts in found.values())


def test_the_clock_runs_from_the_first_call_to_the_end_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 11.0, 15.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(moments))
    clock = Clock()
    timed = clock.around(lambda owner, batch: len(batch), ("model",))
    assert [timed(object(), "ab"), timed(object(), "abc")] == [2, 3]
    assert (clock.first, clock.last) == (10.0, 15.0)


def line(experiment: str, model: str, side: str, **facts: Any) -> dict[str, Any]:
    shared = {"pairs": 2, "repetition": 0, "busy": 0.0, "machine": {"cores": 2}, "computed_tokens": 10}
    return {"experiment": experiment, "model": model, "side": side, **shared, **facts}


def test_the_table_holds_ratios_of_medians_and_says_what_is_missing() -> None:
    ours, theirs = [1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 2.0, 1.0]
    lines = [
        *(line("classifier", "llama", "ours", scoring=s, wall=s + 1, scores=ours) for s in (1.0, 2.0, 90.0)),
        *(line("classifier", "llama", "reference-8", scoring=s, wall=s + 2, scores=theirs) for s in (7.0, 6.0, 5.0)),
    ]
    found = {figure.name: figure for figure in performance.figures(performance.Records(lines), {})}
    assert [figure.value for figure in found.values()][:3] == [3.0, None, pytest.approx(8 / 3)]
    text = performance.report(lines)
    assert "**3x**" in text
    assert text.count(performance.NOT_MEASURED) >= 8
    assert "| llama | reference at batch 8 | 6.0 (7.0, 6.0, 5.0) | 8.0" in text
    assert "| 3.00x | 2.67x | 1.00 | 2.0e+00 | 1 |" in text


def test_the_soak_drives_every_shard(tmp_path: Path) -> None:
    from bench import soak

    pool = soak.soak(4, 160, str(tmp_path))
    assert pool.done == 160
    assert len(pool.marks) == 21
