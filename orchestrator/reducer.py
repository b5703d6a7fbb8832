"""Pure: measurements and a rule become a leaderboard. Never a partial score as if it were whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator import metrics
from orchestrator.benchmarks import OVERALL, Example, Judged, Rule
from orchestrator.plan import Wanted, family, needs_of
from orchestrator.statistics import Interval, bootstrap, interval, rank_intervals, sample_of, wilson
from workers.engines import baseline
from workers.protocol import Measurement, Model, Request

Lookup = Callable[[str], Mapping[str, Measurement]]
"""From a fingerprint to its measurements by request digest."""


@dataclass(frozen=True)
class Cell:
    """A subset: the accuracy over `n` rows, None while rows are missing."""

    accuracy: float | None
    n: int
    composite: bool = False

    @property
    def interval(self) -> Interval | None:
        """Wilson's interval of the accuracy; None for a number that is no share of rows."""
        return None if self.accuracy is None or self.composite else wilson(self.accuracy * self.n, self.n)


@dataclass(frozen=True)
class Entry:
    """One model's row. `overall` and `sections` are None where a row they need is missing.

    `rows` counts the benchmark's rows, `rows_missing` those of them without scores; `ties`, `truncated` (a response
    was cut), `not_finite` (a score is NaN or infinite), `unparsed` (a judge wrote no verdict) and `within_noise`
    (numerical noise could turn the verdict) count scored rows.

    Of a complete model, `intervals` hold the overall's (`OVERALL`) and the sections', and `ranks` the best and the
    worst rank that the rows leave open; `tied` says that they do not tell it from the next one.

    `gpu_hours` and `dollars` are what its measurements took, those it shares with other models included; None where
    they took no GPU and no endpoint, or none that has a known price.
    """

    name: str
    family: str
    overall: float | None
    sections: Mapping[str, float | None]
    subsets: Mapping[str, Cell]
    rows: int
    rows_missing: int
    ties: int
    truncated: int
    not_finite: int
    unparsed: int
    failure: str | None
    within_noise: int = 0
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    ranks: tuple[int, int] | None = None
    tied: bool = False
    gpu_hours: float | None = None
    dollars: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every row has its scores; only then is the model ranked."""
        return self.rows_missing == 0


@dataclass(frozen=True)
class Leaderboard:
    """Complete models, best first, then incomplete ones by name; `nulls` are the null baselines that were not run."""

    benchmark: str
    rule: str
    data_hash: str
    entries: tuple[Entry, ...]
    nulls: tuple[Entry, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object that `output=json` prints."""
        return {
            "benchmark": self.benchmark,
            "rule": self.rule,
            "data_hash": self.data_hash,
            "models": [_entry_json(entry) for entry in self.entries],
            "baselines": [_entry_json(entry) for entry in self.nulls],
        }


@dataclass(frozen=True)
class ScoredRow:
    """One example of one model: the measurements behind it and its scores, None while any is missing.

    `unparsed` says whether a text behind it holds no answer.
    """

    example: Example
    measurements: tuple[Measurement | None, ...]
    scores: tuple[float, ...] | None
    unparsed: bool = False


@dataclass(frozen=True)
class Imported:
    """A model whose scores come from elsewhere: its rows, or accuracies of subsets where no rows are known."""

    model: Model
    rows: tuple[ScoredRow, ...] | None
    accuracies: Mapping[str, float] = field(default_factory=dict)


