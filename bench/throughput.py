"""Speed on the CPU in float32: the reference's command, vLLM and ourselves on the same checkpoints and rows.

    python -m bench.throughput --shared ../shared [--step 10] [--only classifier verdicts dpo vllm techniques]

Each measurement is a process of its own with the same number of threads; repetitions go round robin (A B C A B C).
Every process adds one line of JSON to `--out`, so that an interrupted run goes on where it stopped; the table
made from them (`bench.performance`) stands beside it. Without vLLM's environment (`make test-vllm`) its part is left
out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import checkpoints, performance
from bench.parity import load_rows, reference_flags, scores_written
from orchestrator.pin import pin_model
from orchestrator.stores.parquet import ParquetStore
from workers import plugins
from workers.protocol import Message

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("classifier", "verdicts", "dpo", "vllm", "techniques")
CLASSIFIERS = ("llama", "gpt-neox", "bert")
LEFT_OUT = {
    "llama": ("sharing", "packing", "last layer", "batching"),
    "wide": (),
    "policy": ("sharing", "completion-only logits", "logits"),
}
"""By checkpoint, what is switched off in turn; the last one of the policy is for its memory, see `bench.techniques`."""
QUIET = 0.1
"""Cores that others may use before a measurement is remarked on."""
WORK = ("compute_seconds", "tokens", "computed_tokens", "distinct_tokens", "flops")

Facts = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One process to measure, and the names under which its line is found."""

    experiment: str
    model: str
    side: str
    measure: Callable[[], Facts]
    once: bool = False


class Bench:
    """The rows, the checkpoints, and the ways to measure on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        everything = load_rows(options.shared)
        self.rows = everything[:: options.step]
        self.checkpoints = checkpoints.build(options.checkpoints.resolve(), everything)
        self.folder = options.out.resolve().parent / f"rows-{options.step}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self.folder / "rewardbench.jsonl"
        self.data.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

    def tasks(self) -> Iterator[Task]:
        """All that is asked for, in the order of one round."""
        return (task for part in PARTS if part in self.options.only for task in getattr(self, f"_{part}_tasks")())

    def _classifier_tasks(self) -> Iterator[Task]:
        for model in self.options.models:
            yield Task("classifier", model, "ours", partial(self.ours, model))
            for batch in (8, 64):
                yield Task("classifier", model, f"reference-{batch}", partial(self.reference, model, batch))

    def _verdicts_tasks(self) -> Iterator[Task]:
        for model in self.options.models:
            yield Task("classifier", model, "reference-1", partial(self.reference, model, 1), once=True)

    def _dpo_tasks(self) -> Iterator[Task]:
        yield Task("dpo", "policy", "ours", self.policies)
        yield Task("dpo", "policy", "reference-8", partial(self.reference, "policy", 8, "reference"))

    def _vllm_tasks(self) -> Iterator[Task]:
        if (self.options.vllm_venv / "bin" / "python").exists():
            yield Task("vllm", "llama", "ours", partial(self.techniques, "llama", "nothing"))
            yield Task("vllm", "llama", "vllm", self.vllm)

    def _techniques_tasks(self) -> Iterator[Task]:
        for model, names in LEFT_OUT.items():
            for off in ("nothing", *names):
                yield Task("techniques", model, off, partial(self.techniques, model, off))

    def ours(self, model: str) -> Facts:
        """`rewardsweep run` in a new store, from the command to the leaderboard."""
        with tempfile.TemporaryDirectory() as folder:
            return self._sweep({"path": str(self.checkpoints[model]), "family": "scalar"}, Path(folder))

    def policies(self) -> Facts:
        """A policy and its reference in a new store, then a second policy with the same reference in that store."""
        entry = {"family": "dpo", "protocol": "reference", "reference": str(self.checkpoints["reference"])}
        with tempfile.TemporaryDirectory() as folder:
            first, second = (
                self._sweep({**entry, "path": str(self.checkpoints[name])}, Path(folder))
                for name in ("policy", "policy-2")
            )
        return {**first, "second_wall": second["wall"], "second_scoring": second["scoring"] - first["streams"][1]}

    def _sweep(self, entry: Mapping[str, str], folder: Path) -> Facts:
        """A run of our command; work is that of all parts in the store that belong to the model."""
        words = [f"+models.bench.{key}={value}" for key, value in entry.items()]
        command = [sys.executable, "-P", "-m", "orchestrator", "run", *words, "benchmarks=[rewardbench]", "workers=1"]
        command += [f"data.rewardbench={self.data}", f"store={folder}/store", "output=json"]
        wall = self._process(command, folder, {"PYTHONPATH": str(ROOT)})[0]
        model = pin_model("bench", entry, cuda=False)
        streams = [ParquetStore(f"{folder}/store", {}).read(spec.fingerprint) for spec in model.streams]
        work = [{name: sum(float(part[name]) for part in stream.provenance) for name in WORK} for stream in streams]
        return {
            "wall": wall,
            "scoring": sum(stream["compute_seconds"] for stream in work),
            "streams": [stream["compute_seconds"] for stream in work],
            "load": sum(max(float(part["load_seconds"]) for part in stream.provenance) for stream in streams),
            **{name: sum(stream[name] for stream in work) for name in WORK[1:]},
            "details": dict(streams[0].provenance[0]),
            "scores": self._values(model, streams),
        }

    def _values(self, model: Any, streams: Sequence[Any]) -> list[float]:
        """Chosen and rejected in turn."""
        family = plugins.resolve("workers.families", model.family)
        found: list[float] = []
        for row in self.rows:
            prompt, responses = (Message("user", row["prompt"]),), (row["chosen"], row["rejected"])
            wanted = family.wanted(model, prompt, responses)
            answers = [streams[stream].rows[request.digest] for stream, request in wanted]
            found += family.values(model, answers, prompt, responses)
        return found

    def reference(self, model: str, batch: int, tuned_from: str | None = None) -> Facts:
        """The reference's command under our clock."""
        runner = (self.options.shared / "reference" / "run_reference.py").resolve()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            base = self.checkpoints[tuned_from] if tuned_from else None
            flags = reference_flags(folder, self.checkpoints[model], self.rows, batch, base)
            command = [str(self._reference(runner)), str(ROOT / "bench" / "reference_clock.py"), str(runner)]
            settings = {"WANDB_MODE": "disabled", "HF_DATASETS_CACHE": f"{folder}/cache"}
            wall = self._process([*command, f"{folder}/clock.json", *flags], folder, settings)[0]
            clock: Facts = json.loads((folder / "clock.json").read_text(encoding="utf-8"))
            return {"wall": wall, **clock, "scores": scores_written(folder)}

    def _reference(self, runner: Path) -> Path:
        """The interpreter of the reference's environment, which its runner builds when it is missing."""
        venv = self.options.reference_venv.resolve()
        if not (venv / "ready").exists():
            build = "import sys; sys.path.insert(0, sys.argv[1]); import run_reference as r; r.ensure_venv(sys.argv[2])"
            subprocess.run([sys.executable, "-c", build, str(runner.parent), str(venv)], check=True)
        return Path(venv / "bin" / "python")

    def vllm(self) -> Facts:
        """Offline classification of vLLM in its own environment."""
        python = self.options.vllm_venv.absolute() / "bin" / "python"
        command = [str(python), "-m", "bench.vllm_clock", "--checkpoint", str(self.checkpoints["llama"])]
        wall, printed = self._process([*command, "--rows", str(self.data)], ROOT, {})
        return {"wall": wall, **json.loads(printed)}

    def techniques(self, model: str, off: str) -> Facts:
        """Our engine with one technique switched off."""
        kind = ["--family", "dpo", "--protocol", "reference"] if model == "policy" else ["--family", "scalar"]
        command = [sys.executable, "-m", "bench.techniques", "--checkpoint", str(self.checkpoints[model]), *kind]
        wall, printed = self._process([*command, "--rows", str(self.data), "--off", off], ROOT, {})
        return {"wall": wall, **json.loads(printed)}

    def _process(self, command: Sequence[str], folder: Path, settings: Mapping[str, str]) -> tuple[float, str]:
        """Seconds of a whole process, and what it printed; its errors are ours."""
        common = {"OMP_NUM_THREADS": str(self.options.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        environment = {**os.environ, **common, **settings}
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - started
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout)[-2000:]}")
        return wall, done.stdout


