"""How long `rewardsweep plan` takes, and how much memory, for 120 models over 43,000 pairs; nothing of it is scored.

    python bench/plan.py [PAIRS] [MODELS] [STORED]

Texts are drawn to the lengths of RewardBench's (mean 234 characters a prompt, 665 a response). STORED is the part of
the rows that the store has already, for every model, in parts of 256 rows. The models are those of the zoo, in turn.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import zoo
from orchestrator.benchmarks import find
from orchestrator.pin import pin_model
from orchestrator.plan import make_plan
from orchestrator.stores import open_store
from workers.protocol import Output, measure

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ("gpus=64", "gpu=A100-80G")


def main(words: list[str]) -> int:
    """Print seconds and peak memory of the process that plans."""
    pairs, models = int(words[0]) if words else 43_000, int(words[1]) if len(words) > 1 else 120
    stored = float(words[2]) if len(words) > 2 else 0.0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data, conf = _data(place / "pairs.parquet", pairs), _models(place / "conf", models)
        if stored:
            _fill(place / "store", data, conf, stored)
        command = [
            *(sys.executable, "-m", "orchestrator", "plan", "--config-dir", str(conf), "suite=bench", *CLUSTER),
            *("benchmarks=[pairs]", f"data.pairs={data}", f"store={place / 'store'}", "output=json"),
        ]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
    if done.returncode not in (0, 1) or not done.stdout:
        print(done.stderr)
        return 1
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, cpu = used.ru_maxrss / 2**20, used.ru_utime + used.ru_stime
    said = json.loads(done.stdout)
    print(f"{models} models x {pairs:,} pairs: {said['owed']:,} of {said['wanted']:,} measurements are owed")
    print(f"planned in {seconds:.1f} s ({cpu:.1f} s of a core), {peak:.2f} GiB at the peak")
    print(f"predicted: {said['gpu_hours']:,.0f} GPU-hours; makespan over bound {said['makespan_over_bound']}")
    return 0


def _data(path: Path, pairs: int) -> Path:
    draws = random.Random(0)
    words = ["".join(draws.choices("abcdefghijklmnopqrstuvwxyz", k=draws.randint(2, 9))) for _ in range(5000)]

    def text(mean: float) -> str:
        return " ".join(draws.choices(words, k=max(3, int(draws.expovariate(1 / mean) / 6.5))))

    rows = [{"prompt": f"{row} {text(234)}", "chosen": text(665), "rejected": text(665)} for row in range(pairs)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _models(folder: Path, count: int) -> Path:
    """A suite of so many models of the zoo that have weights, in turn, under names of their own and pinned."""
    known = [one for one in zoo.load() if one.entry["family"] not in ("judge", "baseline")]
    (folder / "model").mkdir(parents=True)
    (folder / "suite").mkdir()
    names = []
    for number in range(count):
        listed = known[number % len(known)]
        name = f"{listed.name}-{number}"  # a shipped file would win over one of the same name
        entry = {**listed.entry, "revision": f"{number:040x}"}
        (folder / "model" / f"{name}.yaml").write_text("# @package models\n" + json.dumps({name: entry}))
        names.append(name)
    suite = {"defaults": [{"override /model": names}]}
    (folder / "suite" / "bench.yaml").write_text("# @package _global_\n" + json.dumps(suite))
    return folder


def _fill(uri: Path, data: Path, conf: Path, part: float) -> None:
    """The first rows of every model's plan, in the store."""
    store = open_store(str(uri))
    store.prepare()
    rows = {"pairs": find("pairs").load(str(data))}
    listed = [one for one in zoo.load(str(conf)) if (conf / "model" / f"{one.name}.yaml").exists()]
    models = [pin_model(one.name, one.entry, cuda=True, hub=False) for one in listed]
    for stream in make_plan(models, rows, {}, {}, 256).streams.values():
        for shard in stream.shards[: int(part * len(stream.shards))]:
            output = Output(0.5, 9, False, "0" * 32)
            store.write(stream.spec, [measure(stream.spec.fingerprint, one, output) for one in shard.requests], {})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