def reduce(
    models: Sequence[Model | Imported],
    benchmark: str,
    rule: Rule,
    data_hash: str,
    examples: Sequence[Example],
    lookup: Lookup,
    failures: Mapping[str, str],
) -> Leaderboard:
    """The leaderboard of a benchmark under a rule."""
    imported = [one for one in models if isinstance(one, Imported)]
    ours = [model for model in models if isinstance(model, Model)]
    needs = needs_of([model for model in ours if model.streams], examples)
    unscored = [ScoredRow(example, (), None) for example in examples]
    scored = {model.name: score_rows(model, needs[model.asks], lookup) if model.streams else unscored for model in ours}
    scored |= {one.model.name: list(one.rows) for one in imported if one.rows is not None}
    everyone = [*ours, *(one.model for one in imported if one.rows is not None)]
    judged = {model.name: judge(model, scored[model.name]) for model in everyone}
    made = [
        _entry(model, rule, scored[model.name], judged[model.name], _failure(model, failures)) for model in everyone
    ]
    made += [_accuracies(one, rule, Counter(row.subset for row in examples)) for one in imported if one.rows is None]
    entries = _with_intervals(sorted(made, key=_best_first), judged, rule)
    return Leaderboard(benchmark, rule.name, data_hash, tuple(entries), tuple(_nulls(ours, rule, examples)))


def _nulls(models: Sequence[Model], rule: Rule, examples: Sequence[Example]) -> list[Entry]:
    """What the null baselines that were not run would have: they need no weights."""
    names = {model.name for model in models}
    found = []
    for name in baseline.SCORES:
        if name not in names:
            rows = [
                ScoredRow(
                    row,
                    (),
                    tuple(baseline.score(name, Request("reward", row.prompt, (text,))) for text in row.responses),
                )
                for row in examples
            ]
            model = Model(name, "baseline", ())
            found.append(_entry(model, rule, rows, judge(model, rows), None))
    return found


def judge(model: Model, rows: Sequence[ScoredRow]) -> list[Judged]:
    """The rows that have their scores, with the family's policy for ties."""
    shared = family(model.family).TIES == "share"
    return [Judged(row.example, row.scores, shared) for row in rows if row.scores is not None]


def _with_intervals(entries: Sequence[Entry], judged: Mapping[str, Sequence[Judged]], rule: Rule) -> list[Entry]:
    """The entries, with what the rows of the complete ones leave open."""
    whole = [entry for entry in entries if entry.complete and entry.rows]
    if not whole:
        return list(entries)
    sizes = {name: cell.n for name, cell in whole[0].subsets.items()}
    values = bootstrap(sample_of([judged[entry.name] for entry in whole], rule), rule.weights(sizes))
    overall, ranks = values[OVERALL], rank_intervals(values[OVERALL])
    found = {}
    for place, entry in enumerate(whole):
        gap = interval(overall[place] - overall[place + 1]) if place + 1 < len(whole) else None
        intervals = {cell: interval(resampled[place]) for cell, resampled in values.items()}
        tied = gap is not None and gap.low <= 0
        found[entry.name] = replace(entry, intervals=intervals, ranks=ranks[place], tied=tied)
    return [found.get(entry.name, entry) for entry in entries]


def _failure(model: Model, failures: Mapping[str, str]) -> str | None:
    """Why the model, or a stream that only it has, was given up."""
    names = (model.name, *(spec.name for spec in model.streams))
    return next((failures[name] for name in names if name in failures), None)


def score_rows(model: Model, needs: Sequence[Wanted], lookup: Lookup) -> list[ScoredRow]:
    """All rows of a model, in the order of `needs`."""
    streams = [lookup(spec.fingerprint) for spec in model.streams]
    return [_scored_row(model, need, streams) for need in needs]


def _scored_row(model: Model, need: Wanted, streams: Sequence[Mapping[str, Measurement]]) -> ScoredRow:
    found = tuple(streams[stream].get(request.digest) for stream, request in need.requests)
    present = [measurement for measurement in found if measurement is not None]
    if len(present) < len(found):
        return ScoredRow(need.example, found, None)
    module, row = family(model.family), (model, present, need.example.prompt, need.example.responses)
    unreadable = getattr(module, "unreadable", None)
    return ScoredRow(need.example, found, tuple(module.values(*row)), unreadable is not None and unreadable(*row))


