"""Pure: what every worker did when, from the event log; on which lane of a chart it stands.

A lane is one GPU, or one CPU slot, that some worker held at the time: which of a cluster's GPUs it was is Ray's choice
and not in the log. Workers with a fraction of a GPU share a lane; one with several GPUs fills several.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

Doing = Literal["load", "score", "idle"]

NEXT: Mapping[str, Doing] = {"start": "load", "ready": "idle", "assign": "score", "done": "idle"}
"""What a worker does after an event."""
LAST = ("stop", "lost")
BROKEN = ("failed", "lost")
CPU = "cpu"
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)
"""Seconds between marks of the axis."""
TICKS = 10
RESOLUTION = 1500
"""Bars that the length of a chart can hold side by side: shorter gaps are drawn over."""
LANE, LEAST, TALLEST = 22.0, 7.0, 1200.0
"""Height of a lane in points, at least, and of all lanes as long as they are not at their least."""
GOLDEN, LIGHT, SATURATION = 137.508, (0.48, 0.36, 0.62), 0.62
"""Degrees between the hues of neighbours, the golden angle; the lightness of colours in turn."""
TINY = 1e-9


@dataclass(frozen=True)
class Bar:
    """One worker doing one thing, in seconds since the chart's start; `shards` and `rows` are what it scored."""

    worker: int
    model: str
    doing: Doing
    start: float
    end: float
    shards: int = 0
    rows: int = 0

    @property
    def scores(self) -> bool:
        """Whether this is what workers are there for."""
        return self.doing == "score"


@dataclass(frozen=True)
class Mark:
    """A moment at which a worker failed or was lost."""

    worker: int
    model: str
    at: float
    event: str
    reason: str


@dataclass(frozen=True)
class Stay:
    """A worker from its start to its end, with its devices and the marks upon it."""

    worker: int
    model: str
    kind: str
    gpus: float
    start: float
    end: float
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Place:
    """A stay on a lane: it takes the share of the lane's height that begins at `offset`."""

    stay: Stay
    offset: float
    share: float


@dataclass(frozen=True)
class Lane:
    """One GPU or CPU slot over the whole run."""

    label: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Chart:
    """What page and picture share; times in seconds since the first event."""

    run: str
    seconds: float
    lanes: tuple[Lane, ...]
    stays: tuple[Stay, ...]

    @cached_property
    def colours(self) -> dict[str, str]:
        """One a model, as `#rrggbb`, neighbours far apart however many there are."""
        models = sorted({stay.model for stay in self.stays})
        return {model: _colour(number) for number, model in enumerate(models)}

    @property
    def height(self) -> float:
        """Of one lane, in points."""
        return max(LEAST, min(LANE, TALLEST / max(1, len(self.lanes))))

    @property
    def used(self) -> float:
        """Share of all lanes' time in which something was scored."""
        busy = sum((bar.end - bar.start) * (stay.gpus or 1) for stay in self.stays for bar in stay.bars if bar.scores)
        return busy / (self.seconds * len(self.lanes)) if self.seconds and self.lanes else 0.0

    def bars(self, lane: Lane) -> list[tuple[Place, Bar]]:
        """The bars of a lane, as few as look the same."""
        gap = self.seconds / RESOLUTION
        return [(place, bar) for place in lane.places for bar in merged(place.stay.bars, gap)]


def _colour(number: int) -> str:
    rgb = hls_to_rgb(number * GOLDEN % 360 / 360, LIGHT[number % len(LIGHT)], SATURATION)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def stays(rows: Iterable[Mapping[str, Any]], end: float | None = None) -> list[Stay]:
    """Every worker's stay, by start. Who was not stopped stays until `end`, else until the last event."""
    by_worker: dict[int, list[Mapping[str, Any]]] = {}
    first, last = math.inf, end if end is not None else -math.inf
    for row in rows:
        first, last = min(first, row["at"]), max(last, row["at"])
        if row["worker"] is not None:
            by_worker.setdefault(row["worker"], []).append(row)
    found = [_stay(mine, first, last) for mine in by_worker.values() if mine[0]["event"] == "start"]
    return sorted(found, key=lambda stay: (stay.start, stay.worker))


