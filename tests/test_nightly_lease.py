"""The lease between real processes: one wins, the dead are taken over, the overtaken learn of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator import lease
from orchestrator.lease import LeaseHeld, LeaseLost, hold
from orchestrator.stores import open_store
from orchestrator.stores.parquet import ParquetStore
from tests.conftest import ROOT
from workers.errors import StoreError

PATH = "nightly/lease.json"
BEAT, PATIENCE = 0.1, 2.0

HOLDER = f"""
import sys, time
from orchestrator.lease import LeaseHeld, hold
from orchestrator.stores import open_store
try:
    with hold(open_store(sys.argv[1]), {PATH!r}, {BEAT}, {PATIENCE}):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except LeaseHeld as error:
    print(f"refused: {{error}}", flush=True)
"""


class Processes:
    """Processes that want the lease of one store."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._started: list[subprocess.Popen[str]] = []

    def start(self, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-c", HOLDER, self.uri, str(seconds)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.communicate()


@pytest.fixture(params=["folder", "bucket"])
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Processes]:
    bucket = request.getfixturevalue("bucket") if request.param == "bucket" else None
    made = Processes(f"s3://{bucket}/scores" if bucket else str(tmp_path / "store"))
    yield made
    made.close()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_of_processes_that_race_one_holds_and_the_others_say_by_whom(processes: Processes) -> None:
    racing = [processes.start(6) for _ in range(4)]
    lines = [said(process) for process in racing]
    winners = [process for process, line in zip(racing, lines, strict=True) if line == "held\n"]
    assert len(winners) == 1, lines
    for line in lines:
        assert line == "held\n" or line.startswith("refused: another night ")
        assert line == "held\n" or f"process {winners[0].pid} on " in line


def test_a_holder_that_was_killed_is_taken_over_by_one_of_those_that_wait(processes: Processes) -> None:
    dead = processes.start(60)
    assert said(dead) == "held\n"
    dead.kill()
    dead.wait()
    left = json.loads(open_store(processes.uri).load(PATH) or b"")
    assert left["free"] is False
    started = time.monotonic()
    waiting = [processes.start(6) for _ in range(3)]
    lines = [said(process) for process in waiting]
    assert sorted(line == "held\n" for line in lines) == [False, False, True], lines
    assert time.monotonic() - started >= PATIENCE, "taken over before its time"


def test_a_living_holder_keeps_it_however_long_it_works(processes: Processes) -> None:
    holder = processes.start(3 * PATIENCE)
    assert said(holder) == "held\n"
    time.sleep(1.5 * PATIENCE)
    late = processes.start(0)
    assert said(late).startswith(f"refused: another night is at work: process {holder.pid} on ")
    assert holder.wait() == 0
    assert said(processes.start(0)) == "held\n"


def test_a_holder_that_slept_too_long_learns_that_it_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted: list[int] = []
    monkeypatch.setattr(lease._thread, "interrupt_main", interrupted.append)
    store = open_store(str(tmp_path / "store"))
    with hold(store, PATH, beat=0.05, patience=PATIENCE) as ours:
        ours.check()
        theirs = lease.Holder("other", "elsewhere", 7, "2026-01-01T00:00:00+00:00")
        while not store.replace(PATH, theirs.encoded(), store.load(PATH) or b""):
            pass  # our own beat was faster
        until = time.monotonic() + 10
        while not interrupted and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(LeaseLost, match="held by process 7 on elsewhere since 2026-01-01"):
            ours.check()
    assert interrupted == [signal.SIGTERM]
    assert store.load(PATH) == theirs.encoded(), "what is another's is not given back"


class Flaky:
    """A store whose conditional writes fail, and of which some were done all the same."""

    def __init__(self, store: ParquetStore) -> None:
        self._store = store
        self.failing: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def replace(self, path: str, content: bytes, expected: bytes) -> bool:
        how = self.failing.pop(0) if self.failing else "well"
        done = how == "lost" or self._store.replace(path, content, expected)
        if how != "well":
            raise StoreError("the store does not answer")
        return done


def test_a_store_that_fails_for_a_moment_costs_no_lease(store: ParquetStore) -> None:
    flaky = Flaky(store)
    with hold(flaky, PATH, beat=0.02, patience=PATIENCE) as ours:  # type: ignore[arg-type]
        flaky.failing += ["lost", "unheard", "lost", "unheard", "unheard"]
        until = time.monotonic() + 10
        while (flaky.failing or json.loads(store.load(PATH) or b"")["beat"] <= 3) and time.monotonic() < until:
            time.sleep(0.01)
        ours.check()
        assert json.loads(store.load(PATH) or b"")["beat"] > 3
    assert json.loads(store.load(PATH) or b"")["free"] is True


def test_a_store_that_fails_for_good_costs_the_lease(store: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease._thread, "interrupt_main", lambda number: None)
    flaky = Flaky(store)
    with hold(flaky, PATH, beat=0.02, patience=0.3) as ours:  # type: ignore[arg-type]
        flaky.failing += ["lost"] * 1000
        until = time.monotonic() + 10
        while ours._lost is None and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(LeaseLost, match="does not answer"):
            ours.check()


def test_a_lease_that_was_given_back_is_had_at_once(store: ParquetStore) -> None:
    def no_sleep(seconds: float) -> None:
        raise AssertionError("a free lease needs no watching")

    for _ in range(3):
        with hold(store, PATH, sleep=no_sleep):
            pass


def test_giving_back_while_another_watches_lets_it_in(store: ParquetStore) -> None:
    first = hold(store, PATH, beat=60)
    first.__enter__()
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        first.__exit__(None, None, None)

    with hold(store, PATH, patience=60, sleep=sleep) as second:
        second.check()
    assert len(pauses) == 1


def test_a_damaged_lease_is_named(store: ParquetStore) -> None:
    store.save(PATH, b"{}")
    with (
        pytest.raises(StoreError, match=r"nightly/lease.json is damaged; remove it if no night is at work"),
        hold(store, PATH),
    ):
        pass


def test_beats_are_seen_as_life(store: ParquetStore) -> None:
    beats = iter(range(1, 100))
    holder = lease.Holder("other", "elsewhere", 7, "2026-01-01T00:00:00+00:00")
    store.save(PATH, holder.encoded())

    def beat(seconds: float) -> None:
        store.save(PATH, lease.replace(holder, beat=next(beats)).encoded())

    with (
        pytest.raises(LeaseHeld, match="another night is at work: process 7 on elsewhere"),
        hold(store, PATH, sleep=beat),
    ):
        pass
