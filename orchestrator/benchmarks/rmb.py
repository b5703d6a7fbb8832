"""RMB: pairs and best-of-n over the scenarios of helpfulness and harmlessness.

Dataset: the folder `RMB_dataset` of Zhou-Zoey/RMB-Reward-Model-Benchmark, or rows with `prompt`, `chosen`, `rejected`
and a `subset` such as helpfulness-code; lists of responses make a best-of-n. Metric: the best response scores strictly
higher than all others. Sections: the share of rows of each goal, pairs and best-of-n apart; overall: the mean of the
four (arXiv:2410.09893).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator import data
from orchestrator.benchmarks import Benchmark, Example, Rule
from orchestrator.benchmarks.pairs import parse as parse_pairs
from orchestrator.data import Row
from orchestrator.metrics import shares
from workers.plugins import unknown

GOALS = {
    "helpfulness": (
        "brainstorming",
        "chat",
        "classification",
        "closed-qa",
        "code",
        "generation",
        "open-qa",
        "reasoning",
        "rewrite",
        "role-playing",
        "summarization",
        "translation",
    ),
    "harmlessness": (*(f"s{number}" for number in range(1, 12)), "multi"),
}
SECTIONS = {
    f"{goal.capitalize()} {label}": tuple(f"{kind}-{goal}-{name}" for name in names)
    for goal, names in GOALS.items()
    for kind, label in (("bon", "BoN"), ("pairs", "pairs"))
}
SUBSETS = [f"{goal}-{name}" for goal, names in GOALS.items() for name in names]


def parse(rows: Iterable[Row]) -> list[Example]:
    """Pairs and best-of-n rows; `InputError` names the first bad row."""
    return parse_pairs(_row(row) for row in rows)


def _row(row: Row) -> Row:
    values = _original(row) if row.values.get("conversation_input") is not None else dict(row.values)
    name = data.text(replace(row, values=values), "subset").removeprefix("rmb-")
    if name not in SUBSETS:
        raise row.fail(unknown(name, SUBSETS, "subset"))
    several = isinstance(values.get("rejected"), list | tuple)
    return replace(row, values={**values, "subset": f"{'bon' if several else 'pairs'}-{name}"})


def _original(row: Row) -> dict[str, Any]:
    """The columns of the benchmark's own files."""
    path = data.text(row, "category_path").lower().replace(" ", "-").split("/")
    if len(path) < 3:
        raise row.fail(f"'category_path' must be set/goal/category, found {row.values['category_path']!r}")
    values = {"prompt": row.values["conversation_input"], "subset": "-".join(path[1:3])}
    if row.values.get("bon_best") is None:
        answers = {"chosen": _answer(row, "chosen"), "rejected": _answer(row, "reject")}
        return {**values, **answers, "id": row.values.get("pair_uid")}
    losers = row.values.get("loser_list")
    if not isinstance(losers, list) or not all(isinstance(loser, Mapping) for loser in losers):
        raise row.fail("'loser_list' must be a list of answers")
    answers = {"chosen": [_answer(row, "bon_best")], "rejected": [loser.get("answer") for loser in losers]}
    return {**values, **answers, "id": row.values.get("bon_uid")}


def _answer(row: Row, name: str) -> Any:
    value = row.values.get(name)
    if not isinstance(value, Mapping) or not isinstance(value.get("answer"), str):
        raise row.fail(f"{name!r} must hold an 'answer'")
    return value["answer"]


def _weights(sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    return shares({section: {s: sizes[s] for s in subsets if s in sizes} for section, subsets in SECTIONS.items()})


RULE = Rule("rmb-v1", SECTIONS, _weights)

BENCHMARK = Benchmark(name="rmb", rules={RULE.name: RULE}, default_rule=RULE.name, parse=parse)
