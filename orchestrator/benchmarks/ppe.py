"""PPE, Preference Proxy Evaluations: pairs that people voted on, and best-of-K whose answers were checked.

Dataset: a folder with lmarena-ai/PPE-Human-Preference-V1 and the five PPE-*-Best-of-K (MMLU-Pro, MATH, GPQA,
MBPP-Plus, IFEval), each in a folder of its own name (arXiv:2410.14872). Metric of people's pairs: the preferred
response scores strictly higher; votes for a tie are left out. Of a best-of-K row: the share of its pairs of a correct
and a wrong answer in which the correct one scores strictly higher (Correctness), and whether the best scored one is
correct (Best of K); rows whose answers are all correct or all wrong tell nothing and are left out. Overall: the mean
of Human and Correctness; it is ours, the paper has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator import data
from orchestrator.benchmarks import Benchmark, Example, Judged, Rule
from orchestrator.benchmarks.pairs import parse as parse_pairs
from orchestrator.data import Row
from orchestrator.metrics import best, credit, pair, shares
from workers.plugins import unknown

HUMAN = "human"
CHECKED = ("mmlu-pro", "math", "gpqa", "mbpp-plus", "ifeval")
SECTIONS = {"Human": (HUMAN,), "Correctness": CHECKED}
BEST_OF_K = "Best of K"
WINNERS = {"model_a": ("response_1", "response_2"), "model_b": ("response_2", "response_1")}


def parse(rows: Iterable[Row]) -> list[Example]:
    """Pairs and best-of-K rows; `InputError` names the first bad row."""
    return parse_pairs(kept for row in rows if (kept := _row(row)) is not None)


def _row(row: Row) -> Row | None:
    return _checked(row) if row.values.get("winner") is None else _voted(row)


def _voted(row: Row) -> Row | None:
    winner = data.text(row, "winner")
    if winner.startswith("tie"):
        return None
    if winner not in WINNERS:
        raise row.fail(f"'winner' must be model_a, model_b or a tie, found {winner!r}")
    chosen, rejected = (data.text(row, name) for name in WINNERS[winner])
    values = {"id": row.values.get("question_id"), "prompt": row.values.get("prompt"), "subset": HUMAN}
    return replace(row, values={**values, "chosen": chosen, "rejected": rejected})


def _checked(row: Row) -> Row | None:
    answers, correct = _answers(row), row.values.get("scores")
    if not isinstance(correct, list | tuple) or len(correct) != len(answers) or not set(correct) <= {True, False}:
        raise row.fail(f"'scores' must say true or false of each of the {len(answers)} responses")
    sides: dict[bool, list[str]] = {True: [], False: []}
    for answer, right in zip(answers, correct, strict=True):
        sides[bool(right)].append(answer)
    if not sides[True] or not sides[False]:
        return None
    name = f"{data.text(row, 'question_id')}:{row.values.get('model_name') or ''}".rstrip(":")
    values = {"id": name, "prompt": row.values.get("prompt"), "subset": _subset(row)}
    return replace(row, values={**values, "chosen": sides[True], "rejected": sides[False]})


def _answers(row: Row) -> list[str]:
    names = [name for name, value in row.values.items() if re.fullmatch(r"response_\d+", name) and value is not None]
    if len(names) < 2:
        raise row.missing("response_2", "a row needs `winner` and two responses, or `scores` and several")
    return [data.text(row, name) for name in sorted(names, key=lambda name: int(name.partition("_")[2]))]


def _subset(row: Row) -> str:
    """Named by a column `subset`, else by the folder that the file is in."""
    if row.values.get("subset") is not None:
        name = data.text(row, "subset")
    else:
        found = re.search(r"PPE-(.+?)-Best-of-K", str(row.file), re.IGNORECASE)
        if found is None:
            raise row.fail("which benchmark is it? keep it in a folder such as PPE-MATH-Best-of-K, or add `subset`")
        name = found[1].lower()
    if name not in CHECKED:
        raise row.fail(unknown(name, list(CHECKED), "subset"))
    return name


def credits(judged: Sequence[Judged]) -> list[float]:
    """What each row is worth."""
    return [credit(row) if row.example.subset == HUMAN else _pairs(row) for row in judged]


def _pairs(row: Judged) -> float:
    chosen, rejected = row.example.num_chosen, len(row.scores) - row.example.num_chosen
    right = sum(pair(row, one, other) for one in range(chosen) for other in range(rejected))
    return right / (chosen * rejected)


def _weights(sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    cells = shares({name: {s: 1.0 for s in subsets if s in sizes} for name, subsets in SECTIONS.items()})
    return {**cells, **({BEST_OF_K: cells["Correctness"]} if "Correctness" in cells else {})}


RULE = Rule("ppe-v1", {**SECTIONS, BEST_OF_K: CHECKED}, _weights, credits, {BEST_OF_K: best})

BENCHMARK = Benchmark(name="ppe", rules={RULE.name: RULE}, default_rule=RULE.name, parse=parse)
