"""The timeline: bars and lanes as pure data, a page that is inert, a picture, and the verb with its mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gantt import _page
from orchestrator.picture import draw
from orchestrator.timeline import Bar, Chart, Stay, lanes, merged, stays, ticks, totals
from tests.conftest import ROOT, Cli
from tests.test_site import HOSTILE, Page

PNG = b"\x89PNG\r\n\x1a\n"


def row(at: float, event: str, worker: int, **more: Any) -> dict[str, Any]:
    about = {"model": "m", "kind": "gpu", "gpus": 1.0, "rows": None, "reason": None}
    return {"at": at, "event": event, "worker": worker, **about, **more}


def test_a_worker_loads_scores_waits_and_ends() -> None:
    [stay] = stays(
        [
            row(100, "start", 0),
            row(100, "lint", 0),
            row(101, "linted", 0),
            row(101, "load", 0),
            row(104, "ready", 0),
            row(105, "assign", 0),
            row(109, "done", 0, rows=8),
            row(109, "assign", 0),
            row(112, "lost", 0, reason="gone"),
        ]
    )
    found = [(bar.doing, bar.start, bar.end, bar.rows) for bar in stay.bars]
    assert found == [("load", 0, 4, 0), ("idle", 4, 5, 0), ("score", 5, 9, 8), ("score", 9, 12, 0)]
    assert [(mark.event, mark.at, mark.reason) for mark in stay.marks] == [("lost", 12, "gone")]
    assert totals([stay])["m"] == {"load": 4, "score": 7, "idle": 1, "rows": 8, "shards": 1, "broken": 1}


def test_what_is_given_ahead_begins_when_the_one_before_it_ends() -> None:
    rows = [row(10, "start", 0), row(11, "ready", 0), row(11, "assign", 0), row(11, "assign", 0)]
    rows += [row(14, "done", 0, rows=8), row(14, "assign", 0), row(16, "done", 0, rows=4), row(19, "done", 0, rows=2)]
    [stay] = stays([*rows, row(20, "stop", 0)])
    found = [(bar.doing, bar.start, bar.end, bar.rows) for bar in stay.bars]
    assert found == [("load", 0, 1, 0), ("score", 1, 4, 8), ("score", 4, 6, 4), ("score", 6, 9, 2), ("idle", 9, 10, 0)]


def test_who_was_not_stopped_stays_until_the_last_sign_of_life() -> None:
    [stay] = stays([row(10, "start", 0), row(11, "ready", 0), row(12, "assign", 0)], end=30)
    assert [(bar.doing, bar.start, bar.end) for bar in stay.bars] == [("load", 0, 1), ("idle", 1, 2), ("score", 2, 20)]


@st.composite
def sojourns(draw_: st.DrawFn) -> list[Stay]:
    found = []
    for number in range(draw_(st.integers(1, 25))):
        start = draw_(st.floats(0, 100))
        end = start + draw_(st.floats(0.1, 50))
        gpus = draw_(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 4.0]))
        found.append(Stay(number, "m", "gpu" if gpus else "cpu", gpus, start, end, (), ()))
    return sorted(found, key=lambda stay: (stay.start, stay.worker))


@given(sojourns())
def test_no_lane_is_taken_twice_and_every_worker_has_all_its_devices(found: list[Stay]) -> None:
    made = lanes(found)
    held: dict[int, float] = {}
    for lane in made:
        for place in lane.places:
            held[place.stay.worker] = held.get(place.stay.worker, 0.0) + place.share
            assert place.offset >= 0
            assert place.offset + place.share <= 1 + 1e-9
            for other in lane.places:
                apart = other.stay.start >= place.stay.end - 1e-9 or place.stay.start >= other.stay.end - 1e-9
                beside = (
                    other.offset >= place.offset + place.share - 1e-9
                    or place.offset >= other.offset + other.share - 1e-9
                )
                assert other is place or apart or beside
    assert held == {stay.worker: pytest.approx(stay.gpus or 1.0) for stay in found}


@given(sojourns())
def test_no_more_lanes_than_devices_were_held_at_once(found: list[Stay]) -> None:
    whole = [stay for stay in found if stay.gpus == 1]
    most = max((sum(o.start <= s.start < o.end for o in whole) for s in whole), default=0)
    assert len(lanes(whole)) == most


@given(
    st.lists(st.tuples(st.sampled_from(["load", "score", "idle"]), st.floats(0.001, 5)), max_size=60), st.floats(0, 2)
)
def test_merged_bars_keep_counts_order_and_extent(spans: list[tuple[Any, float]], gap: float) -> None:
    bars, at = [], 0.0
    for doing, width in spans:
        bars.append(Bar(0, "m", doing, at, at + width, shards=1, rows=3))
        at += width
    found = merged(bars, gap)
    kept = [bar for bar in bars if bar.doing != "idle" or bar.end - bar.start >= gap]
    assert sum(bar.shards for bar in found) == len(kept)
    assert sum(bar.rows for bar in found) == 3 * len(kept)
    assert all(one.end <= two.start + 1e-9 for one, two in pairwise(found))
    assert [bar.start for bar in found[:1]] == [bar.start for bar in kept[:1]]
    assert [bar.end for bar in found[-1:]] == [bar.end for bar in kept[-1:]]


@given(st.floats(0.01, 1e7))
def test_an_axis_has_few_marks_that_begin_at_nought(seconds: float) -> None:
    marks = list(ticks(seconds))
    assert marks[0] == (0.0, "0:00:00")
    assert 1 <= len(marks) <= 11
    assert marks[-1][0] <= seconds


def chart(workers: int, models: list[str]) -> Chart:
    """Every worker scores 50 shards; the third is lost."""
    rows = []
    for worker in range(workers):
        name = models[worker % len(models)]
        rows += [row(0, "start", worker, model=name), row(3, "ready", worker, model=name)]
        for at in range(50):
            rows += [row(3 + at, "assign", worker, model=name), row(4 + at, "done", worker, model=name, rows=2)]
        end = "lost" if worker == 2 else "stop"
        rows.append(row(60, end, worker, model=name, reason=HOSTILE[0] if end == "lost" else None))
    found = stays(sorted(rows, key=lambda one: one["at"]))
    return Chart("20260101T000000-abcdef", max(stay.end for stay in found), tuple(lanes(found)), tuple(found))


@pytest.mark.parametrize("workers", [2, 64])
def test_the_page_is_whole_and_inert(workers: int) -> None:
    html = _page(chart(workers, [*HOSTILE, "plain"])).decode()
    parsed = Page(html)
    tags = [tag for tag, _ in parsed.tags]
    assert "script" not in tags
    assert tags.count("svg") >= 1
    assert not [name for _, given in parsed.tags for name in given if name.startswith("on") or name in ("src", "href")]
    policy = next(given["content"] or "" for _, given in parsed.tags if given.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    drawn = [given for tag, given in parsed.tags if tag == "rect" and given.get("class") in ("load", "score")]
    assert len(drawn) == 2 * workers, "fifty shards without a pause are one bar"
    assert sum(given.get("class") == "lane" for tag, given in parsed.tags if tag == "rect") == workers
    assert sum(given.get("class") == "broken" for _, given in parsed.tags) == (workers > 2)
    assert "100 rows" in html


@pytest.mark.parametrize("workers", [2, 64])
def test_the_picture_is_a_png_whatever_the_names(workers: int) -> None:
    picture = draw(chart(workers, ["$x^2$", "_hidden", "a\\b", "plain"]))
    assert picture.startswith(PNG)
    assert len(picture) > 10_000


def test_a_hundred_thousand_shards_are_a_small_page() -> None:
    rows = [row(0, "start", 0), row(1, "ready", 0)]
    for at in range(100_000):
        rows += [row(1 + at, "assign", 0), row(1.99 + at, "done", 0, rows=1)]
    found = stays([*rows, row(100_002, "stop", 0)])
    made = Chart("r", 100_002, tuple(lanes(found)), tuple(found))
    assert len(_page(made)) < 100_000


def test_the_verb_writes_both_or_the_one_that_is_asked_for(
    cli: Cli, tmp_path: Path, write_pairs: Callable[..., Path]
) -> None:
    data = write_pairs([{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20)])
    words = [
        "model=[longest,random]",
        "benchmarks=[pairs]",
        f"data.pairs={data}",
        "pool=local",
        "shard_rows=4",
        "store=s",
    ]
    assert cli("run", *words).returncode == 0
    assert cli("run", *words).returncode == 0, "has nothing to score, and leaves no event log"
    here = tmp_path / "cwd"
    first, second = sorted(path.name for path in (here / "s" / "runs").iterdir())
    done = cli("timeline", "store=s")
    assert done.returncode == 0, done.stderr
    assert (here / f"timeline-{first}.png").read_bytes().startswith(PNG)
    html = (here / f"timeline-{first}.html").read_text()
    assert "longest" in html
    assert "random" in html
    assert str(here / f"timeline-{first}.html") in done.stderr
    (here / f"timeline-{first}.png").unlink()
    assert cli("timeline", first, "store=s", "output=html").returncode == 0
    assert not (here / f"timeline-{first}.png").exists()
    bars = json.loads(cli("timeline", first, "store=s", "output=json").stdout)
    assert sum(bar["rows"] for bar in bars if bar["doing"] == "score") == 80
    for words_, parts in (
        ((second,), ["left no event log"]),
        (("20990101T000000-000000",), ["unknown run", first]),
        ((first, second), ["one run at most"]),
        (("../../etc",), ["unknown run"]),
    ):
        wrong = cli("timeline", *words_, "store=s")
        assert wrong.returncode == 2
        assert len(wrong.stderr.splitlines()) == 1
        for part in parts:
            assert part in wrong.stderr


def test_without_matplotlib_one_line_says_what_to_do(
    cli: Cli, tmp_path: Path, write_pairs: Callable[..., Path]
) -> None:
    data = write_pairs([{"prompt": "q", "chosen": "good", "rejected": "bad"}])
    assert (
        cli("run", "model=[longest]", "benchmarks=[pairs]", f"data.pairs={data}", "pool=local", "store=s").returncode
        == 0
    )
    (tmp_path / "blocked" / "matplotlib").mkdir(parents=True)
    (tmp_path / "blocked" / "matplotlib" / "__init__.py").write_text("raise ImportError('blocked')\n")
    blocked = {"PYTHONPATH": f"{tmp_path / 'blocked'}:{ROOT}"}
    done = cli("timeline", "store=s", settings=blocked)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "pip install 'rewardsweep[timeline]'" in done.stderr
    assert [path.name for path in (tmp_path / "cwd").iterdir()] == ["s"], "nothing is half-written"
    assert cli("timeline", "store=s", "output=html", settings=blocked).returncode == 0


def test_the_driver_does_not_import_matplotlib() -> None:
    code = "import sys, orchestrator.cli; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
