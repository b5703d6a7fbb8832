"""What a night leaves in the store: a dated folder that no later night touches.

    nightly/lease.json                 who is at work
    nightly/<night>/snapshot.json      the leaderboards, what stands behind each score, the history; written last
    nightly/<night>/report.{json,md}   what changed since the night before
    nightly/<night>/index.html         the same as a page, with the history as lines
    nightly/index.html                 a copy of the newest page

A night is called by its day in UTC, `2026-01-31`, a further one of the same day `2026-01-31.2`. A folder without
`snapshot.json` was left by a night that died while it wrote; its name is not used again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.stores import Store
from workers.errors import StoreError

FOLDER = "nightly"
SCHEMA = 1
NIGHTS = 90
"""Nights that the history holds."""


@dataclass(frozen=True)
class Standing:
    """A complete model on one benchmark, as of the night that last measured it whole."""

    night: str
    family: str
    streams: tuple[str, ...]
    scoring: Mapping[str, Any]
    data_hash: str
    rule: str
    overall: float
    rank: int

    @property
    def identity(self) -> tuple[object, ...]:
        """All that the overall depends on: where it is equal, the overall is."""
        return (self.family, self.streams, dict(self.scoring), self.data_hash, self.rule)


@dataclass(frozen=True)
class Point:
    """From a night on, a model has this overall, None for no whole result; `cause` says what changed, if anything."""

    night: str
    overall: float | None
    cause: str = ""


@dataclass(frozen=True)
class History:
    """The last nights, oldest first, and by benchmark and model the points at which something changed."""

    nights: tuple[str, ...] = ()
    lines: Mapping[str, Mapping[str, tuple[Point, ...]]] = field(default_factory=dict)

    def values(self, benchmark: str, model: str) -> list[Point | None]:
        """A model's point for each night; the same one as long as nothing changes, None before the first."""
        found: list[Point | None] = []
        points = list(self.lines.get(benchmark, {}).get(model, ()))
        for night in self.nights:
            reached = [point for point in points if night_key(point.night) <= night_key(night)]
            found.append(reached[-1] if reached else None)
        return found


@dataclass(frozen=True)
class Snapshot:
    """A night's leaderboards and what the next night is compared with.

    `boards` are JSON objects by benchmark, as `output=json` prints them, with the night they are of: a benchmark whose
    rows could not be had keeps the board it had. `sources` are hub data sets with their revisions. `standings` hold, by
    benchmark and model, the newest whole result; a model that failed this night keeps the one it had.
    """

    night: str
    previous: str | None
    made: str
    cuda: bool
    facts: Mapping[str, str]
    sources: Mapping[str, Mapping[str, str]]
    boards: Mapping[str, Mapping[str, Any]]
    standings: Mapping[str, Mapping[str, Standing]]
    history: History


def night_key(night: str) -> tuple[str, int]:
    """Sorts nights: by day, then by number."""
    day, _, number = night.partition(".")
    return day, int(number or 1)


def next_night(today: str, taken: Sequence[str]) -> str:
    """The name of a night that begins today, after all that are taken, also where the clock was set back."""
    last = max(map(night_key, taken), default=("", 0))
    if today > last[0]:
        return today
    return f"{last[0]}.{last[1] + 1}"


def extended(
    history: History,
    night: str,
    overalls: Mapping[str, Mapping[str, float | None]],
    causes: Mapping[tuple[str, str], str],
) -> History:
    """The history with one more night; only the last `NIGHTS` are kept. A model that is gone has no overall."""
    nights = (*history.nights, night)[-NIGHTS:]
    lines: dict[str, dict[str, tuple[Point, ...]]] = {}
    for benchmark in {**history.lines, **overalls}:
        known, now = history.lines.get(benchmark, {}), overalls.get(benchmark, {})
        lines[benchmark] = {}
        for model in {**known, **now}:
            before = known.get(model, ())
            point = Point(night, now.get(model), causes.get((benchmark, model), ""))
            moved = not before or before[-1].overall != point.overall or point.cause
            points = _since((*before, point) if moved else before, nights[0])
            if any(one.overall is not None for one in points):
                lines[benchmark][model] = points
    return History(nights, lines)


def _since(points: Sequence[Point], first: str) -> tuple[Point, ...]:
    """The points from a night on, with the one that held when it began."""
    later = [point for point in points if night_key(point.night) > night_key(first)]
    earlier = [point for point in points if night_key(point.night) <= night_key(first)]
    return (*earlier[-1:], *later)


def nights(store: Store) -> tuple[list[str], list[str]]:
    """The names that are taken, and of them those of finished nights; both in order."""
    paths = [path.split("/") for path in store.list(FOLDER)]
    taken = {parts[1] for parts in paths if len(parts) > 2}
    finished = {parts[1] for parts in paths if parts[2:] == ["snapshot.json"]}
    return sorted(taken, key=night_key), sorted(finished, key=night_key)


def load_snapshot(store: Store, night: str) -> Snapshot:
    """A night's snapshot; `StoreError` where it is damaged."""
    path = f"{FOLDER}/{night}/snapshot.json"
    try:
        values = json.loads(store.load(path) or b"")
        if values.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        return Snapshot(**{**values, "standings": _standings(values), "history": _history(values["history"])})
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"store={store.uri}: {path} is damaged or of another version ({error}); "
            "remove that file to compare with the night before it"
        ) from error


def _standings(values: Mapping[str, Any]) -> dict[str, dict[str, Standing]]:
    return {
        benchmark: {
            model: Standing(**{**standing, "streams": tuple(standing["streams"])}) for model, standing in models.items()
        }
        for benchmark, models in values["standings"].items()
    }


def _history(values: Mapping[str, Any]) -> History:
    lines = {
        benchmark: {model: tuple(Point(**point) for point in points) for model, points in models.items()}
        for benchmark, models in values["lines"].items()
    }
    return History(tuple(values["nights"]), lines)


def save_night(store: Store, snapshot: Snapshot, files: Mapping[str, bytes], front: bytes) -> str:
    """Write a night's files, the snapshot last, then the front page; the folder's path.

    `StoreError` rather than touch another night's files.
    """
    folder = f"{FOLDER}/{snapshot.night}"
    content = {"schema": SCHEMA, **asdict(snapshot)}
    encoded = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    for name, data in {**files, "snapshot.json": encoded}.items():
        if not store.create(f"{folder}/{name}", data):
            raise StoreError(f"store={store.uri}: {folder}/{name} is there already: another night wrote it")
    store.save(f"{FOLDER}/index.html", front)
    return folder