def _entry(model: Model, rule: Rule, rows: Sequence[ScoredRow], judged: Sequence[Judged], failure: str | None) -> Entry:
    sizes = Counter(row.example.subset for row in rows)
    missing = sizes - Counter(row.example.subset for row in judged)
    whole = metrics.score([row for row in judged if row.example.subset not in missing], rule)
    sections = {
        section: None if any(subset in missing for subset in subsets) else whole.sections.get(section)
        for section, subsets in rule.sections.items()
    }
    return Entry(
        name=model.name,
        family=model.family,
        overall=None if missing else whole.overall,
        sections=sections,
        subsets={
            name: Cell(whole.subsets.get(name), sizes[name], name in rule.composites) for name in _ordered(sizes, rule)
        },
        rows=len(rows),
        rows_missing=missing.total(),
        ties=sum(map(metrics.ties, judged)),
        truncated=sum(any(found and found.truncated for found in row.measurements) for row in rows if row.scores),
        not_finite=sum(not all(map(math.isfinite, row.scores)) for row in judged),
        unparsed=sum(row.unparsed for row in rows),
        failure=failure if missing else None,
        within_noise=sum(_within_noise(model, row) for row in rows if row.scores),
    )


def _accuracies(one: Imported, rule: Rule, sizes: Mapping[str, int]) -> Entry:
    """An entry of which only the subsets' accuracies are known: it has no rows, so no intervals and no ranks."""
    known = {name: count for name, count in sizes.items() if name in one.accuracies}
    missing = sizes.keys() - known.keys()
    cells = rule.weights(known) if known and not missing else {}
    values = {
        cell: metrics.dot(weights, one.accuracies) for cell, weights in cells.items() if cell not in rule.measures
    }
    subsets = {name: Cell(one.accuracies.get(name), sizes[name], composite=True) for name in _ordered(sizes, rule)}
    sections = {section: values.get(section) for section in rule.sections}
    gone = sum(sizes[name] for name in missing)
    name, kind = one.model.name, one.model.family
    return Entry(name, kind, values.get(OVERALL), sections, subsets, gone, gone, 0, 0, 0, 0, None)


def _within_noise(model: Model, row: ScoredRow) -> bool:
    """Whether the margin is no tie, and not larger than what two scores may be off by."""
    kind = family(model.family).KIND
    if row.scores is None or not model.streams or model.family == "baseline" or kind == "generate":
        return False
    mean = len(model.streams) == 1 and model.scoring.get("reference_free", "avg") == "avg"
    tokens = max(found.num_tokens for found in row.measurements if found) if kind == "logprob" and not mean else 1
    gap = metrics.margin(Judged(row.example, row.scores))
    return 0 < abs(gap) <= 2 * metrics.NOISE[model.streams[0].dtype] * tokens


def _ordered(sizes: Mapping[str, int], rule: Rule) -> list[str]:
    """Subsets in the rule's order, others after them by name."""
    ruled = [subset for subsets in rule.sections.values() for subset in subsets if subset in sizes]
    return ruled + sorted(set(sizes) - set(ruled))


def _best_first(entry: Entry) -> tuple[bool, float, str]:
    return (not entry.complete, -(entry.overall if entry.overall is not None else -1.0), entry.name)


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "family": entry.family,
        "overall": entry.overall,
        "overall_interval": _pair(entry.intervals.get(OVERALL)),
        "ranks": entry.ranks and list(entry.ranks),
        "tied_with_next": entry.tied,
        "sections": dict(entry.sections),
        "section_intervals": {name: _pair(entry.intervals.get(name)) for name in entry.sections},
        "subsets": {
            name: {"accuracy": cell.accuracy, "n": cell.n, "interval": _pair(cell.interval)}
            for name, cell in entry.subsets.items()
        },
        "rows": entry.rows,
        "rows_missing": entry.rows_missing,
        "ties": entry.ties,
        "truncated": entry.truncated,
        "not_finite": entry.not_finite,
        "unparsed": entry.unparsed,
        "within_noise": entry.within_noise,
        "gpu_hours": entry.gpu_hours,
        "dollars": entry.dollars,
        "failure": entry.failure,
    }


def _pair(found: Interval | None) -> list[float] | None:
    return None if found is None else [found.low, found.high]
