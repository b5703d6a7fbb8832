"""The verb `correlate`: does a leaderboard say anything about what came of using the models?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import data, records, tables
from orchestrator.benchmarks import OVERALL
from orchestrator.config import Settings
from orchestrator.leaderboards import board, existing_store, selected_benchmarks
from orchestrator.progress import say
from orchestrator.reducer import Leaderboard
from orchestrator.statistics import Floats, interval
from workers.errors import InputError

FEWEST = 3
"""Models without which nothing is said."""
RESAMPLES = 2_000
CHUNK = 100
"""Resamples at a time: what is in memory is `CHUNK` x models squared."""

Results = Mapping[str, Mapping[str, float]]
"""The user's numbers by column and model."""


@dataclass(frozen=True)
class Correlation:
    """One column of a leaderboard with one of the user's results; intervals of 95%, None where nothing varies."""

    benchmark: str
    column: str
    result: str
    models: int
    coefficient: str
    value: float | None
    low: float | None
    high: float | None


def correlate(settings: Settings) -> int:
    """The verb: every column of every selected leaderboard with every column of a file."""
    if len(settings.names) != 1:
        raise InputError("correlate: name one file of results: rewardsweep correlate FILE store=...")
    results = read_results(settings.names[0])
    store = existing_store(settings)
    found: list[Correlation] = []
    for name in selected_benchmarks(settings, records.load_runs(store)):
        made = board(store, settings, name, [])
        for result, values in results.items():
            _say_unknown(made, values)
            for column, scores in columns(made).items():
                found += correlations(name, column, result, scores, values)
    if not found:
        raise InputError(
            f"{settings.names[0]}: fewer than {FEWEST} of its models are complete in a leaderboard of {settings.store}"
        )
    print(_report(found, settings.output))
    return 0


def read_results(path: str) -> Results:
    """The columns of numbers of a file by model; `InputError` names the row that is wrong."""
    found: dict[str, dict[str, float]] = {}
    seen: set[str] = set()
    for row in data.read(str(Path(path).expanduser().absolute())):
        model = data.text(row, "model")
        if model in seen:
            raise row.fail(f"model {model!r} is there twice; give each model one row")
        seen.add(model)
        for column, value in row.values.items():
            if column != "model" and value not in (None, ""):
                found.setdefault(column, {})[model] = _number(row, column, value)
    if not found:
        raise InputError(f"{path}: holds no results; it needs a column `model` and columns of numbers")
    return found


def _number(row: data.Row, column: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise row.fail(f"{column!r} must be a number or empty, found {value!r}")
    return number


def columns(made: Leaderboard) -> dict[str, dict[str, float]]:
    """Overall, sections and subsets of the complete models and of the null baselines, by column and model."""
    found: dict[str, dict[str, float]] = {}
    for entry in (*made.entries, *made.nulls):
        if entry.complete:
            cells = {OVERALL: entry.overall, **entry.sections}
            cells |= {f"subset {name}": cell.accuracy for name, cell in entry.subsets.items()}
            for column, value in cells.items():
                if value is not None:
                    found.setdefault(column, {})[entry.name] = value
    return found


def correlations(
    benchmark: str, column: str, result: str, scores: Mapping[str, float], values: Mapping[str, float], seed: int = 0
) -> list[Correlation]:
    """Three coefficients over the models that have both numbers; none for fewer than `FEWEST`."""
    models = sorted(scores.keys() & values.keys())
    if len(models) < FEWEST:
        return []
    one, two = (np.array([[side[model] for model in models]]) for side in (scores, values))
    drawn = np.random.default_rng(seed).integers(len(models), size=(RESAMPLES, len(models)))
    whole, resampled = coefficients(one, two), _resampled(one[0], two[0], drawn)
    found = []
    for name, at in whole.items():
        value, spread = float(at[0]), resampled[name][np.isfinite(resampled[name])]
        ends = interval(spread) if math.isfinite(value) and len(spread) else None
        low, high = (None, None) if ends is None else (ends.low, ends.high)
        known = value if math.isfinite(value) else None
        found.append(Correlation(benchmark, column, result, len(models), name, known, low, high))
    return found


def _resampled(one: Floats, two: Floats, drawn: np.ndarray[Any, Any]) -> dict[str, Floats]:
    parts = [coefficients(one[rows], two[rows]) for rows in np.array_split(drawn, max(1, len(drawn) // CHUNK))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def coefficients(one: Floats, two: Floats) -> dict[str, Floats]:
    """Spearman's rho, Kendall's tau-b and Pearson's r of each row of two arrays; NaN where a row does not vary."""
    from scipy.stats import rankdata

    first, second = (np.sign(side[:, :, None] - side[:, None, :]).reshape(len(side), -1) for side in (one, two))
    return {
        "spearman": _pearson(rankdata(one, axis=1), rankdata(two, axis=1)),
        "kendall": _cosine(first, second),
        "pearson": _pearson(one, two),
    }


def _pearson(one: Floats, two: Floats) -> Floats:
    return _cosine(one - one.mean(axis=1, keepdims=True), two - two.mean(axis=1, keepdims=True))


def _cosine(one: Floats, two: Floats) -> Floats:
    """The sum of products over the root of the product of the sums of squares; NaN where one of them is nothing."""
    scale = np.sqrt((one * one).sum(axis=1) * (two * two).sum(axis=1))
    found: Floats = np.divide((one * two).sum(axis=1), scale, out=np.full(len(one), np.nan), where=scale > 1e-12)
    return found


def _say_unknown(made: Leaderboard, values: Mapping[str, float]) -> None:
    known = {entry.name for entry in (*made.entries, *made.nulls) if entry.complete}
    if unknown := sorted(values.keys() - known):
        say(f"{made.benchmark}: no complete scores of {', '.join(unknown)}; left out")


def _report(found: Sequence[Correlation], output: str) -> str:
    if output == "json":
        return json.dumps(list(map(asdict, found)), indent=1, ensure_ascii=False)
    rows = [asdict(row) for row in found] if output == "csv" else _side_by_side(found)
    return tables.listing(rows, output, "correlations, with 95% intervals").rstrip("\n")


def _side_by_side(found: Sequence[Correlation]) -> list[dict[str, str]]:
    """One line a pair of columns."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for one in found:
        about = {"benchmark": one.benchmark, "column": one.column, "result": one.result, "models": str(one.models)}
        row = rows.setdefault((one.benchmark, one.column, one.result), about)
        ends = "" if one.low is None or one.high is None else f" ({one.low:+.2f} to {one.high:+.2f})"
        row[one.coefficient] = "-" if one.value is None else f"{one.value:+.2f}{ends}"
    return list(rows.values())
