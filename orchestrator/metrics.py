"""Pure: verdicts and averages over judged rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from orchestrator.benchmarks import Judged


def wins(row: Judged) -> bool:
    """Whether every chosen response scores strictly higher than every rejected one; NaN never wins."""
    chosen, rejected = row.scores[: row.example.num_chosen], row.scores[row.example.num_chosen :]
    return all(better > worse for better in chosen for worse in rejected)


def credit(row: Judged) -> float:
    """What a row is worth: 1 where it is won, else 0, or its share of a tie where the model's family shares ties.

    A share is 1 / (1 + rejected responses that tie with the worst chosen one): 0.5 of a pair, 0.25 where a judge
    prefers none of four (rewardbench 0.1.4, `run_generative.py` and `run_v2.py`).
    """
    if wins(row) or not row.shared:
        return float(wins(row))
    worst, rejected = min(row.scores[: row.example.num_chosen]), row.scores[row.example.num_chosen :]
    return 1 / (1 + rejected.count(worst)) if worst == max(rejected) else 0.0


def ties(row: Judged) -> bool:
    """Whether the best chosen and the best rejected response score exactly the same."""
    chosen, rejected = row.scores[: row.example.num_chosen], row.scores[row.example.num_chosen :]
    return max(chosen) == max(rejected)


def accuracy(judged: Sequence[Judged]) -> float | None:
    """The mean credit of the rows, None without rows."""
    return sum(map(credit, judged)) / len(judged) if judged else None


def by_subset(judged: Iterable[Judged]) -> dict[str, float]:
    """The accuracy of each subset, by name."""
    groups = groupby(sorted(judged, key=_subset), key=_subset)
    rows = {subset: list(group) for subset, group in groups}
    return {subset: sum(map(credit, group)) / len(group) for subset, group in rows.items()}


def weighted_mean(values: Mapping[str, float], weights: Mapping[str, float]) -> float | None:
    """The mean over the names that have a value, None where none has."""
    present = [name for name in weights if name in values]
    total = sum(weights[name] for name in present)
    return sum(weights[name] * values[name] for name in present) / total if present else None


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """The same proportions, with the sum 1."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _subset(row: Judged) -> str:
    return row.example.subset
