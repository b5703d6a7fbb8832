"""Pure: how sure a table is. Intervals, ranks, and paired tests of models over the same rows.

The bootstrap draws rows with replacement within each subset, as the subsets' sizes are part of a benchmark's design;
rows of one prompt are drawn together (Davison and Hinkley 1997, sections 3.2 and 3.8). All models are read on the same
draws, so differences and ranks are paired. The draws depend on the seed and the rows, never on the models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from orchestrator.benchmarks import Example, Judged, Rule
from orchestrator.metrics import credits
from workers.protocol import digest

Floats = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 10_000
CHUNK = 500
"""Resamples at a time: what is in memory is `CHUNK` x rows of a subset."""


@dataclass(frozen=True)
class Interval:
    """An interval of `LEVEL`."""

    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """The rows that all models were judged on.

    `credits` has the shape [models, rows]; `subsets` and `prompts` name each row's, rows of one prompt drawn together.
    `measures` holds credits of the same shape for cells that read the rows in their own way.
    """

    credits: Floats
    subsets: Sequence[str]
    prompts: Sequence[str]
    measures: Mapping[str, Floats] = field(default_factory=dict)

    def of(self, cell: str) -> Floats:
        """The credits that a cell is the mean of."""
        return self.measures.get(cell, self.credits)


def sample_of(judged: Sequence[Sequence[Judged]], rule: Rule) -> Sample:
    """The rows of several models, each in the same order, as a rule reads them."""
    rows = [row.example for row in judged[0]]
    worth = np.array([credits(mine, rule) for mine in judged])
    measures = {cell: np.array([list(map(read, mine)) for mine in judged]) for cell, read in rule.measures.items()}
    return Sample(worth, [row.subset for row in rows], [_cluster(row, rule) for row in rows], measures)


def _cluster(row: Example, rule: Rule) -> str:
    own = rule.cluster(row) if rule.cluster else None
    return own if own is not None else digest([[turn.role, turn.content] for turn in row.prompt])


def wilson(successes: float, rows: int, level: float = LEVEL) -> Interval:
    """The score interval of a proportion; shares of ties count as they are (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = successes / rows, z * z / rows
    middle = (share + weight / 2) / (1 + weight)
    spread = z / (1 + weight) * math.sqrt(max(0.0, share * (1 - share) / rows + weight / (4 * rows)))
    return Interval(max(0.0, min(middle - spread, share)), min(1.0, max(middle + spread, share)))


def bootstrap(
    sample: Sample, cells: Mapping[str, Mapping[str, float]], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Floats]:
    """Resampled values of weighted means of subset accuracies: an array [models, resamples] by cell.

    `cells` gives each cell's weights by subset, which add up to 1.
    """
    models = len(sample.credits)
    found = {name: np.zeros((models, resamples)) for name in cells}
    read = {name: place for place, name in enumerate(sample.measures, 1)}
    stacked = np.concatenate([sample.credits, *sample.measures.values()])
    names, rows_of = np.asarray(sample.subsets), np.arange(len(sample.subsets))
    for number, subset in enumerate(sorted(set(sample.subsets))):
        rows = rows_of[names == subset]
        prompts = [sample.prompts[row] for row in rows]
        means = _resampled(stacked[:, rows], prompts, resamples, np.random.default_rng([seed, number]))
        for name, weights in cells.items():
            if subset in weights:
                start = models * read.get(name, 0)
                found[name] += weights[subset] * means[start : start + models]
    return found


def _resampled(credits: Floats, prompts: Sequence[str], resamples: int, draws: np.random.Generator) -> Floats:
    """Mean credits of one subset, [models, resamples]: clusters of rows with one prompt, drawn with replacement."""
    clusters = np.unique(prompts, return_inverse=True)[1]
    count = int(clusters.max()) + 1
    members = np.zeros((count, len(prompts)))
    members[clusters, np.arange(len(prompts))] = 1.0
    sums, sizes = members @ credits.T, members.sum(axis=1)
    parts = []
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        drawn = draws.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(float)
        parts.append((times @ sums) / (times @ sizes)[:, None])
    return np.concatenate(parts).T


def interval(values: Floats, level: float = LEVEL) -> Interval:
    """The percentile interval of resampled values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def rank_intervals(values: Floats, level: float = LEVEL) -> list[tuple[int, int]]:
    """Between which ranks each model is, from resampled values [models, resamples]; 1 is the best.

    Where models tie in a resample, each of them has all the ranks that they share.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    found = []
    for own in values:
        best = 1 + (values > own).sum(axis=0)
        worst = (values >= own).sum(axis=0)
        low = np.quantile(best, tails[0], method="lower")
        high = np.quantile(worst, tails[1], method="higher")
        found.append((int(low), int(high)))
    return found


def two_sided(differences: Floats) -> float:
    """The p-value of resampled differences: how often they fall on the other side of zero, or on it, twice."""
    resamples = len(differences)
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (resamples + 1)))


def mcnemar(better: int, worse: int) -> float:
    """The exact McNemar test with mid-p, two-sided, from the numbers of rows that only one of two models wins.

    Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91 (2013).
    """
    from scipy.stats import binom

    rows = better + worse
    if rows == 0:
        return 1.0
    fewer = min(better, worse)
    return float(min(1.0, 2 * binom.cdf(fewer, rows, 0.5) - binom.pmf(fewer, rows, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for all of them being looked at, in the same order (Holm 1979)."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = running
    return adjusted
