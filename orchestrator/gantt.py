"""The verb `timeline`: a Gantt chart of a run's GPUs, as a page and as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator import eventlog, records, tables
from orchestrator.config import Settings
from orchestrator.leaderboards import existing_store
from orchestrator.progress import duration, say
from orchestrator.site import render
from orchestrator.stores import Store
from orchestrator.timeline import Chart, Lane, Stay, lanes, stays, ticks, totals
from workers import plugins
from workers.errors import InputError

WIDTH, LEFT, RIGHT, TOP, AXIS = 1200.0, 96.0, 16.0, 8.0, 26.0
"""Of the chart, in its own units: all of it, its margins, and the axis below."""
LABELS = 11.0
"""Height that a lane's label needs: of lower lanes only some have one."""


def timeline(settings: Settings) -> int:
    """The verb: write the page and the picture into this folder, or print the bars as records."""
    store = existing_store(settings)
    run = _chosen(settings, store)
    found, damaged = eventlog.read(store, run)
    for piece in damaged:
        say(f"warning: {piece} cannot be read; what it told is missing")
    last = eventlog.latest(store, run)
    whole = stays(found.to_pylist(), last.at if last else None)
    if not whole:
        raise InputError(f"timeline: run {run} started no worker; name another: rewardsweep timeline RUN store=...")
    if settings.output in ("json", "csv", "markdown"):
        print(_records(whole, settings.output))
        return 0
    chart = _chart(run, whole)
    made = {form: maker for form, maker in MAKERS.items() if settings.output in ("text", form)}
    files = {f"timeline-{run}.{form}": maker(chart) for form, maker in made.items()}
    for name, content in files.items():
        Path(name).write_bytes(content)
        say(str(Path(name).absolute()))
    return 0


def _chosen(settings: Settings, store: Store) -> str:
    """The run that was named, else the latest that left an event log."""
    if len(settings.names) > 1:
        raise InputError("timeline: name one run at most: rewardsweep timeline RUN store=...")
    logged = sorted({path.split("/")[1] for path in store.list("runs") if "/events/" in path})
    if not settings.names:
        if not logged:
            raise InputError(f"store={settings.store}: no run left an event log; score something first")
        return logged[-1]
    run = eventlog.sweep_of(settings.names[0])
    if run not in logged:
        if run in {eventlog.sweep_of(record.id) for record in records.load_runs(store)}:
            raise InputError(
                f"timeline: run {run} left no event log: it had nothing to score, or is of an older version"
            )
        raise InputError(f"store={settings.store}: {plugins.unknown(run, logged, 'run')}")
    return run


def _records(whole: Sequence[Stay], output: str) -> str:
    rows = [{**asdict(bar), "kind": stay.kind, "gpus": stay.gpus} for stay in whole for bar in stay.bars]
    return (
        json.dumps(rows, indent=1, ensure_ascii=False) if output == "json" else tables.listing(rows, output, "timeline")
    )


def _chart(run: str, whole: Sequence[Stay]) -> Chart:
    return Chart(run, max(stay.end for stay in whole), tuple(lanes(whole)), tuple(whole))


def _page(chart: Chart) -> bytes:
    """The page: one chart as inline SVG, and a table that says the same to those who do not see it."""
    scale = (WIDTH - LEFT - RIGHT) / (chart.seconds or 1.0)
    every = max(1, round(LABELS / chart.height))
    rows = [
        {
            "label": lane.label if number % every == 0 else "",
            "y": TOP + number * chart.height,
            "bars": _bars(chart, lane),
            "crosses": _crosses(chart, lane),
        }
        for number, lane in enumerate(chart.lanes)
    ]
    axis = [(LEFT + at * scale, label) for at, label in ticks(chart.seconds)]
    bottom = TOP + len(chart.lanes) * chart.height
    html = render(
        "timeline",
        f"Timeline of run {chart.run}",
        chart=chart,
        rows=rows,
        axis=axis,
        bottom=bottom,
        box=(WIDTH, bottom + AXIS),
        left=LEFT,
        right=WIDTH - RIGHT,
        models=totals(chart.stays),
        duration=duration,
    )
    return html.encode()


def _bars(chart: Chart, lane: Lane) -> list[dict[str, Any]]:
    """The bars of a lane in the chart's units, and what each says when it is pointed at."""
    scale = (WIDTH - LEFT - RIGHT) / (chart.seconds or 1.0)
    shapes = []
    for place, bar in chart.bars(lane):
        thin = 0.4 if bar.doing == "idle" else 0.06
        y, height = (place.offset + thin * place.share) * chart.height, (1 - 2 * thin) * place.share * chart.height
        scored = f", {bar.shards} shards, {bar.rows} rows" if bar.shards else ""
        about = f"worker {bar.worker}, {bar.doing}, {bar.start:.1f} to {bar.end:.1f} s{scored}"
        x, width = LEFT + bar.start * scale, max(0.4, (bar.end - bar.start) * scale)
        shapes.append({"bar": bar, "x": x, "y": y, "width": width, "height": height, "about": about})
    return shapes


def _crosses(chart: Chart, lane: Lane) -> list[dict[str, Any]]:
    """Where a worker failed or was lost, and why."""
    scale = (WIDTH - LEFT - RIGHT) / (chart.seconds or 1.0)
    shapes = []
    for place in lane.places:
        for mark in place.stay.marks:
            y = (place.offset + place.share / 2) * chart.height
            about = f"worker {mark.worker} {mark.event} at {mark.at:.1f} s: {mark.reason}"
            shapes.append({"mark": mark, "x": LEFT + mark.at * scale, "y": y, "about": about})
    return shapes


def _picture(chart: Chart) -> bytes:
    from orchestrator.picture import draw

    return draw(chart)


MAKERS: Mapping[str, Callable[[Chart], bytes]] = {"png": _picture, "html": _page}
"""The picture first: without its library nothing is written."""
