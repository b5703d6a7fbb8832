"""Pure: what is different between a night's leaderboard and the last one, and what of it means something.

A model whose identity, data and rule are what they were has the score it had; nothing is compared. Any other that both
nights have is tested on the rows that both judged: the paired bootstrap and McNemar's test of `compare`, adjusted
(Holm) for all models tested on the benchmark. Models that give every row the credit it had are not counted among the
tests: they could not have come out significant (Tarone, Biometrics 46:515, 1990).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator.benchmarks import OVERALL, Rule
from orchestrator.compare import Comparison, comparisons
from orchestrator.drift import Drift, Pairs
from orchestrator.reducer import Entry, Leaderboard
from orchestrator.snapshots import Standing
from orchestrator.statistics import holm, sample_of

ALPHA = 0.05


@dataclass(frozen=True)
class Moved:
    """A model whose score is made in another way than it was the last time it was whole.

    `before` and `after` are the overalls of the two leaderboards; `cells` compare now (first) with before over the
    `rows` that both judged, the overall first; empty where nothing can be, or need be, tested, and `note` says why.
    """

    model: str
    since: str
    causes: tuple[str, ...]
    before: float
    after: float
    rows: int
    cells: tuple[Comparison, ...] = ()
    note: str = ""

    @property
    def significant(self) -> tuple[Comparison, ...]:
        """The cells that moved by more than chance explains."""
        return tuple(cell for cell in self.cells if cell.p_holm < ALPHA)

    @property
    def fell(self) -> bool:
        """Whether the overall is significantly lower than it was."""
        return any(cell.cell == OVERALL and cell.difference < 0 for cell in self.significant)


@dataclass(frozen=True)
class Place:
    """A model's rank among the complete ones, then and now; the overalls tell whether it moved or was overtaken."""

    model: str
    before: int
    after: int


@dataclass(frozen=True)
class Missing:
    """A model without a whole result this night; `since` is the last night that had one."""

    model: str
    reason: str
    rows_missing: int
    since: str | None


@dataclass(frozen=True)
class Data:
    """The rows of a benchmark are others than they were; how many came and went is None where that is unknown."""

    before: str
    after: str
    added: int | None
    gone: int | None


@dataclass(frozen=True)
class Changes:
    """All that is different on one benchmark; `first` where no earlier night had it."""

    benchmark: str
    rule: str
    first: bool
    earlier_rule: str | None = None
    data: Data | None = None
    new: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    recovered: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    places: tuple[Place, ...] = ()
    moved: tuple[Moved, ...] = ()
    drifts: tuple[Drift, ...] = ()

    @property
    def regressions(self) -> list[str]:
        """In words, what makes the night a regression."""
        fallen = [_fall(self.benchmark, moved) for moved in self.moved if moved.fell]
        return fallen + [_alarm(self.benchmark, one) for one in self.drifts if one.alarm]

    @property
    def unchanged(self) -> bool:
        """Whether there is nothing to tell."""
        return self == Changes(self.benchmark, self.rule, first=False)


def compare_boards(
    board: Leaderboard,
    last: Mapping[str, Any] | None,
    standings: Mapping[str, Standing],
    data: Data | None = None,
    moved: Sequence[Moved] = (),
    drifts: Sequence[Drift] = (),
) -> Changes:
    """The changes of a board since the last one, as its JSON object, None for none.

    `standings` hold the last whole result of models, `moved` those to be tested and `drifts` the unchanged ones.
    """
    missing = tuple(_missing(entry, standings) for entry in board.entries if not entry.complete)
    if last is None:
        return Changes(board.benchmark, board.rule, first=True, missing=missing)
    known = {model["name"]: model["rows_missing"] == 0 for model in last["models"]}
    names = {entry.name for entry in board.entries}
    whole = [entry.name for entry in board.entries if entry.complete]
    same_rule = last["rule"] == board.rule
    return Changes(
        benchmark=board.benchmark,
        rule=board.rule,
        first=False,
        earlier_rule=None if same_rule else last["rule"],
        data=data,
        new=tuple(sorted(names - known.keys())),
        removed=tuple(sorted(known.keys() - names)),
        recovered=tuple(name for name in whole if known.get(name) is False),
        missing=missing,
        places=tuple(_places(whole, standings)) if same_rule else (),
        moved=tuple(_adjusted(moved)),
        drifts=tuple(drifts),
    )


def _missing(entry: Entry, standings: Mapping[str, Standing]) -> Missing:
    known = standings.get(entry.name)
    return Missing(entry.name, entry.failure or "not scored", entry.rows_missing, known.night if known else None)


def _places(whole: Sequence[str], standings: Mapping[str, Standing]) -> list[Place]:
    """Ranks that changed; `whole` is in the order of the board."""
    now = [(name, place) for place, name in enumerate(whole, 1) if name in standings]
    return [Place(name, standings[name].rank, place) for name, place in now if standings[name].rank != place]


def compared(moved: Moved, pairs: Pairs, rule: Rule) -> Moved:
    """The model with every cell compared over the same rows; p-values not yet adjusted for other models."""
    if not pairs:
        return replace(moved, note="no row was judged both times")
    before, now = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    sample = sample_of([now, before], rule)
    worth = [sample.credits, *sample.measures.values()]
    if all(np.array_equal(credits[0], credits[1]) for credits in worth):
        return replace(moved, rows=len(pairs), note="every row that was judged both times counts as it did")
    cells = comparisons({"now": now, "before": before}, rule)
    return replace(moved, rows=len(pairs), cells=tuple(cells))


def _adjusted(moved: Sequence[Moved]) -> list[Moved]:
    """P-values adjusted, cell by cell, for all models that were tested."""
    found = {one.model: list(one.cells) for one in moved}
    for cell in dict.fromkeys(cell.cell for one in moved for cell in one.cells):
        places = [(name, at) for name, cells in found.items() for at, made in enumerate(cells) if made.cell == cell]
        adjusted = holm([found[name][at].p for name, at in places])
        for (name, at), p in zip(places, adjusted, strict=True):
            found[name][at] = replace(found[name][at], p_holm=p)
    return [replace(one, cells=tuple(found[one.model])) for one in moved]


def _fall(benchmark: str, moved: Moved) -> str:
    overall = moved.cells[0]
    return (
        f"{moved.model} fell by {-100 * overall.difference:.1f} points on {benchmark} since {moved.since} "
        f"(p {overall.p_holm:.2g}; {', '.join(moved.causes)})"
    )


def _alarm(benchmark: str, found: Drift) -> str:
    return (
        f"{found.model} drifts on {benchmark} since {found.since} ({', '.join(found.versions)}): "
        f"{found.beyond} of {found.requests} scores beyond noise, {found.retokenised} with other tokens, "
        f"{found.turned} verdicts turned, largest difference {found.largest:.3g}"
    )
