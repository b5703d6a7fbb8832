"""EvalBiasBench: pairs in which the wrong response has what judges are known to fall for.

Dataset: ncsoft/offsetbias, `data/evalbiasbench/biasbench.json` (`instruction`, `response1`, `response2`, `label` 1 or
2, `bias`), or pairs with `prompt`, `chosen`, `rejected` and the bias as `subset`. Metric: the right response scores
strictly higher. Overall: the share of all pairs (arXiv:2407.06551).
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

BIASES = (
    "length-bias",
    "concreteness",
    "empty-reference",
    "content-continuation",
    "nested-instruction",
    "familiar-knowledge-preference-bias",
)
LABELS = {"1": ("response1", "response2"), "2": ("response2", "response1")}


def parse(rows: Iterable[Row]) -> list[Example]:
    """Pairs of the six biases; `InputError` names the first bad row."""
    return parse_pairs(_row(row) for row in rows)


def _row(row: Row) -> Row:
    if row.values.get("instruction") is None:
        return _with_bias(row, dict(row.values), data.text(row, "subset").removeprefix("evalbias-"))
    label = str(row.values.get("label"))
    if label not in LABELS:
        raise row.fail(f"'label' must be 1 or 2, found {label!r}")
    chosen, rejected = (data.text(row, name) for name in LABELS[label])
    values = {"prompt": data.text(row, "instruction"), "chosen": chosen, "rejected": rejected}
    return _with_bias(row, values, data.text(row, "bias"))


def _with_bias(row: Row, values: Mapping[str, object], name: str) -> Row:
    bias = name.replace(" ", "-").replace("_", "-")
    if bias not in BIASES:
        raise row.fail(unknown(name, list(BIASES), "bias"))
    return replace(row, values={**values, "subset": bias})


RULE = Rule("evalbias-v1", {name: (name,) for name in BIASES}, of_all_rows)

BENCHMARK = Benchmark(name="evalbias", rules={RULE.name: RULE}, default_rule=RULE.name, parse=parse)
