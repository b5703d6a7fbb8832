"""The tables of docs/performance.md, from the raw lines of `bench.throughput` and the JSON of `bench.gpu`.

python -m bench.performance build/bench/throughput.jsonl [--gpu FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.parity import difference, flips

Record = Mapping[str, Any]
Field = str | Callable[[Record], float]
NOT_MEASURED = "not measured"
COMMAND = "python -m bench.throughput --only"
TECHNIQUES, GPU = f"{COMMAND} techniques", "python -m bench.gpu"
VLLM_OURS = ("vllm", "llama", "ours")
MEMORY = "peak with log-probabilities / peak without"


@dataclass(frozen=True)
class Figure:
    """A row of the table of goals; `value` is None where nothing was measured."""

    name: str
    goal: str
    value: float | None
    unit: str
    how: str
    command: str

    @property
    def cells(self) -> tuple[str, ...]:
        """What the row shows."""
        shown = (
            NOT_MEASURED
            if self.value is None
            else f"**{self.value * (100 if self.unit == '%' else 1):.3g}{self.unit}**"
        )
        return self.name, self.goal, shown, self.how, f"`{self.command}`"


class Records:
    """All lines of a file, by experiment, model and side."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def of(self, *names: str) -> list[Record]:
        """The repetitions of one measurement."""
        keys = ("experiment", "model", "side")
        return [record for record in self._records if tuple(record[key] for key in keys) == names]

    def values(self, *names: str, field: Field = "scoring") -> list[float]:
        """One number of each repetition."""
        found = self.of(*names)
        return [float(field(record) if callable(field) else record[field]) for record in found]

    def median(self, *names: str, field: Field = "scoring") -> float | None:
        """The median of a number, None where nothing was measured."""
        return median(found) if (found := self.values(*names, field=field)) else None

    def ratio(
        self, one: Sequence[str], other: Sequence[str], field: Field = "scoring", under: Field = ""
    ) -> float | None:
        """How many times larger the first median is."""
        above, below = self.median(*one, field=field), self.median(*other, field=under or field)
        return above / below if above is not None and below else None


def load(path: Path) -> list[Record]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _reached(record: Record) -> float:
    """FLOP/s of scoring."""
    return float(record["details"]["flops"]) / float(record["scoring"])


def flop_share(record: Record) -> float:
    """FLOP/s of scoring over the fastest matrix product that any library reached before or after."""
    rate = max(value for rates in record["matmul"] for value in rates.values())
    return _reached(record) / float(rate)


def together_share(record: Record) -> float:
    """The same over the faster library's products of all tries together, before and after."""
    tries = record["matmul_together"]
    rate = max(sum(rates[name] for rates in tries) / len(tries) for name in tries[0])
    return _reached(record) / float(rate)


def computed_share(record: Record) -> float:
    """Tokens computed for each one that differs."""
    return float(record["details"]["computed_tokens"]) / float(record["details"]["distinct_tokens"])


def figures(records: Records, gpu: Record) -> list[Figure]:
    """The table of goals."""
    ours, eight, many = (("classifier", "llama", side) for side in ("ours", "reference-8", "reference-64"))
    dpo, theirs = ("dpo", "policy", "ours"), ("dpo", "policy", "reference-8")
    plain, policy = ("techniques", "llama", "nothing"), ("techniques", "policy", "nothing")
    bare, device = ("techniques", "policy", "logits"), str(gpu.get("device", ""))
    memory = records.ratio(policy, bare, "peak_bytes")
    tokens, extra = records.median(*plain, field=computed_share), None if memory is None else memory - 1
    against = partial(_speed, records)
    return [
        against("classifier against the reference at batch 8, scoring", ">= 2.5x", eight, ours),
        against("the same at batch 64", ">= 3.5x", many, ours),
        against("the same at batch 8, whole process", ">= 2.3x", eight, ours, "wall"),
        against("classifier against vLLM's classify, scoring", ">= 1.2x", ("vllm", "llama", "vllm"), VLLM_OURS),
        against("DPO pair against the reference, first policy", ">= 4x", theirs, dpo),
        against("the same, second policy with the same reference", ">= 7x", theirs, dpo, under="second_scoring"),
        _share(records, "FLOP/s of scoring / fastest matrix product", "llama"),
        _share(records, "the same of a model 2,048 wide", "wide"),
        Figure("tokens computed / distinct tokens", "<= 1.02", tokens, "", "all rows in one call", TECHNIQUES),
        Figure("one H200, 8B bf16 classifier, MFU", ">= 60%", gpu.get("mfu"), "%", device, GPU),
        Figure("the same against the reference's way", ">= 4x", gpu.get("against_reference"), "x", device, GPU),
        Figure("memory of DPO scoring above weights and activations", "<= 10%", extra, "%", MEMORY, TECHNIQUES),
    ]


def _share(records: Records, name: str, model: str) -> Figure:
    """FLOP/s against the machine's."""
    found = ("techniques", model, "nothing")
    together = f"{_percent(records.median(*found, field=together_share))} of all products together"
    return Figure(name, ">= 80%", records.median(*found, field=flop_share), "%", together, TECHNIQUES)


