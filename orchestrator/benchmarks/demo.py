"""The preference set that ships with rewardsweep: about a hundred pairs of our own in RewardBench's subsets.

Dataset: `conf/data/demo_pairs.jsonl`. Metric and sections: as in RewardBench v1. It shows the machinery; it
says nothing about a model.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.benchmarks import rewardbench
from orchestrator.paths import CONF_DIR

BENCHMARK = replace(rewardbench.BENCHMARK, name="demo", source=CONF_DIR / "data" / "demo_pairs.jsonl")
