"""Pure: the history of a leaderboard as lines, in the coordinates of an SVG; y grows downwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.snapshots import History, Point, Snapshot

WIDTH, HEIGHT = 640.0, 240.0
SPARK_WIDTH, SPARK_HEIGHT = 150.0, 28.0
PAD = 4.0
SHOWN = 6
"""Models in the large picture: the best ones, as many as can be told apart."""
LEAST_SPAN = 0.02
"""Accuracies that differ by less are drawn nearly flat: a picture must not make much of nothing."""


@dataclass(frozen=True)
class Mark:
    """A night at which a model's score was made otherwise, with what changed."""

    x: float
    y: float
    words: str


@dataclass(frozen=True)
class Line:
    """One model: the points of its polylines, one for each stretch of nights with a result."""

    model: str
    rank: int | None
    overall: float | None
    change: float | None
    stretches: tuple[str, ...]
    marks: tuple[Mark, ...]
    end: Mark | None


@dataclass(frozen=True)
class Chart:
    """A benchmark: the best models in one picture, and every model in a small one of its own."""

    benchmark: str
    nights: tuple[str, ...]
    ticks: tuple[tuple[float, float], ...]
    best: tuple[Line, ...]
    models: tuple[Line, ...]


def charts(snapshot: Snapshot) -> list[Chart]:
    """One chart a benchmark of the night."""
    return [
        _chart(snapshot.history, name, [model["name"] for model in board["models"]])
        for name, board in snapshot.boards.items()
    ]


def _chart(history: History, benchmark: str, models: Sequence[str]) -> Chart:
    values = {model: history.values(benchmark, model) for model in models}
    whole = [model for model in models if values[model] and (last := values[model][-1]) and last.overall is not None]
    ranks = {model: place for place, model in enumerate(whole, 1)}
    best = whole[:SHOWN]
    low, high = _span([point for model in best for point in values[model]])
    ticks = tuple((_y(value, low, high, HEIGHT), value) for value in (low, (low + high) / 2, high))
    return Chart(
        benchmark=benchmark,
        nights=history.nights,
        ticks=ticks,
        best=tuple(_line(model, ranks[model], values[model], (low, high), WIDTH, HEIGHT) for model in best),
        models=tuple(
            _line(model, ranks.get(model), values[model], _span(values[model]), SPARK_WIDTH, SPARK_HEIGHT)
            for model in models
        ),
    )


def _line(
    model: str, rank: int | None, points: Sequence[Point | None], span: tuple[float, float], width: float, height: float
) -> Line:
    stretches: list[list[str]] = [[]]
    marks: list[Mark] = []
    shown: Point | None = None
    for place, point in enumerate(points):
        if point is None or point.overall is None:
            stretches.append([])
            continue
        x, y = _x(place, len(points), width), _y(point.overall, *span, height)
        stretches[-1].append(f"{x:.1f},{y:.1f}")
        if point.cause and point != shown:
            marks.append(Mark(x, y, f"{point.night}: {point.cause}"))
        shown = point
    now, before = (points[-1] if points else None), (points[-2] if len(points) > 1 else None)
    overall, earlier = (point.overall if point else None for point in (now, before))
    end = None if overall is None else Mark(_x(len(points) - 1, len(points), width), _y(overall, *span, height), model)
    change = overall - earlier if overall is not None and earlier is not None else None
    return Line(model, rank, overall, change, tuple(" ".join(made) for made in stretches if made), tuple(marks), end)


def _span(points: Sequence[Point | None]) -> tuple[float, float]:
    """From the lowest to the highest overall, at least `LEAST_SPAN` apart."""
    values = [point.overall for point in points if point is not None and point.overall is not None] or [0.5]
    low, high = min(values), max(values)
    short = max(0.0, LEAST_SPAN - (high - low)) / 2
    return low - short, high + short


def _x(place: int, count: int, width: float) -> float:
    """The last night is at the right, also where it is the only one."""
    return PAD + (width - 2 * PAD) * (place / (count - 1) if count > 1 else 1.0)


def _y(value: float, low: float, high: float, height: float) -> float:
    return PAD + (height - 2 * PAD) * (high - value) / (high - low)