def _stay(rows: Sequence[Mapping[str, Any]], first: float, last: float) -> Stay:
    begin = rows[0]
    bars: list[Bar] = []
    marks: list[Mark] = []
    doing, since, ended, ahead = NEXT["start"], begin["at"], last, 0
    for row in rows[1:]:
        event, at = row["event"], max(row["at"], since)
        if event == "assign" and doing == "score":  # it begins when the one before it is done
            ahead += 1
            continue
        if event in BROKEN:
            marks.append(Mark(row["worker"], begin["model"], at - first, event, row["reason"] or ""))
        if event in NEXT or event in LAST:
            scored = {"shards": 1, "rows": row["rows"] or 0} if event == "done" else {}
            bars.append(Bar(row["worker"], begin["model"], doing, since - first, at - first, **scored))
            doing, since = NEXT.get(event, "idle"), at
            if event == "done" and ahead:
                doing, ahead = "score", ahead - 1
        if event in LAST:
            ended = at
            break
    else:
        bars.append(Bar(begin["worker"], begin["model"], doing, since - first, ended - first))
    kept = tuple(bar for bar in bars if bar.end > bar.start)
    span = (begin["at"] - first, ended - first)
    return Stay(begin["worker"], begin["model"], begin["kind"] or CPU, begin["gpus"] or 0.0, *span, kept, tuple(marks))


def merged(bars: Sequence[Bar], gap: float) -> list[Bar]:
    """Fewer bars that look the same: idle ones shorter than `gap` go, and neighbours that do the same become one."""
    found: list[Bar] = []
    for bar in bars:
        if bar.doing == "idle" and bar.end - bar.start < gap:
            continue
        before = found[-1] if found else None
        if before is not None and before.doing == bar.doing and bar.start - before.end < gap:
            shards, rows = before.shards + bar.shards, before.rows + bar.rows
            found[-1] = replace(before, end=bar.end, shards=shards, rows=rows)
        else:
            found.append(bar)
    return found


def lanes(found: Sequence[Stay]) -> list[Lane]:
    """Stays on lanes: each takes the first lanes of its kind that are free, in the order of their starts."""
    places: dict[tuple[str, int], list[Place]] = {}
    for stay in found:
        shares = [1.0] * max(1, math.floor(stay.gpus + TINY)) if stay.gpus >= 1 or not stay.gpus else [stay.gpus]
        number = 0
        for share in shares:
            while (offset := _free(places.get((stay.kind, number), ()), stay.start, share)) is None:
                number += 1
            places.setdefault((stay.kind, number), []).append(Place(stay, offset, share))
            number += 1
    order = sorted(places, key=lambda lane: (lane[0] == CPU, lane))
    return [Lane(f"{kind} {number}", tuple(places[kind, number])) for kind, number in order]


def _free(places: Sequence[Place], at: float, share: float) -> float | None:
    """The lowest offset at which a share of a lane is free from a moment on, None if there is none."""
    held = sorted((place.offset, place.offset + place.share) for place in places if place.stay.end > at + TINY)
    offset = 0.0
    for low, high in held:
        if offset + share <= low + TINY:
            break
        offset = max(offset, high)
    return offset if offset + share <= 1 + TINY else None


def ticks(seconds: float) -> Iterator[tuple[float, str]]:
    """Marks of the time axis, at most ten or so, with their labels."""
    step = next((step for step in STEPS if seconds / step <= TICKS), math.ceil(seconds / TICKS / 86400) * 86400)
    for at in range(0, math.floor(seconds) + 1, step):
        yield float(at), f"{at // 3600}:{at // 60 % 60:02d}:{at % 60:02d}"


def totals(found: Sequence[Stay]) -> dict[str, dict[str, float]]:
    """By model: device seconds of each doing, rows, shards, and how often a worker broke. A CPU slot is one device."""
    made: dict[str, dict[str, float]] = {}
    for stay in sorted(found, key=lambda stay: stay.model):
        mine = made.setdefault(stay.model, dict.fromkeys(("load", "score", "idle", "rows", "shards", "broken"), 0.0))
        for bar in stay.bars:
            mine[bar.doing] += (bar.end - bar.start) * (stay.gpus or 1)
            mine["rows"] += bar.rows
            mine["shards"] += bar.shards
        mine["broken"] += len(stay.marks)
    return made
