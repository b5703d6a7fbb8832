"""GPU-hours of RewardBench v1 for every classifier, pairwise and DPO configuration of the reference, by the cost model.

    python bench/zoo_hours.py FILTERED_HALF [MFU]

FILTERED_HALF are rows of RewardBench's `filtered` split (here: 1,493 of 2,985, even by subset); their tokens are scaled
to those of the whole, which are published by subset. MFU is the share of the peak to assume, 0.5 if not given.
Nothing is run: this is arithmetic, and every assumption is printed with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from orchestrator import zoo
from orchestrator.architecture import Architecture, typical
from orchestrator.benchmarks import Example, find
from orchestrator.cost import GPUS, Job, Offer, Placement, placement, shard_seconds
from orchestrator.forecast import forecast
from orchestrator.pin import pin_model
from orchestrator.placing import job_of
from orchestrator.plan import StreamPlan, family, make_plan
from orchestrator.rates import LOAD_BYTES, Rate, Rates
from orchestrator.work import NOTHING, TEMPLATE_TOKENS, Work, work_of
from workers.packing import ends
from workers.protocol import Model

GPU = GPUS["A100-80G"]
ROWS = 2985
TOKENS = 1_388_168
"""Of the whole split without templates: rows x (2 prompts + chosen + rejected), summed over the published means of its
23 subsets (Mistral's 131k vocabulary)."""
NOT_OF_THE_LIST = ("Llama-3_1-Nemotron-70B-Reward-HF",)
"""Models of ours that the reference's configurations do not name."""

PRIOR = {
    "anthropic_helpful": (6192, 142, 62),
    "anthropic_hhh": (221, 83, 45),
    "shp": (1741, 220, 110),
    "summarize": (9000, 307, 29),
}
SHOWN = {"anthropic_harmless": (2266, 94, 41), "mtbench_gpt4": (2400, 350, 250), "mtbench_human": (3355, 350, 250)}
"""Rows, tokens of a prompt, tokens of a response. Rows are those that the reference runs. Tokens: the data set's bytes
a row (Anthropic 1,249, SHP 2,066, summarize 1,718) at 4.7 characters a token, divided between prompt and responses as
in hh-rlhf's own texts (0.53 prompt), by half for SHP, and 0.84 prompt for TL;DR posts with two summaries; of MT-Bench
two turns are assumed."""


@dataclass(frozen=True)
class Row:
    """One stream: its job, and its placement."""

    name: str
    model: Model
    stream: StreamPlan
    job: Job
    placed: Placement

    def jobs(self) -> tuple[Job, Job, Job]:
        """Every conversation apart; shared beginnings where the engine shares them; shared by every engine."""
        return replace(self.job, shares=False), self.job, replace(self.job, shares=True)

    def hours(self, work: Work, job: Job, rates: Rates) -> float:
        """GPU-hours of one worker for some work, without loading."""
        return self.placed.gpus * shard_seconds(job, work, GPU, self.placed.gpus, 1, rates) / 3600

    def load_hours(self, source: str) -> float:
        """GPU-hours of loading once."""
        found = Rates().load_seconds(GPU.name, source, self.job.engine, self.job.architecture, self.job.dtype)
        return self.placed.gpus * found.value / 3600


def main(words: list[str]) -> int:
    """Print the table."""
    mfu = float(words[1]) if len(words) > 1 else 0.5
    examples = find("rewardbench").load(words[0])
    rates = _rates(examples, mfu)
    rows = list(_rows(examples, rates))
    families = {"DPO": 0, "pairwise": 0, "classifier": 0}
    for model in {row.model.name: row.model for row in rows}.values():
        families[_type(model)] += 1
    references = {row.stream.spec.path for row in rows if row.name.endswith(".reference")}
    print(f"{sum(families.values())} configurations ({families}), {len(rows)} streams of weights, each loaded once;")
    print(f"{sum(row.name.endswith('.reference') for row in rows)} are references, {len(references)} distinct ones")
    print(f"{GPU.name}, MFU {mfu:.0%} ASSUMED, {LOAD_BYTES['disk'] / 1e9:g} GB/s from local disk;", end=" ")
    print(f"{len(examples)} rows scaled to {ROWS}, tokens x {rates.tokens.value:.3f}\n")
    _table(rows, len(examples), rates)
    alone = [row.name for row in rows if row.placed.gpus > 1 and not row.job.spreads]
    print(f"\ncounted as if their engine spread them over GPUs, which it does not do yet: {', '.join(alone)}")
    _sweep(rows, len(examples))
    return 0


def _type(model: Model) -> str:
    kind = family(model.family).KIND
    return {"logprob": "DPO", "preference": "pairwise"}.get(kind, "classifier")


def _rates(examples: list[Example], mfu: float) -> Rates:
    """Rates whose tokens are the published ones: of the rows here, times the scale, they make the whole."""
    asked = list(
        make_plan([_pinned("any", {"path": "a/b", "family": "scalar"})], {"b": examples}, {}, {}, 256).streams.values()
    )
    estimate = sum(
        work_of(shard.requests, None).tokens - TEMPLATE_TOKENS * len(shard.requests) for shard in asked[0].shards
    )
    return Rates(tokens=Rate(TOKENS / (estimate * ROWS / len(examples)), "published"), assumed_mfu=mfu)


def _pinned(name: str, entry: Mapping[str, object]) -> Model:
    return pin_model(name, entry, cuda=True, hub=False)


def _rows(examples: list[Example], rates: Rates) -> Iterator[Row]:
    listed = [one for one in zoo.load() if one.entry["family"] not in ("judge", "baseline")]
    listed = [one for one in listed if one.name not in NOT_OF_THE_LIST]
    models = {one.name: _pinned(one.name, one.entry) for one in listed}
    plan = make_plan(list(models.values()), {"rewardbench": examples}, {}, {}, 256)
    works: dict[tuple[int, int | None], Work] = {}
    for one in listed:
        model = models[one.name]
        for spec in model.streams:
            stream = plan.streams[spec.fingerprint]
            shards = tuple(
                works.setdefault(
                    (id(shard.requests), spec.max_length), work_of(shard.requests, spec.max_length, rates.tokens.value)
                )
                for shard in stream.shards
            )
            shape = _shape(model, one.entry)
            job = job_of(spec, shape, "disk", shards)
            placed = placement(job, GPU, 8, rates)
            if isinstance(placed, str):  # today nothing spreads it; counted as if its engine did
                placed = placement(replace(job, engine="vllm"), GPU, 8, rates)
                assert not isinstance(placed, str), f"{spec.name}: {placed}"
            yield Row(spec.name, model, stream, job, placed)


def _shape(model: Model, entry: Mapping[str, float]) -> Architecture:
    return typical(float(entry["size"]), family(model.family).KIND == "logprob", entry.get("active"))


def _prior(row: Row, sets: Mapping[str, tuple[int, int, int]]) -> Work:
    """A stream's work on prior sets, every row of the mean length."""
    total, kind, limit = NOTHING, row.job.kind, row.stream.spec.max_length or 10**9
    for count, prompt, response in sets.values():
        each = min(limit, TEMPLATE_TOKENS + prompt + response * (2 if kind == "preference" else 1))
        head = min(each, prompt)
        total += Work(
            rows=2 * count,
            tokens=2 * count * each,
            pairs=2 * count * ends(each),
            new_tokens=count * (2 * each - head),
            new_pairs=count * (2 * ends(each) - ends(head)),
            logits=2 * count * response,
        )
    return total


def _core(row: Row) -> Work:
    return sum(row.job.shards, NOTHING)


def _table(rows: list[Row], half: int, rates: Rates) -> None:
    """GPU-hours by benchmark for each way of computing; then with loading, from each source."""
    benchmarks: dict[str, tuple[Callable[[Row], Work], float]] = {
        "RewardBench v1 core, 2,985 pairs": (_core, ROWS / half),
        "the four prior sets of its average, 17,154 pairs": (lambda row: _prior(row, PRIOR), 1.0),
        "the three more that it shows, 8,021 pairs": (lambda row: _prior(row, SHOWN), 1.0),
    }
    loads = {source: sum(row.load_hours(source) for row in rows) for source in LOAD_BYTES}
    print("| GPU-hours | apart | shared beginnings | shared by vLLM too |\n| --- | ---: | ---: | ---: |")
    peak = replace(rates, assumed_mfu=1.0)
    _line("core at the peak, no loading (the arithmetic floor)", _hours(rows, _core, ROWS / half, peak))
    total = [0.0, 0.0, 0.0]
    for name, (work, scale) in benchmarks.items():
        hours = _hours(rows, work, scale, rates)
        total = [before + more for before, more in zip(total, hours, strict=True)]
        _line(f"{name}, computing", hours)
        for source, load in loads.items():
            _line(f"... and all above, with loading from {source} ({load:.2f})", [one + load for one in total])


def _hours(rows: list[Row], work: Callable[[Row], Work], scale: float, rates: Rates) -> list[float]:
    """GPU-hours of all streams for each way of computing."""
    return [sum(scale * row.hours(work(row), row.jobs()[way], rates) for row in rows) for way in range(3)]


def _line(name: str, hours: list[float]) -> None:
    print(f"| {name} | {' | '.join(f'{one:.2f}' for one in hours)} |")


def _sweep(rows: list[Row], half: int) -> None:
    """The core on clusters, loading from disk included; every replica loads."""
    scale = ROWS / half
    streams = {
        row.name: [replace(row.placed, shard_seconds=tuple(scale * one for one in row.placed.shard_seconds))]
        for row in rows
    }
    for count in (8, 64, 512):
        found = forecast(streams, [Offer(GPU.name, count)])
        hours = sum(share.device_hours for shares in found.shares.values() for share in shares)
        minutes = f"{found.makespan / 60:.1f} min, lower bound {found.bound / 60:.1f}, ratio {found.ratio:.3f}"
        print(f"core on {count} GPUs: {minutes}; {hours:.1f} GPU-hours with the loads of replicas")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
