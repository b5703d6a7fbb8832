"""Pure: verdicts, and what a rule makes of judged rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.benchmarks import OVERALL, Judged, Rule, Scores

NOISE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""By dtype, how far a score may be from itself in another batch: what `check` lets pass.

Of a reward in its own unit, of a log-probability in nats a token.
"""


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


def best(row: Judged) -> float:
    """The share of chosen responses among those with the highest score; 0 where a score is NaN."""
    if any(map(math.isnan, row.scores)):
        return 0.0
    highest = [place < row.example.num_chosen for place, score in enumerate(row.scores) if score == max(row.scores)]
    return sum(highest) / len(highest)


def pair(row: Judged, chosen: int, rejected: int) -> float:
    """What two responses of a row are worth, by their numbers: as `credit` of a row with only these."""
    better, worse = row.scores[chosen], row.scores[row.example.num_chosen + rejected]
    return float(better > worse) if better != worse or not row.shared else 0.5


def margin(row: Judged) -> float:
    """The worst chosen response over the best rejected one; NaN where a score is."""
    chosen, rejected = row.scores[: row.example.num_chosen], row.scores[row.example.num_chosen :]
    return math.nan if any(map(math.isnan, row.scores)) else min(chosen) - max(rejected)


def ties(row: Judged) -> bool:
    """Whether the best chosen and the best rejected response score exactly the same."""
    chosen, rejected = row.scores[: row.example.num_chosen], row.scores[row.example.num_chosen :]
    return max(chosen) == max(rejected)


def credits(judged: Sequence[Judged], rule: Rule) -> list[float]:
    """What each row is worth under a rule."""
    return rule.credits(judged) if rule.credits else list(map(credit, judged))


def score(judged: Sequence[Judged], rule: Rule) -> Scores:
    """The overall, sections and subsets of one model; sections without rows are None."""
    if not judged:
        return Scores(None, dict.fromkeys(rule.sections), {})
    names = [row.example.subset for row in judged]
    subsets = means(names, credits(judged, rule))
    cells = rule.weights(Counter(names))
    values = {cell: dot(weights, subsets) for cell, weights in cells.items()}
    for cell in rule.measures.keys() & cells.keys():
        values[cell] = dot(cells[cell], means(names, map(rule.measures[cell], judged)))
    return Scores(values[OVERALL], {section: values.get(section) for section in rule.sections}, subsets)


def means(names: Sequence[str], values: Iterable[float]) -> dict[str, float]:
    """The mean value of each name."""
    found: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        found.setdefault(name, []).append(value)
    return {name: sum(group) / len(group) for name, group in found.items()}


def dot(weights: Mapping[str, float], values: Mapping[str, float]) -> float:
    """The weighted sum of values by name."""
    return sum(weight * values[name] for name, weight in weights.items())


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """The same proportions, with the sum 1."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def shares(
    sections: Mapping[str, Mapping[str, float]], importance: Mapping[str, float] | None = None
) -> dict[str, dict[str, float]]:
    """The cells of a rule whose sections weigh their subsets so, and whose overall weighs the sections so, else alike.

    Sections without subsets drop out.
    """
    cells = {section: normalised(weights) for section, weights in sections.items() if weights}
    parts = normalised({section: importance[section] if importance else 1.0 for section in cells})
    overall: dict[str, float] = {}
    for section, weights in cells.items():
        for subset, weight in weights.items():
            overall[subset] = overall.get(subset, 0.0) + weight * parts[section]
    return {OVERALL: overall, **cells}


def of_all_rows(sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """The cells of a rule whose overall is the share of all rows and whose subsets are its sections."""
    return {OVERALL: normalised(sizes), **{name: {name: 1.0} for name in sizes}}
