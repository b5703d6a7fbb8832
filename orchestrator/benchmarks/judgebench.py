"""JudgeBench: pairs whose right answer is known, in knowledge, reasoning, math and coding.

Dataset: ScalerLab/JudgeBench (`question`, `response_A`, `response_B`, `label` A>B or B>A, `source`, `pair_id`), or
pairs with `prompt`, `chosen`, `rejected` and one of the four as `subset`. Metric: the chosen response scores strictly
higher.
Overall: the share of all pairs (arXiv:2410.12784). Judges are asked in both orders with `scoring: {orders: both}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator import data
from orchestrator.benchmarks import Benchmark, Example, Rule
from orchestrator.benchmarks.pairs import parse as parse_pairs
from orchestrator.data import Row
from orchestrator.metrics import of_all_rows
from workers.plugins import unknown

CATEGORIES = ("knowledge", "reasoning", "math", "coding")
SOURCES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
"""How a `source` begins, and its category."""

LABELS = {"A>B": ("response_A", "response_B"), "B>A": ("response_B", "response_A")}


def parse(rows: Iterable[Row]) -> list[Example]:
    """Pairs of the four categories; `InputError` names the first bad row."""
    return parse_pairs(_pair(row) for row in rows)


def _pair(row: Row) -> Row:
    if row.values.get("question") is None:
        return _with(
            {**row.values, "subset": _category(row, data.text(row, "subset").removeprefix("judgebench-"))}, row
        )
    label, source = data.text(row, "label"), data.text(row, "source")
    if label not in LABELS:
        raise row.fail(f"'label' must be A>B or B>A, found {label!r}")
    chosen, rejected = (data.text(row, name) for name in LABELS[label])
    category = next((SOURCES[start] for start in SOURCES if source.startswith(start)), source)
    values = {"prompt": data.text(row, "question"), "chosen": chosen, "rejected": rejected}
    return _with({**values, "subset": _category(row, category), "id": data.text(row, "pair_id")}, row)


def _with(values: Mapping[str, object], row: Row) -> Row:
    return replace(row, values=values)


def _category(row: Row, name: str) -> str:
    if name not in CATEGORIES:
        raise row.fail(unknown(name, list(CATEGORIES), "category"))
    return name


RULE = Rule("judgebench-v1", {name: (name,) for name in CATEGORIES}, of_all_rows)

BENCHMARK = Benchmark(name="judgebench", rules={RULE.name: RULE}, default_rule=RULE.name, parse=parse)
