"""Models of the jobs of a multirun: names that tell them apart, and the table that compares them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from orchestrator import tables
from orchestrator.benchmarks import OVERALL, Judged, Rule
from orchestrator.compare import Comparison, comparisons
from orchestrator.config import Settings
from orchestrator.leaderboards import board, lookup, scored
from orchestrator.paths import slug
from orchestrator.reducer import Entry
from orchestrator.stores import Store
from workers.protocol import Model, digest

LONGEST = 120
"""Characters of a name, so that a stream's own ending still fits."""


@dataclass(frozen=True)
class Variant:
    """A model of some jobs: its overall, and by how much that differs from the first model's, each with its interval.

    `p` is adjusted for the number of models (Holm). What is not known, since rows are missing, is None.
    """

    model: str
    jobs: tuple[int, ...]
    overall: float | None
    low: float | None
    high: float | None
    rows_missing: int
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    only_this: int | None = None
    only_first: int | None = None
    p: float | None = None


@dataclass(frozen=True)
class Table:
    """All variants on one benchmark, in the order of their jobs."""

    benchmark: str
    rule: str
    variants: tuple[Variant, ...]

    def shown(self, output: str) -> str:
        """In an output format; fractions in CSV, percentages elsewhere."""
        title = f"{self.benchmark}, rule {self.rule}: each variant, and its difference to {self.variants[0].model}"
        if output == "csv":
            rows = [{"benchmark": self.benchmark, "rule": self.rule, **asdict(one)} for one in self.variants]
            return tables.listing([{**row, "jobs": " ".join(map(str, row["jobs"]))} for row in rows], output, title)
        return tables.listing([_readable(one) for one in self.variants], output, title).rstrip("\n")


def names(models: Sequence[Sequence[Model]], overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """The names of each job's models: its own where all jobs mean the same by it, else with what the job overrides."""
    given: dict[tuple[str, str], str] = {}
    meant: dict[str, set[str]] = {}
    for model in (model for mine in models for model in mine):
        meant.setdefault(model.name, set()).add(_identity(model))
    taken = set(meant)
    for number, (mine, said) in enumerate(zip(models, overrides, strict=True), 1):
        for model in mine:
            key = (model.name, _identity(model))
            if key not in given:
                name = model.name if len(meant[model.name]) == 1 else _named(model.name, said, number, taken)
                given[key] = name
                taken.add(name)
    return [[given[model.name, _identity(model)] for model in mine] for mine in models]


def _named(name: str, overrides: Sequence[str], number: int, taken: set[str]) -> str:
    """`x+dtype-float16` for `models.x.dtype=float16`; the job's number where that says nothing or is taken."""
    parts = [name]
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if not key.startswith("models.") or key.startswith(f"models.{name}."):
            said = f"{key.removeprefix(f'models.{name}.')}-{value}"
            parts.append(re.sub(r"[^A-Za-z0-9._-]+", "-", said).strip("-"))
    found = "+".join(part for part in parts if part)
    found = found if len(found) <= LONGEST else slug(found)
    return found if found not in taken else f"{found}+job-{number}"


def _identity(model: Model) -> str:
    return digest([model.family, [spec.fingerprint for spec in model.streams], dict(model.scoring)])


def renamed(model: Model, name: str) -> Model:
    """The model and its streams under another name, which is part of no identity."""
    if name == model.name:
        return model
    streams = tuple(replace(spec, name=name + spec.name.removeprefix(model.name)) for spec in model.streams)
    return replace(model, name=name, streams=streams)


def compared(store: Store, settings: Settings, benchmark: str, jobs: Mapping[str, Sequence[int]]) -> Table:
    """The table of one benchmark; `jobs` names its models and the numbers of their jobs."""
    known = scored(store, settings, benchmark)
    rule = known.benchmark.rule(settings.rule)
    entries = {entry.name: entry for entry in board(store, settings, benchmark, list(jobs)).entries}
    whole = [name for name in jobs if entries[name].complete]
    against = _against(known.judged(whole, lookup(store)), rule, next(iter(jobs)))
    return Table(
        benchmark,
        rule.name,
        tuple(_variant(entries[name], tuple(numbers), against.get(name)) for name, numbers in jobs.items()),
    )


def _against(judged: Mapping[str, Sequence[Judged]], rule: Rule, first: str) -> dict[str, Comparison]:
    """Each model's overall against the first one's, where both are complete."""
    if first not in judged or len(judged) < 2:
        return {}
    return {row.other: row for row in comparisons(judged, rule) if row.cell == OVERALL}


def _variant(entry: Entry, jobs: tuple[int, ...], found: Comparison | None) -> Variant:
    span = entry.intervals.get(OVERALL)
    low, high = (None, None) if span is None else (span.low, span.high)
    made = Variant(entry.name, jobs, entry.overall, low, high, entry.rows_missing)
    if found is None:
        return made
    return replace(
        made,
        difference=0.0 - found.difference,
        difference_low=0.0 - found.high,
        difference_high=0.0 - found.low,
        only_this=found.only_other,
        only_first=found.only_model,
        p=found.p_holm,
    )


def _readable(one: Variant) -> dict[str, str]:
    apart, low, high = one.difference, one.difference_low, one.difference_high
    return {
        "model": one.model,
        "jobs": " ".join(map(str, one.jobs)),
        "overall": tables.percent(one.overall),
        "95%": "-" if one.low is None else f"{tables.percent(one.low)}-{tables.percent(one.high)}",
        "missing": str(one.rows_missing),
        "difference": "-" if apart is None else f"{round(100 * apart, 1) + 0.0:+.1f}",
        "its 95%": "-" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}",
        "only this": "-" if one.only_this is None else str(one.only_this),
        "only the first": "-" if one.only_first is None else str(one.only_first),
        "p, Holm": "-" if one.p is None else f"{one.p:.3g}",
    }
