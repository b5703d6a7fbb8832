"""Pure: what a whole leaderboard says about kinds of models, about its rows, and about length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from orchestrator.benchmarks import Example, Judged
from orchestrator.metrics import credit
from orchestrator.plan import family
from orchestrator.reducer import Entry
from workers.errors import InputError

TYPES = {"reward": "classifier", "preference": "pairwise", "logprob": "DPO", "generate": "judge"}
PRIOR = "Prior Sets"
SHOWN = 20
"""Rows and models of a list."""


@dataclass(frozen=True)
class Group:
    """The complete models of one type: fractions; `spread` is their standard deviation, None for one model.

    `carried` is the mean of the prior sets' section less that of the other sections, where there is one.
    """

    type: str
    models: int
    mean: float
    spread: float | None
    best: float
    best_model: str
    carried: float | None


@dataclass(frozen=True)
class Length:
    """Accuracy on pairs whose chosen response is the longer, and the shorter one."""

    model: str
    longer: float
    shorter: float

    @property
    def gap(self) -> float:
        """What length alone gains."""
        return self.longer - self.shorter


@dataclass(frozen=True)
class HardRow:
    """A row, and how many models win it."""

    subset: str
    id: str
    won: int


def type_of(name: str) -> str:
    """Classifier, pairwise, DPO, judge or baseline, from the name of a family; other where it is unknown."""
    if name == "baseline":
        return name
    try:
        return TYPES[family(name).KIND]
    except InputError:
        return "other"


def groups(entries: Sequence[Entry]) -> list[Group]:
    """The types side by side, best mean first; entries without an overall are left out."""
    by_type: dict[str, list[tuple[float, Entry]]] = {}
    for entry in entries:
        if entry.overall is not None:
            by_type.setdefault(type_of(entry.family), []).append((entry.overall, entry))
    found = []
    for name, members in by_type.items():
        values = [overall for overall, _ in members]
        best = max(members, key=lambda member: member[0])
        carried = [gap for _, entry in members if (gap := _carried(entry)) is not None]
        spread = stdev(values) if len(values) > 1 else None
        found.append(
            Group(name, len(values), fmean(values), spread, best[0], best[1].name, fmean(carried) if carried else None)
        )
    return sorted(found, key=lambda group: (-group.mean, group.type))


def _carried(entry: Entry) -> float | None:
    prior = entry.sections.get(PRIOR)
    others = [value for name, value in entry.sections.items() if name != PRIOR and value is not None]
    return prior - fmean(others) if prior is not None and others else None


def says(found: Sequence[Group]) -> list[str]:
    """The claims of the first paper (arXiv:2403.13787, section 5), held against the table; empty without both sides."""
    by_type = {group.type: group for group in found}
    classifier, dpo, judge = (by_type.get(name) for name in ("classifier", "DPO", "judge"))
    lines = []
    if classifier and dpo and classifier.spread is not None and dpo.spread is not None:
        word = "more" if dpo.spread > classifier.spread else "no more"
        lines.append(
            f"DPO models vary {word} than classifiers: {100 * dpo.spread:.1f} and {100 * classifier.spread:.1f}."
        )
    if classifier and dpo and classifier.carried is not None and dpo.carried is not None:
        word = "less" if dpo.carried < classifier.carried else "no less"
        both = f"{100 * dpo.carried:+.1f} and {100 * classifier.carried:+.1f}"
        lines.append(f"DPO models carry over {word} to the prior sets: {both}.")
    if classifier and judge:
        word = "trails" if judge.best < classifier.best else "does not trail"
        lines.append(
            f"The best judge {word} the best classifier: {100 * judge.best:.1f} and {100 * classifier.best:.1f}."
        )
    return lines


def agreement(judged: Mapping[str, Sequence[Judged]], count: int = SHOWN) -> list[tuple[str, list[float]]]:
    """By model, the share of rows on which it has each model's verdict; the first `count` models."""
    names = list(judged)[:count]
    won = np.array([[credit(row) for row in judged[name]] for name in names])
    return [(name, [float((mine == other).mean()) for other in won]) for name, mine in zip(names, won, strict=True)]


def hardest(examples: Sequence[Example], judged: Mapping[str, Sequence[Judged]], count: int = SHOWN) -> list[HardRow]:
    """The rows that the fewest models win."""
    won = np.array([[credit(row) == 1 for row in rows] for rows in judged.values()]).sum(axis=0)
    order = sorted(range(len(examples)), key=lambda at: (won[at], examples[at].key))
    return [HardRow(examples[at].subset, examples[at].id, int(won[at])) for at in order[:count]]


def lengths(judged: Mapping[str, Sequence[Judged]]) -> list[Length]:
    """Each model on pairs whose chosen response has more, and fewer, characters; widest gap first."""
    found = []
    for name, rows in judged.items():
        sides: dict[bool, list[float]] = {True: [], False: []}
        for row in rows:
            if len(row.example.responses) == 2 and row.example.num_chosen == 1:
                chosen, rejected = map(len, row.example.responses)
                if chosen != rejected:
                    sides[chosen > rejected].append(credit(row))
        if sides[True] and sides[False]:
            found.append(Length(name, fmean(sides[True]), fmean(sides[False])))
    return sorted(found, key=lambda length: (-length.gap, length.model))
