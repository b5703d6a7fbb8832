"""RM-Bench: is it the substance or the style that is rewarded?

Dataset: THU-KEG/RM-Bench (`total_dataset.json`, or the file of a domain): `prompt`, and three `chosen` and three
`rejected` responses each: concise, detailed, detailed with Markdown; `domain` chat, code, math, safety-refuse or
safety-response. Metric: each chosen response against each rejected one, strictly higher; nine comparisons a row.
Normal: both in one style; Hard: the rejected response in the fancier style; Easy: the chosen one (README of the
repository; arXiv:2410.16184). Overall: the mean of four domains, the two of safety taken together row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator import data
from orchestrator.benchmarks import OVERALL, Benchmark, Example, Judged, Rule
from orchestrator.benchmarks.pairs import parse as parse_pairs
from orchestrator.data import Row
from orchestrator.metrics import pair, shares
from workers.plugins import unknown

STYLES = 3
DOMAINS = {
    "Chat": ("chat",),
    "Math": ("math",),
    "Code": ("code",),
    "Safety": ("safety-refuse", "safety-response"),
}
NAMES = tuple(name for names in DOMAINS.values() for name in names)
PLACES = [(chosen, rejected) for chosen in range(STYLES) for rejected in range(STYLES)]


def parse(rows: Iterable[Row]) -> list[Example]:
    """Rows with three chosen and three rejected responses; `InputError` names the first bad row."""
    return parse_pairs(_row(row) for row in rows)


def _row(row: Row) -> Row:
    for name in ("chosen", "rejected"):
        if len(data.texts(row, name)) != STYLES:
            raise row.fail(f"{name!r} must hold {STYLES} responses: concise, detailed, detailed with Markdown")
    return replace(row, values={**row.values, "subset": _domain(row)})


def _domain(row: Row) -> str:
    """The row's domain; a file of one domain tells it by its name, and its `subset` is where a row comes from."""
    if row.values.get("domain") is not None:
        name = data.text(row, "domain")
    elif row.split.endswith("_filtered"):
        name = row.split.removesuffix("_filtered")
    else:
        name = data.text(row, "subset").removeprefix("rmbench-")
    if name not in NAMES:
        raise row.fail(unknown(name, list(NAMES), "domain"))
    return name


def _measure(places: Sequence[tuple[int, int]]) -> Callable[[Judged], float]:
    return lambda row: sum(pair(row, *place) for place in places) / len(places)


MEASURES = {
    "Easy": _measure([(chosen, rejected) for chosen, rejected in PLACES if chosen > rejected]),
    "Normal": _measure([(chosen, rejected) for chosen, rejected in PLACES if chosen == rejected]),
    "Hard": _measure([(chosen, rejected) for chosen, rejected in PLACES if chosen < rejected]),
}


def credits(judged: Sequence[Judged]) -> list[float]:
    """The share of a row's nine comparisons that are right."""
    return list(map(_measure(PLACES), judged))


def _weights(sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    cells = shares({name: {s: sizes[s] for s in subsets if s in sizes} for name, subsets in DOMAINS.items()})
    return {**cells, **dict.fromkeys(MEASURES, cells[OVERALL])}


RULE = Rule("rmbench-v1", {**DOMAINS, **dict.fromkeys(MEASURES, NAMES)}, _weights, credits, MEASURES)

BENCHMARK = Benchmark(name="rmbench", rules={RULE.name: RULE}, default_rule=RULE.name, parse=parse)