def busy(seconds: float = 0.5) -> float:
    """The share of the machine's cores that others use now: numbers measured beside them are worth little."""

    def ticks() -> tuple[int, int]:
        values = list(map(int, Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]))
        return sum(values), values[3] + values[4]  # idle, and waiting for a disk

    before = ticks()
    time.sleep(seconds)
    total, idle = (after - first for first, after in zip(before, ticks(), strict=True))
    return 1 - idle / total if total else 0.0


def machine(threads: int) -> Facts:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "numpy")}
    return {"processor": sorted(names), "cores": os.cpu_count(), "threads": threads, **versions} | {
        "python": platform.python_version()
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="the folder of data and reference")
    parser.add_argument("--reference-venv", type=Path, default=Path(".venv-reference"), help="built when missing")
    parser.add_argument("--vllm-venv", type=Path, default=Path(".venv-vllm"))
    parser.add_argument("--checkpoints", type=Path, default=Path("build/bench/checkpoints"), help="built when missing")
    parser.add_argument("--out", type=Path, default=Path("build/bench/throughput.jsonl"))
    parser.add_argument("--step", type=int, default=1, help="10: only every tenth pair")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=CLASSIFIERS, default=list(CLASSIFIERS))
    return parser.parse_args()


def main() -> int:
    """Measure what is missing in the file, then write the table beside it."""
    options = arguments()
    if not (options.shared / "data").is_dir():
        print(f"--shared {options.shared}: holds no data/ and reference/; give the folder that does", file=sys.stderr)
        return 2
    bench = Bench(options)
    records = performance.load(options.out) if options.out.exists() else []
    if any(record["pairs"] != len(bench.rows) for record in records):
        print(f"--out {options.out}: was measured with another --step; give another file", file=sys.stderr)
        return 2
    done = {(record["experiment"], record["model"], record["side"], record["repetition"]) for record in records}
    for repetition in range(options.repetitions):
        for task in bench.tasks():
            names = {"experiment": task.experiment, "model": task.model, "side": task.side, "repetition": repetition}
            if tuple(names.values()) in done or (task.once and repetition):
                continue
            others = busy()
            facts = task.measure()
            where = {"pairs": len(bench.rows), "busy": others, "machine": machine(options.threads)}
            record = {**names, **where, **facts}
            with options.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(record) + "\n")
            note = f" (the machine was {others:.0%} busy)" if others > QUIET else ""
            print(*names.values(), f"{facts['scoring']:.1f} s of {facts['wall']:.1f} s{note}", flush=True)
    table = performance.report(performance.load(options.out))
    options.out.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
