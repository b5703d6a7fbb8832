"""What gc may remove: never what a run that stays refers to, nor the newest of anything."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.records import Account, Outcome, Run, latest_models
from orchestrator.retention import RUNNING, Policy, kept_runs, superfluous, useless_indexes
from tests.conftest import Cli
from tests.refusals import files_below
from tests.store_rows import SPEC
from workers.protocol import Model

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SPECS = [replace(SPEC, name=f"model-{number}", weights=f"sha256:{number}") for number in range(4)]


def run(number: int, models: list[int], rows: str = "a", days: float = 100, state: str | None = "done") -> Run:
    """A run that began so many days ago."""
    started = (NOW - timedelta(days=days)).isoformat()
    outcome = None if state is None else Outcome(state, started, Account(0, 0, 0, 0, 0), ())
    asked = tuple(Model(f"model-{one}", "scalar", (SPECS[one],)) for one in models)
    return Run(f"run-{number:03}", started, asked, {"demo": rows}, 0, 0, {}, outcome=outcome)


def ids(runs: list[Run]) -> list[int]:
    return [int(one.id[-3:]) for one in runs]


def test_without_a_policy_every_run_stays() -> None:
    runs = [run(number, [0]) for number in range(5)]
    assert kept_runs(runs, Policy(), NOW) == runs


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(keep_runs=1), [4]),
        (Policy(keep_runs=3), [2, 3, 4]),
        (Policy(keep_runs=99), [0, 1, 2, 3, 4]),
        (Policy(keep_days=25), [3, 4]),
        (Policy(keep_days=0), [4]),
        (Policy(keep_runs=3, keep_days=15), [2, 3, 4]),
        (Policy(keep_runs=1, keep_days=25), [3, 4]),
    ],
)
def test_the_newest_and_the_youngest_stay(policy: Policy, expected: list[int]) -> None:
    runs = [run(number, [0], days=50 - 10 * number) for number in range(5)]
    assert ids(kept_runs(runs, policy, NOW)) == expected


def test_the_newest_of_each_model_rows_and_outcome_stays() -> None:
    runs = [run(0, [1]), run(1, [0]), run(2, [0], "b"), run(3, [0], state="aborted"), run(4, [0], "b")]
    assert ids(kept_runs(runs, Policy(keep_runs=1), NOW)) == [0, 3, 4]
    refused = replace(run(5, []), models=(Model("model-1", "scalar", ()),))
    assert ids(kept_runs([*runs, refused], Policy(keep_runs=1), NOW)) == [0, 3, 4, 5]


def test_the_jobs_of_a_multirun_stay_or_go_together_and_so_does_their_event_log() -> None:
    jobs = [replace(run(number // 2, [0]), id=f"run-{number // 2:03}.{number % 2}") for number in range(6)]
    kept = kept_runs(jobs, Policy(keep_runs=2), NOW)
    assert [one.id for one in kept] == ["run-001.0", "run-001.1", "run-002.0", "run-002.1"]
    events = {f"runs/run-{number:03}/events/000000.parquet": 1 for number in range(3)}
    assert superfluous(events, jobs, kept) == []
    later = superfluous(events, kept, kept)
    assert [item.path for item in later] == ["runs/run-000/events/000000.parquet"]


def night(store: Path, benchmark: str, rows: str, *streams: str) -> Path:
    """A snapshot as `rewardsweep nightly` leaves it, with what gc asks of it."""
    standing = {"night": "2026-01-31", "family": "scalar", "streams": streams, "data_hash": rows, "overall": 0.5}
    path = store / "nightly" / "2026-01-31" / "snapshot.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema": 1, "standings": {benchmark: {"longest": standing}}}))
    return path


def test_what_a_night_refers_to_stays_and_a_damaged_one_stops_gc(cli: Cli, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "store.json").write_text('{"schema": 1}')
    held = ("models/m.json", "models/n.json", "benchmarks/demo/r.parquet")
    others = ("models/x.json", "benchmarks/demo/x.parquet", "benchmarks/pairs/r.parquet")
    for path in (*held, *others):
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).write_text("{}")
    snapshot = night(store, "demo", "r", "m", "n")
    words = ("gc", f"store={store}", "grace_hours=0", "apply=true")
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    left = {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}
    assert left == {"store.json", *held, str(snapshot.relative_to(store))}
    for spoilt in ("", "[]", '{"standings": {"demo": {"longest": {"streams": null}}}}'):
        snapshot.write_text(spoilt)
        done = cli(*words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "nightly/2026-01-31/snapshot.json is damaged or of another version" in done.stderr
        assert all((store / path).exists() for path in held)


def test_gc_leaves_what_nights_stand_on(cli: Cli, tmp_path: Path) -> None:
    store = tmp_path / "s"
    assert cli("nightly", "model=[longest,random]", "benchmarks=[demo]", "pool=local", f"store={store}").returncode == 0
    assert cli("nightly", "model=[longest]", "benchmarks=[demo]", "pool=local", f"store={store}").returncode == 0
    shutil.rmtree(store / "runs")  # nothing but the nights refers to anything now
    before = files_below(store / "nightly").keys() | files_below(store / "models").keys()
    swept = cli("gc", f"store={store}", "keep_runs=1", "grace_hours=0", "apply=true")
    assert swept.returncode == 0, swept.stderr
    assert files_below(store / "nightly").keys() | files_below(store / "models").keys() == before
    again = cli("nightly", "model=[longest,random]", "benchmarks=[demo]", "pool=local", f"store={store}")
    assert again.returncode == 0, again.stderr
    assert "0 of 404 measurements scored" in again.stdout


def test_a_run_that_may_still_be_running_stays() -> None:
    runs = [run(0, [0], days=RUNNING.days + 1, state=None), run(1, [0], days=1, state=None), run(2, [0], state=None)]
    assert ids(kept_runs(runs, Policy(keep_runs=1), NOW)) == [1, 2]


RUNS = st.lists(
    st.builds(
        run,
        st.just(0),
        st.lists(st.integers(0, 3), max_size=3, unique=True),
        st.sampled_from("abc"),
        st.floats(0, 200),
        st.sampled_from(["done", "aborted", None]),
    ),
    max_size=8,
)


@given(found=RUNS, count=st.none() | st.integers(1, 4), days=st.none() | st.floats(0, 100))
def test_the_leaderboard_is_the_same_and_all_that_it_needs_is_there(
    found: list[Run], count: int | None, days: float | None
) -> None:
    runs = [replace(one, id=f"run-{number:03}") for number, one in enumerate(found)]
    kept = kept_runs(runs, Policy(count, days), NOW)
    assert latest_models(kept, "demo") == latest_models(runs, "demo")
    files = {f"runs/{one.id}/{name}.json": 1 for one in runs for name in ("run", "outcome")}
    files |= {f"models/{spec.fingerprint}.json": 1 for spec in SPECS}
    files |= {f"benchmarks/demo/{rows}.parquet": 1 for rows in "abc"}
    others = {"store.json": 1, "measurements/x/y.parquet": 1, "nightly/2026/x.json": 1, "imports/demo/x.json": 1}
    gone = [item.path for item in superfluous(files | others, runs, kept)]
    left = files.keys() - set(gone)
    assert len(gone) == len(set(gone))
    assert not set(gone) & others.keys()
    for one in kept:
        assert {f"runs/{one.id}/run.json", f"runs/{one.id}/outcome.json"} <= left
        assert {f"models/{spec.fingerprint}.json" for model in one.models for spec in model.streams} <= left
        assert f"benchmarks/demo/{one.benchmarks['demo']}.parquet" in left
    assert not [path for path in left if path.startswith("runs/") and path.split("/")[1] not in {x.id for x in kept}]
    runs_first = [path.endswith("/run.json") for path in gone]
    assert runs_first == sorted(runs_first, reverse=True)


def test_leftovers_of_removed_runs_and_of_lost_fingerprints_may_go() -> None:
    files = ("runs/gone/outcome.json", "runs/gone/events/000001.parquet", "runs/odd/notes.txt", "runs/events/x.parquet")
    found = superfluous(dict.fromkeys(files, 1), [], [])
    assert {item.path for item in found} == set(files[:2])
    assert [item.path for item in useless_indexes({"index/a": 1, "index/b": 2, "x/b": 3}, {"a"})] == ["index/b"]


def aged(store: Path) -> None:
    """Make every file of a store two days old."""
    then = time.time() - 48 * 3600
    for path in store.rglob("*"):
        os.utime(path, (then, then))


def test_the_verbs_name_first_and_remove_when_told(cli: Cli, tmp_path: Path) -> None:
    store = tmp_path / "store"
    words = ["benchmarks=[demo]", f"store={store}", "pool=local", "shard_rows=20"]
    assert cli("run", "model=[longest]", *words).returncode == 0
    before = cli("run", "model=[longest]", *words).stdout
    (store / "measurements" / ".x-unfinished").write_bytes(b"half")
    (store / "models" / "unknown.json").write_text("{}")
    compacted = cli("compact", f"store={store}", "output=json")
    assert json.loads(compacted.stdout)["parts"] > 5
    young = json.loads(cli("gc", f"store={store}", "keep_runs=1", "output=json").stdout)
    assert young == {"removed": False, "files": []}
    aged(store)
    cli("compact", f"store={store}")
    parts = list((store / "measurements").rglob("*.parquet"))
    dry = cli("gc", f"store={store}", "keep_runs=1", "grace_hours=0", "output=json")
    named = {item["path"] for item in json.loads(dry.stdout)["files"]}
    assert {"measurements/.x-unfinished", "models/unknown.json"} <= named
    assert sum(path.startswith("measurements/") for path in named) == len(parts)
    first = sorted(path.name for path in (store / "runs").iterdir())[0]
    files = {str(path.relative_to(store)) for path in (store / "runs" / first).rglob("*.*")}
    assert {f"runs/{first}/events/000000.parquet", f"runs/{first}/run.json"} <= files
    assert {path for path in named if path.startswith("runs/")} == files
    assert all((store / path).exists() for path in named)
    done = cli("gc", f"store={store}", "keep_runs=1", "grace_hours=0", "apply=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("removed")
    assert not any((store / path).exists() for path in named)
    assert len(list((store / "measurements").rglob("*.parquet"))) == 1
    again = cli("run", "model=[longest]", *words)
    assert "nothing to score" in again.stderr
    assert again.stdout == before
    assert cli("verify", f"store={store}").returncode == 0


@pytest.mark.parametrize(
    "word", ["apply=1", "apply=yes please", "keep_runs=0", "keep_runs=x", "keep_days=-1", "grace_hours=.inf"]
)
def test_a_wrong_value_is_one_line(cli: Cli, tmp_path: Path, word: str) -> None:
    done = cli("gc", f"store={tmp_path}", word)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"error: {word.split('=', maxsplit=1)[0]}=" in done.stderr


@pytest.mark.parametrize(
    ("verb", "word", "message"),
    [
        ("compact", "apply=true", "compact: apply says what `rewardsweep gc` removes; leave it out, or use gc"),
        *(
            (verb, "output=csv", "output=csv: must be one of text, json")
            for verb in ("compact", "gc", "status", "verify")
        ),
    ],
)
def test_what_a_verb_does_not_do_is_one_line(cli: Cli, tmp_path: Path, verb: str, word: str, message: str) -> None:
    done = cli(verb, f"store={tmp_path}", word)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
