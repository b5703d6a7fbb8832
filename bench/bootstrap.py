"""How long the intervals of a large leaderboard take: 200 models x RewardBench's 2,985 rows x 10,000 resamples."""

from __future__ import annotations

import sys
import time

import numpy as np

from orchestrator.benchmarks import OVERALL
from orchestrator.benchmarks.rewardbench import RULES, SECTIONS
from orchestrator.statistics import RESAMPLES, Sample, bootstrap, interval, rank_intervals

MODELS = 200
ROWS = {subset: count for counts in SECTIONS.values() for subset, count in counts.items()} | {"math-prm": 447}


def main() -> int:
    """Print the seconds of each part."""
    subsets = [subset for subset, count in ROWS.items() for _ in range(count)]
    draws = np.random.default_rng(0)
    shares = draws.uniform(0.5, 0.95, MODELS)[:, None]
    credits = (draws.random((MODELS, len(subsets))) < shares).astype(float)
    sample = Sample(credits, subsets, [str(row) for row in range(len(subsets))])
    weights = RULES["rewardbench-v1"].weights
    started = time.perf_counter()
    values = bootstrap(sample, weights(ROWS))
    drawn = time.perf_counter()
    for cell in values.values():
        for row in cell:
            interval(row)
    bounded = time.perf_counter()
    rank_intervals(values[OVERALL])
    ranked = time.perf_counter()
    print(f"{MODELS} models, {len(subsets)} rows, {RESAMPLES} resamples: {ranked - started:.1f} s")
    print(f"resampling {drawn - started:.1f} s, intervals {bounded - drawn:.1f} s, ranks {ranked - bounded:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
