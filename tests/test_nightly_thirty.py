"""Thirty nights in a row over one store, with scripted changes of models, data and versions: each with its report."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator import provenance
from orchestrator.cli import main
from orchestrator.snapshots import load_snapshot, night_key, nights
from orchestrator.stores import open_store
from tests import nightly_engine

ROWS = 200


class World:
    """What the nights find: checkpoints, a data file, an installed library, a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: list[str] = []
        self.day = 0
        self.data: list[int] = list(range(ROWS))
        self.install("1.0")
        self.rows(range(ROWS))

    def add(self, name: str, skill: float | None) -> None:
        """A checkpoint of that skill, None for one that does not load; new, or in place of the one before."""
        place = self.folder / "models" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text("{}")
        values = {"skill": skill, "seed": 7} if skill is not None else {"broken": True}
        (place / "weights.json").write_text(json.dumps(values))
        if name not in self.models:
            self.models.append(name)

    def install(self, version: str) -> None:
        nightly_engine.install(self.folder / "site", version)

    def rows(self, numbers: Any) -> None:
        self.data = list(numbers)
        rows = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}", "id": n} for n in self.data]
        self.file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    @property
    def file(self) -> Path:
        return self.folder / "pairs.jsonl"

    @property
    def words(self) -> list[str]:
        words = ["benchmarks=[pairs]", f"data.pairs={self.file}", f"store={self.folder / 'store'}", "pool=local"]
        for name in self.models:
            words += [f"+models.{name}.path={self.folder / 'models' / name}", f"+models.{name}.family=baseline"]
            words += [f"+models.{name}.engine=tests.nightly_engine"]
        return [*words, "shard_rows=150", "device=cpu"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(provenance, "now", lambda: f"2026-03-{made.day:02d}T02:00:00+00:00")
    yield made
    nightly_engine.INTERRUPTED.clear()


def told(report: dict[str, Any]) -> dict[str, Any]:
    """What a report says, in short; nothing where nothing is different."""
    one = report["benchmarks"][0] if report["benchmarks"] else {}
    found = {
        "scored": report["account"]["scored"],
        "first": one.get("first"),
        "new": one.get("new"),
        "removed": one.get("removed"),
        "recovered": one.get("recovered"),
        "missing": [gap["model"] for gap in one.get("missing", ())],
        "data": (one["data"]["added"], one["data"]["gone"]) if one.get("data") else None,
        "ranks": {place["model"]: (place["before"], place["after"]) for place in one.get("places", ())},
        "up": [
            row["model"] for row in one.get("moved", ()) if row["significant"] and row["cells"][0]["difference"] > 0
        ],
        "down": [
            row["model"] for row in one.get("moved", ()) if row["significant"] and row["cells"][0]["difference"] < 0
        ],
        "by data": [row["model"] for row in one.get("moved", ()) if row["causes"] == ["data"]],
        "alarms": [row["model"] for row in one.get("drifts", ()) if row["alarm"]],
        "holding": [row["model"] for row in one.get("drifts", ()) if not row["alarm"]],
        "regressions": len(report["regressions"]),
        "problems": len(report["problems"]),
    }
    return {name: value for name, value in found.items() if value}


def nothing(world: World) -> None:
    """As the night before."""


def same_day(world: World) -> None:
    world.day -= 1


def set_back(world: World) -> None:
    world.day -= 3


def skill(name: str, value: float | None) -> Callable[[World], None]:
    return lambda world: world.add(name, value)


def remove(name: str) -> Callable[[World], None]:
    return lambda world: world.models.remove(name)


def back(name: str) -> Callable[[World], None]:
    return lambda world: world.models.insert(0, name)


def library(version: str) -> Callable[[World], None]:
    return lambda world: world.install(version)


def rows(*numbers: int) -> Callable[[World], None]:
    return lambda world: world.rows(range(*numbers))


def begin(world: World) -> None:
    world.add("a", 0.9)
    world.add("b", 0.75)


def interrupted(world: World) -> None:
    world.add("d", 0.3)
    nightly_engine.INTERRUPTED.add("d")


def resumed(world: World) -> None:
    nightly_engine.INTERRUPTED.clear()


def folder_gone(world: World) -> None:
    shutil.move(world.folder / "models" / "c", world.folder / "hidden")


def folder_back(world: World) -> None:
    shutil.move(world.folder / "hidden", world.folder / "models" / "c")


def data_gone(world: World) -> None:
    world.file.unlink()


def data_back(world: World) -> None:
    world.rows(world.data)


def upgrade_and_remove(world: World) -> None:
    world.install("3.0")
    world.models.remove("d")


SCRIPT: list[tuple[Callable[[World], None], int, dict[str, Any]]] = [
    (begin, 0, {"first": True, "scored": 800}),
    (nothing, 0, {}),
    (same_day, 0, {}),
    (skill("c", 0.6), 0, {"new": ["c"], "scored": 400}),
    (nothing, 0, {}),
    (skill("c", 0.8), 0, {"up": ["c"], "ranks": {"c": (3, 2), "b": (2, 3)}, "scored": 400}),
    (nothing, 0, {}),
    (
        skill("a", 0.5),
        10,
        {"down": ["a"], "ranks": {"c": (2, 1), "b": (3, 2), "a": (1, 3)}, "scored": 400, "regressions": 1},
    ),
    (nothing, 0, {}),
    (skill("a", 0.9), 0, {"up": ["a"], "ranks": {"a": (3, 1), "c": (1, 2), "b": (2, 3)}}),
    (rows(210), 0, {"data": (10, 0), "by data": ["a", "c", "b"], "scored": 60}),
    (rows(5, 210), 0, {"data": (0, 5), "by data": ["a", "c", "b"]}),
    (nothing, 0, {}),
    (library("1.1"), 0, {"holding": ["a", "c", "b"], "scored": 1230}),
    (library("2.0"), 10, {"alarms": ["a", "c", "b"], "scored": 1230, "regressions": 3}),
    (nothing, 0, {}),
    (library("1.1"), 10, {"alarms": ["a", "c", "b"], "regressions": 3}),
    (remove("c"), 0, {"removed": ["c"], "ranks": {"b": (3, 2)}}),
    (back("c"), 0, {"new": ["c"], "ranks": {"b": (2, 3)}}),
    (skill("b", None), 20, {"missing": ["b"], "problems": 1}),
    (nothing, 20, {"missing": ["b"], "problems": 1}),
    (skill("b", 0.4), 10, {"recovered": ["b"], "down": ["b"], "scored": 410, "regressions": 1}),
    (interrupted, 130, {}),
    (resumed, 0, {"new": ["d"], "scored": 260}),
    (folder_gone, 20, {"missing": ["c"], "problems": 1, "ranks": {"b": (3, 2), "d": (4, 3)}}),
    (folder_back, 0, {"recovered": ["c"], "ranks": {"b": (2, 3), "d": (3, 4)}}),
    (data_gone, 20, {"problems": 1}),
    (data_back, 0, {}),
    (
        upgrade_and_remove,
        10,
        {"removed": ["d"], "alarms": ["a", "c", "b"], "scored": 1230, "regressions": 5, "down": ["a", "c"]},
    ),
    (set_back, 0, {}),
]


def night(words: list[str]) -> int:
    """The exit code of one night."""
    try:
        return main(["nightly", *words])
    except SystemExit as stopped:
        return int(str(stopped.code))


def files(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_thirty_nights_in_a_row(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SCRIPT) == 30
    store = open_store(str(world.folder / "store"))
    kept: dict[str, str] = {}
    previous = None
    for number, (change, code, expected) in enumerate(SCRIPT, 1):
        world.day += 1
        change(world)
        assert night(world.words) == code, f"night {number}: {capsys.readouterr()}"
        said = capsys.readouterr()
        assert said.out.count("\n") == 1, said.out
        assert "Traceback" not in said.err
        assert json.loads(store.load("nightly/lease.json") or b"")["free"] is True
        finished = nights(store)[1]
        if code == 130:
            assert finished[-1] == previous
            continue
        report = json.loads(store.load(f"nightly/{finished[-1]}/report.json") or b"")
        assert told(report) == expected, f"night {number}: {change}"
        assert (report["night"], report["previous"], report["exit_code"]) == (finished[-1], previous, code)
        assert said.out.startswith(f"nightly {finished[-1]}: {report['state']}; ")
        previous = finished[-1]
        now = files(world.folder / "store" / "nightly")
        assert {name: now[name] for name in kept} == kept, "an earlier night's file has changed"
        kept = {name: value for name, value in now.items() if "/" in name}
    assert "the clock says" in said.err
    history_of(load_snapshot(store, previous or ""), finished)


def history_of(last: Any, finished: list[str]) -> None:
    """The history holds every night, and each model's way through them."""
    assert list(last.history.nights) == finished == sorted(finished, key=night_key)
    assert finished[1:3] == ["2026-03-02", "2026-03-02.2"]
    assert finished[-2:] == ["2026-03-28", "2026-03-28.2"]
    assert last.history.lines["pairs"].keys() == {"a", "b", "c", "d"}
    overalls = [point and point.overall for point in last.history.values("pairs", "a")]
    assert None not in overalls[:25]
    assert overalls.count(None) == 1, "the night without data"
    fallen = [place for place, (one, two) in enumerate(pairwise(overalls)) if one and two and two < one - 0.2]
    assert fallen[0] == 6
    gone = [point and point.overall for point in last.history.values("pairs", "d")]
    assert gone[:22] == [None] * 22
    assert gone[-2:] == [None, None]
