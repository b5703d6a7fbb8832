"""The verb `compare`: do two models differ on the same rows, where, and could chance have done it?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from orchestrator import records, tables
from orchestrator.benchmarks import OVERALL, Judged, Rule
from orchestrator.config import Settings
from orchestrator.leaderboards import choose, existing_store, lookup, scored, selected_benchmarks
from orchestrator.metrics import credit, margin
from orchestrator.statistics import Floats, Sample, bootstrap, holm, interval, mcnemar, sample_of, two_sided
from workers.errors import InputError

SHOWN = 10
"""Rows of disagreement that are named."""


@dataclass(frozen=True)
class Comparison:
    """One cell of two models: accuracies, their difference with its 95% interval, and the rows that only one wins.

    `p` is McNemar's with mid-p over the cell's rows, of the weighted overall the paired bootstrap's; `p_holm` is
    adjusted for the number of models that are compared with the first.
    """

    cell: str
    model: str
    other: str
    accuracy: float
    other_accuracy: float
    difference: float
    low: float
    high: float
    only_model: int
    only_other: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Disagreement:
    """A row that one of two models wins; margins are of the worst chosen over the best rejected response.

    `distance` is between the margins, each in standard deviations of its model's own.
    """

    model: str
    other: str
    subset: str
    id: str
    margin: float
    other_margin: float
    distance: float


def compare(settings: Settings) -> int:
    """The verb: the first model against each of the others, on every selected benchmark."""
    if len(settings.names) < 2:
        raise InputError("compare: name at least two models of the store: rewardsweep compare A B store=...")
    store = existing_store(settings)
    found = []
    for name in selected_benchmarks(settings, records.load_runs(store)):
        known = scored(store, settings, name)
        choose(settings, known, settings.names)
        there = known.judged(settings.names, lookup(store))
        judged = {model: there.get(model, []) for model in settings.names}
        for model, rows in judged.items():
            if len(rows) < len(known.examples):
                missing = len(known.examples) - len(rows)
                raise InputError(f"compare: {model} has no scores on {missing} rows of {name}; run it first")
        found.append((name, known.benchmark.rule(settings.rule), judged))
    print(_report(found, settings.output))
    return 0


def comparisons(judged: Mapping[str, Sequence[Judged]], rule: Rule) -> list[Comparison]:
    """Every cell of the rule, the overall first, for the first model and each other one; rows in the same order."""
    names, sample = list(judged), sample_of(list(judged.values()), rule)
    sizes = {subset: sample.subsets.count(subset) for subset in set(sample.subsets)}
    cells = rule.weights(sizes)
    resampled = bootstrap(sample, cells)
    found = []
    for cell, shares in cells.items():
        rows = [_cell(sample, cell, shares, resampled[cell], names, place) for place in range(1, len(names))]
        adjusted = holm([row.p for row in rows])
        found += [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]
    return found


def _cell(
    sample: Sample, cell: str, shares: Mapping[str, float], resampled: Floats, names: Sequence[str], place: int
) -> Comparison:
    """One cell of the first model and the one at `place`."""
    subsets, credits = np.asarray(sample.subsets), sample.of(cell)
    one, other = (
        sum(share * float(credits[model, subsets == subset].mean()) for subset, share in shares.items())
        for model in (0, place)
    )
    here = np.isin(subsets, list(shares))
    gaps = credits[0, here] - credits[place, here]
    better, worse = int((gaps > 0).sum()), int((gaps < 0).sum())
    differences = resampled[0] - resampled[place]
    p = two_sided(differences) if cell == OVERALL else mcnemar(better, worse)
    span = interval(differences)
    return Comparison(
        cell, names[0], names[place], one, other, one - other, span.low, span.high, better, worse, p, p_holm=p
    )


def disagreements(judged: Mapping[str, Sequence[Judged]], count: int = SHOWN) -> list[Disagreement]:
    """The rows that the first model and another one judge most differently, most distant first."""
    names = list(judged)
    found = []
    for other in names[1:]:
        one, two = (np.array([margin(row) for row in judged[name]]) for name in (names[0], other))
        apart = np.abs(one / _scale(one) - two / _scale(two))
        rows = [
            Disagreement(
                names[0], other, mine.example.subset, mine.example.id, float(one[at]), float(two[at]), float(apart[at])
            )
            for at, (mine, its) in enumerate(zip(judged[names[0]], judged[other], strict=True))
            if credit(mine) != credit(its) and np.isfinite(apart[at])
        ]
        found += sorted(rows, key=lambda row: (-row.distance, row.subset, row.id))[:count]
    return found


def _scale(margins: Floats) -> float:
    """The standard deviation of the finite ones, 1 where they are all the same."""
    finite = margins[np.isfinite(margins)]
    return float(finite.std()) or 1.0 if len(finite) else 1.0


def _report(found: Sequence[tuple[str, Rule, Mapping[str, Sequence[Judged]]]], output: str) -> str:
    made = [(name, rule, comparisons(judged, rule), disagreements(judged)) for name, rule, judged in found]
    if output == "json":
        objects = [
            {
                "benchmark": name,
                "rule": rule.name,
                "comparisons": list(map(asdict, rows)),
                "disagreements": list(map(asdict, far)),
            }
            for name, rule, rows, far in made
        ]
        return json.dumps(objects[0] if len(objects) == 1 else objects, indent=1, ensure_ascii=False)
    parts = []
    for name, rule, rows, far in made:
        lines = [_readable(row) if output != "csv" else asdict(row) for row in rows]
        parts.append(tables.listing(lines, output, f"{name}, rule {rule.name}").rstrip("\n"))
        if far and output != "csv":
            rounded = [{**asdict(row), **{key: f"{getattr(row, key):.3g}" for key in MARGINS}} for row in far]
            parts.append(tables.listing(rounded, output, "the rows of greatest disagreement").rstrip("\n"))
    return "\n".join(parts)


MARGINS = ("margin", "other_margin", "distance")


def _readable(row: Comparison) -> dict[str, str]:
    """Percentages and short p-values."""
    percents = {key: f"{100 * getattr(row, key):.1f}" for key in ("accuracy", "other_accuracy")}
    return {
        "cell": row.cell,
        "model": row.model,
        "other": row.other,
        **percents,
        "difference": f"{100 * row.difference:+.1f}",
        "95%": f"{100 * row.low:+.1f} to {100 * row.high:+.1f}",
        "only model": str(row.only_model),
        "only other": str(row.only_other),
        "p": f"{row.p:.3g}",
        "p, Holm": f"{row.p_holm:.3g}",
    }
