"""Pure: verdicts and averages over judged rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from orchestrator.benchmarks import Judged


def wins(row: Judged) -> bool:
    """Whether every chosen response scores strictly higher than every rejected one; NaN never wins."""
    chosen, rejected = row.scores[: row.example.num_chosen], row.scores[row.example.num_chosen :]
    return all(better > worse for better in chosen for worse in rejected)


def ties(row: Judged) -> bool:
    """Whether the best chosen and the best rejected response score exactly the same."""
    chosen, rejected = row.scores[: row.example.num_chosen], row.scores[row.example.num_chosen :]
    return max(chosen) == max(rejected)


def accuracy(judged: Sequence[Judged]) -> float | None:
    """The share of rows won, None without rows."""
    return sum(map(wins, judged)) / len(judged) if judged else None


def by_subset(judged: Iterable[Judged]) -> dict[str, float]:
    """The accuracy of each subset, by name."""
    groups = groupby(sorted(judged, key=_subset), key=_subset)
    rows = {subset: list(group) for subset, group in groups}
    return {subset: sum(map(wins, group)) / len(group) for subset, group in rows.items()}


def weighted_mean(values: Mapping[str, float], weights: Mapping[str, float]) -> float | None:
    """The mean over the names that have a value, None where none has."""
    present = [name for name in weights if name in values]
    total = sum(weights[name] for name in present)
    return sum(weights[name] * values[name] for name in present) / total if present else None


def _subset(row: Judged) -> str:
    return row.example.subset