def _speed(
    records: Records,
    name: str,
    goal: str,
    theirs: Sequence[str],
    ours: Sequence[str],
    field: str = "scoring",
    under: str = "",
) -> Figure:
    """How many times as long theirs takes; `under` is the field of ours where it is another."""
    seconds = f"{_seconds(records, *theirs, field=field)} / {_seconds(records, *ours, field=under or field)}"
    ratio = records.ratio(theirs, ours, field, under)
    return Figure(name, goal, ratio, "x", f"{seconds} s" if ratio else "", f"{COMMAND} {theirs[0]}")


def sides(records: Records, models: Sequence[str]) -> list[tuple[str, ...]]:
    """Ours against the reference: seconds, ratios, tokens, scores."""
    rows = []
    for experiment, model in [("classifier", model) for model in models] + [("dpo", "policy")]:
        ours = (experiment, model, "ours")
        for side in ("reference-8", "reference-64", "reference-1"):
            found, mine = records.of(experiment, model, side), records.of(*ours)
            if not found or not mine:
                continue
            one, other = mine[0]["scores"], found[0]["scores"]
            rows.append((
                model,
                side.replace("-", " at batch "),
                *(_seconds(records, experiment, model, side, field=field) for field in ("scoring", "wall")),
                *(_seconds(records, *ours, field=field) for field in ("scoring", "wall")),
                *(_times(records.ratio((experiment, model, side), ours, field)) for field in ("scoring", "wall")),
                f"{found[0]['computed_tokens'] / mine[0]['computed_tokens']:.2f}",
                f"{difference(one, other):.1e}",
                str(flips(one, other)),
            ))  # fmt: skip
    return rows


def left_out(records: Records) -> list[tuple[str, ...]]:
    """Each technique switched off."""
    rows: list[tuple[str, ...]] = []
    for model in ("llama", "wide", "policy"):
        plain = ("techniques", model, "nothing")
        for side in ("nothing", "sharing", "packing", "last layer", "batching", "completion-only logits"):
            found = records.of("techniques", model, side)
            if found and (base := records.of(*plain)):
                details = found[0]["details"]
                rows.append((
                    model, side, _seconds(records, "techniques", model, side),
                    _times(records.ratio(("techniques", model, side), plain)),
                    details["computed_tokens"], _percent(records.median("techniques", model, side, field=flop_share)),
                    f"{records.median('techniques', model, side, field='peak_bytes') or 0:.3g}",
                    f"{difference(found[0]['scores'], base[0]['scores']):.1e}",
                ))  # fmt: skip
    if policy := records.of("dpo", "policy", "ours"):
        without = [record["second_scoring"] + record["streams"][1] for record in policy]
        second = [record["second_scoring"] for record in policy]
        times = _times(median(without) / median(second))
        rows.append(("policy-2", "reference cache", _list(without), times, "", "", "", "0.0e+00"))
    return rows


def report(lines: Sequence[Record], gpu: Record | None = None) -> str:
    """All tables in Markdown."""
    records = Records(lines)
    models = list(dict.fromkeys(record["model"] for record in lines if record["experiment"] == "classifier"))
    machine, pairs = (lines[0]["machine"], lines[0]["pairs"]) if lines else ({}, 0)
    where = ", ".join(f"{name} {value}" for name, value in machine.items())
    tables = [
        (
            ("figure", "goal", "measured", "medians", "command"),
            [row.cells for row in figures(records, gpu or {})],
        ),
        (SIDES, sides(records, models)),
        (LEFT_OUT, left_out(records)),
    ]
    others = max((record.get("busy", 0.0) for record in lines), default=0.0)
    return f"{pairs} pairs; {where}; at most {others:.0%} busy before a measurement\n\n" + "\n".join(
        _table(head, rows) for head, rows in tables
    )


SIDES = ("checkpoint", "against", "its scoring, s", "its process, s", "our scoring, s", "our process, s",
         "scoring", "process", "its tokens / ours", "largest difference of scores", "verdicts that differ")  # fmt: skip
LEFT_OUT = ("checkpoint", "switched off", "scoring, s", "times as long", "tokens computed", "of the fastest matmul",
            "peak bytes", "largest difference of scores")  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = "| --- " * len(head) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows), ""])


def _seconds(records: Records, *names: str, field: str = "scoring") -> str:
    """The median, and in brackets each repetition."""
    return _list(records.values(*names, field=field))


def _list(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{median(values):.1f}" + (f" ({', '.join(f'{value:.1f}' for value in values)})" if len(values) > 1 else "")


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value * 100:.0f}%"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="the lines that bench.throughput wrote")
    parser.add_argument("--gpu", type=Path, help="what bench.gpu printed")
    options = parser.parse_args()
    gpu: Record = json.loads(options.gpu.read_text(encoding="utf-8")) if options.gpu else {}
    print(report(load(options.raw), gpu))


if __name__ == "__main__":
    main()
