"""A timeline as a PNG. The only file that imports matplotlib, the extra `timeline`."""

from __future__ import annotations

import io
from typing import Any

from orchestrator.timeline import Bar, Chart, Place, ticks
from workers.errors import InputError

INCHES, DOTS, POINTS = 14.0, 150, 72
COLUMNS = 6
"""Of the legend."""
FADED, IDLE, BROKEN = 0.35, "0.75", "#d00000"
MARK = 4.0


def draw(chart: Chart) -> bytes:
    """The bytes of the picture; `InputError` with the remedy where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "timeline: the picture needs matplotlib: pip install 'rewardsweep[timeline]', or ask for the page alone: "
            "output=html"
        ) from error
    legend = 0.25 * (2 + len(chart.colours) // COLUMNS)
    figure = Figure(figsize=(INCHES, 1.2 + legend + len(chart.lanes) * chart.height / POINTS), layout="constrained")
    axes = figure.add_subplot()
    for number, lane in enumerate(chart.lanes):
        for place, bar in chart.bars(lane):
            axes.add_patch(_rectangle(chart, number, place, bar))
        marks = [
            (mark.at, number + place.offset + place.share / 2) for place in lane.places for mark in place.stay.marks
        ]
        for at, height in marks:
            axes.plot(at, height, "x", color=BROKEN, markersize=MARK, clip_on=False)
    _frame(axes, chart)
    figure.legend(handles=_legend(chart), loc="outside lower left", ncols=COLUMNS, fontsize=7, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DOTS, format="png")
    return buffer.getvalue()


def _rectangle(chart: Chart, number: int, place: Place, bar: Bar) -> Any:
    """Full height for work, a thin grey line for waiting."""
    from matplotlib.patches import Rectangle

    thin = 0.4 if bar.doing == "idle" else 0.06
    corner = (bar.start, number + place.offset + thin * place.share)
    size = (bar.end - bar.start, (1 - 2 * thin) * place.share)
    colour = IDLE if bar.doing == "idle" else chart.colours[bar.model]
    return Rectangle(corner, *size, facecolor=colour, alpha=FADED if bar.doing == "load" else 1.0, linewidth=0)


def _frame(axes: Any, chart: Chart) -> None:
    axes.set(xlim=(0, chart.seconds), ylim=(len(chart.lanes), 0))
    marks = list(ticks(chart.seconds))
    axes.set_xticks([at for at, _ in marks], [label for _, label in marks])
    every = max(1, round(11 / chart.height))
    shown = range(0, len(chart.lanes), every)
    axes.set_yticks([number + 0.5 for number in shown], [chart.lanes[number].label for number in shown], fontsize=7)
    axes.tick_params(length=0)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    title = f"run {chart.run}: {chart.used:.1%} of {len(chart.lanes)} lanes' time is scoring"
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)


def _legend(chart: Chart) -> list[Any]:
    """Models by colour, then what shades and marks mean; a name must not be read as a formula."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    models = [Patch(color=colour, label=model.replace("$", r"\$")) for model, colour in chart.colours.items()]
    return [
        *models,
        Patch(color="0.4", alpha=FADED, label="paler: loading"),
        Patch(color=IDLE, label="grey line: idle"),
        Line2D([], [], color=BROKEN, marker="x", linestyle="", label="failed or lost"),
    ]
