"""RewardBench v1: 23 subsets in four sections.

Dataset: allenai/reward-bench, split `filtered`, 2,985 rows. Metric: the chosen response scores strictly
higher. Sections: subset accuracies weighted by the reference's fixed counts, math-prm by 984 although it has
447 rows (allenai/reward-bench, `rewardbench/constants.py`). Overall: the mean of the sections.

Until 2024-09-10 the weights of the two xstest subsets were swapped in the reference; the tables of the first
paper were made that way, and the second rule below reproduces them.

The prior sets (allenai/preference-test-sets, one split each) may be among the rows. The third rule has a section of
four of them, alike, at half the weight of the others (`analysis/get_benchmark_results.py`); three more are shown. The
two PKU splits are left out, as the reference does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.benchmarks import Benchmark, Example, Rule, Source
from orchestrator.benchmarks.pairs import parse as parse_pairs
from orchestrator.data import Row, text
from orchestrator.metrics import shares
from workers.plugins import unknown

SECTIONS: dict[str, dict[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}

SWAPPED = {"xstest-should-refuse": 250, "xstest-should-respond": 154}

PRIOR = "Prior Sets"
PRIOR_SETS = dict.fromkeys(("anthropic_helpful", "anthropic_hhh", "shp", "summarize"), 1)
SHOWN = ("anthropic_harmless", "mtbench_gpt4", "mtbench_human")
DROPPED = ("pku_better", "pku_safer")

SUBSETS = sorted(subset for weights in SECTIONS.values() for subset in weights)


def rule(name: str, weights: Mapping[str, Mapping[str, int]]) -> Rule:
    """Subset accuracies, weighted to sections, averaged to the overall; absent subsets drop out."""
    importance = {section: 0.5 if section == PRIOR else 1.0 for section in weights}

    def cells(sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
        present = {section: {s: counts[s] for s in counts if s in sizes} for section, counts in weights.items()}
        return shares(present, importance)

    return Rule(name, {section: tuple(counts) for section, counts in weights.items()}, cells)


def parse(rows: Iterable[Row]) -> list[Example]:
    """Pairs of the 23 subsets and the prior sets; `InputError` names the first row of another one."""
    return parse_pairs(_with_subset(row) for row in rows if row.split not in DROPPED)


def _with_subset(row: Row) -> Row:
    if row.split in (*PRIOR_SETS, *SHOWN):
        return replace(row, values={**row.values, "subset": row.split})
    subset = text(row, "subset")
    if subset not in (*SUBSETS, *PRIOR_SETS, *SHOWN):
        remedy = "use benchmarks=[pairs] data.pairs=FILE for a file with subsets of its own"
        raise row.fail(f"{unknown(subset, SUBSETS, 'subset')}; {remedy}")
    return row


WEIGHTS = {
    "rewardbench-v1": SECTIONS,
    "rewardbench-v1-before-2024-09-10": {**SECTIONS, "Safety": SECTIONS["Safety"] | SWAPPED},
    "rewardbench-v1-prior-sets": {**SECTIONS, PRIOR: PRIOR_SETS},
}
"""By rule and section, the weight of each subset."""

RULES = {name: rule(name, weights) for name, weights in WEIGHTS.items()}

BENCHMARK = Benchmark(
    name="rewardbench",
    rules=RULES,
    default_rule="rewardbench-v1",
    parse=parse,
    source=Source(
        repository="allenai/reward-bench",
        revision="168d848cdbbea9764fae4a544dc9ca1e6cca4931",
        file="data/filtered-00000-of-00001.parquet",
        sha256="65473c20ed0627e02503557ae102c25c6b0e66b5ed69ee327e224bb95e70ca29",
    ),
)
