"""The event log: what pieces hold, what the last of them says, and that no fault of it ends a sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import driver, eventlog, live
from orchestrator.driver import Pool
from orchestrator.eventlog import Recorder
from orchestrator.events import (
    Assign,
    Capacity,
    Check,
    Command,
    Done,
    Event,
    Fetch,
    GpuChecked,
    Lint,
    Linted,
    Load,
    Lost,
    Node,
    NodeDraining,
    NodeJoined,
    NodeLost,
    Ready,
    Stop,
)
from orchestrator.plan import Plan, StreamPlan
from orchestrator.records import Run
from orchestrator.scheduler import Scheduler
from orchestrator.stores import open_store
from orchestrator.stores.parquet import ParquetStore
from orchestrator.tally import Snapshot, Tally
from orchestrator.telemetry import METRICS, ROWS, samples
from orchestrator.timeline import stays
from tests.conftest import ROOT, Cli
from workers.errors import StoreError
from workers.protocol import Message, ModelSpec, Request, Shard, ShardReport

RUN = "20260101T000000-abcdef"
ROWS_A_SHARD = 2


def todo(models: int, shards: int, gpus: int = 1) -> Plan:
    """A plan over nothing real."""
    streams = {}
    for number in range(models):
        spec = ModelSpec(f"m{number}", "p", f"w{number}", "scalar", "1", "transformers", "1", (), gpus=gpus)
        asked = [Request("reward", (Message("user", "q"),), (f"{row}",)) for row in range(shards * ROWS_A_SHARD)]
        cut = tuple(
            Shard(f"{number}-{at}", spec.fingerprint, tuple(asked[at * ROWS_A_SHARD : (at + 1) * ROWS_A_SHARD]))
            for at in range(shards)
        )
        streams[spec.fingerprint] = StreamPlan(spec, len(asked), tuple(asked), ("s",) * len(asked), "new", cut)
    return Plan(streams)


def gpus(count: int) -> Capacity:
    """One machine."""
    return Capacity((Node("n", 0, count, ""),))


class Played(Pool):
    """A pool that answers at once; each answer takes a second of a clock of its own, and every `lost`-th is a death."""

    why = "gone"

    def __init__(self, clock: list[float], capacity: Capacity, lost: int = 0) -> None:
        self.clock, self._capacity, self._lost = clock, capacity, lost
        self.answers: list[Event] = []
        self.scored = 0

    def perform(self, command: Command) -> None:
        match command:
            case Lint(worker, _):
                self.answers.append(Linted(worker, ()))
            case Load(worker):
                self.answers.append(Ready(worker, 1.0))
            case Assign(worker, shard):
                self.scored += 1
                died = self._lost and self.scored % self._lost == 0
                report = ShardReport(len(shard.requests), 10, 0.5, 0, flops=40, peak=100.0, ooms=1)
                self.answers.append(Lost(worker, self.why, preempted=True) if died else Done(worker, shard.id, report))
            case Stop(worker):
                self._forget(worker)

    def next_event(self, timeout: float) -> Event | None:
        self.clock[0] += 1.0
        time.sleep(0.002)  # so that the thread which writes has its turn
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Lost):
            self._forget(answer.worker)  # what it had ahead dies with it
        return answer

    def _forget(self, worker: int) -> None:
        self.answers = [answer for answer in self.answers if getattr(answer, "worker", None) != worker]

    def capacity(self) -> Capacity:
        return self._capacity

    def close(self) -> None:
        """Holds nothing."""


def sweep(
    store: Any, plan: Plan, pool: Played, monkeypatch: pytest.MonkeyPatch, prices: dict[str, float] | None = None
) -> list[Snapshot]:
    """Drive the plan to its end under the recorder; the snapshots that were published."""
    shown: list[Snapshot] = []
    monkeypatch.setattr("orchestrator.eventlog.time.monotonic", lambda: pool.clock[0])
    scheduler = Scheduler(plan.streams.values(), pool.capacity())
    with Recorder(store, RUN, plan, scheduler, shown.append, prices or {}) as recorder:
        driver.run(scheduler, recorder.watching(pool), recorder.observe)
    return shown


@pytest.mark.parametrize("lost", [0, 5])
def test_the_last_piece_says_what_all_rows_add_up_to(
    store: ParquetStore, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    plan = todo(models=3, shards=10, gpus=2)
    shown = sweep(store, plan, Played([0.0], gpus(4), lost), monkeypatch, {"gpu": 3.6})
    table, damaged = eventlog.read(store, RUN)
    rows = table.to_pylist()
    last = eventlog.latest(store, RUN)
    assert damaged == []
    assert last == shown[-1]
    assert last is not None
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    done = [row for row in rows if row["event"] == "done"]
    assert len({row["shard"] for row in done}) == len(done) == 30
    assert last.sum("done") == sum(row["rows"] for row in done) == 60
    assert last.sum("tokens") == sum(row["tokens"] for row in done)
    assert last.sum("ooms") == sum(row["ooms"] for row in done) == 30
    assert last.sum("retries") == sum(row["event"] == "lost" for row in rows)
    assert (last.sum("left"), last.sum("queue"), last.workers, last.state) == (0, 0, (), "done")
    assert last.gpu_seconds == pytest.approx(_held(rows))
    assert last.dollars == pytest.approx(last.gpu_seconds / 3600 * 3.6)
    for stream in last.streams:
        assert stream.flops / stream.possible == pytest.approx(40 / (100 * 0.5 * 2))


def _held(rows: list[dict[str, Any]]) -> float:
    """GPU seconds from the first to the last row of each worker."""
    times: dict[int, list[float]] = {}
    for row in rows:
        if row["worker"] is not None:
            times.setdefault(row["worker"], []).append(row["at"])
    return sum(max(seen) - min(seen) for seen in times.values()) * 2


def test_no_reason_in_the_log_holds_a_secret(local: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh12345678")
    monkeypatch.setattr(Played, "why", "refused: hf_abcdefgh12345678")
    sweep(local, todo(1, 12), Played([0.0], gpus(1), lost=5), monkeypatch)
    reasons = {row["reason"] for row in eventlog.read(local, RUN)[0].to_pylist()}
    assert reasons == {None, "preempted: refused: ***"}


def test_what_is_done_to_machines_is_a_row_without_a_worker() -> None:
    plan = todo(1, 1)
    [stream] = plan.streams.values()
    tally = Tally(plan, 0.0, {})
    said = [tally.command(Check("n"), 1.0), tally.command(Fetch(stream.spec, "n"), 2.0)]
    said += [tally.event(event, 3.0) for event in (NodeJoined(Node("n", 1, 1, "")), NodeDraining("n", 30.0))]
    said += [tally.event(event, 4.0) for event in (NodeLost("n", "gone"), GpuChecked("n", healthy=False))]
    assert [row["event"] for row in said] == ["check", "fetch", "nodejoined", "nodedraining", "nodelost", "gpuchecked"]
    assert {row["node"] for row in said} == {"n"}
    table = pa.Table.from_pylist(said, schema=eventlog.SCHEMA)
    assert table["reason"].to_pylist()[-2:] == ["gone", "broken"]
    assert stays(table.to_pylist()) == []


def test_a_price_that_is_not_known_is_no_zero(local: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    [*_, last] = sweep(local, todo(1, 2), Played([0.0], gpus(1)), monkeypatch)
    assert last.gpu_seconds > 0
    assert last.dollars is None


class Refusing:
    """A store that does not take the first pieces."""

    def __init__(self, store: ParquetStore, refused: int) -> None:
        self._store, self.refused, self.asked = store, refused, 0

    def save(self, path: str, content: bytes) -> str:
        self.asked += 1
        if self.asked <= self.refused:
            raise StoreError("the store is full")
        return self._store.save(path, content)


def test_a_store_that_refuses_is_said_once_and_loses_no_row(
    local: ParquetStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusing = Refusing(local, 3)
    pool = Played([0.0], gpus(1))
    sweep(refusing, todo(1, 60), pool, monkeypatch)
    assert refusing.asked > 4
    assert capsys.readouterr().err.count("warning: the event log falls behind") == 1
    rows = eventlog.read(local, RUN)[0].to_pylist()
    assert sum(row["event"] == "done" for row in rows) == 60
    assert rows[0]["event"] == "start"


def test_a_store_that_never_takes_a_piece_ends_no_sweep(local: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    [*_, last] = sweep(Refusing(local, 10**9), todo(1, 60), Played([0.0], gpus(1)), monkeypatch)
    assert last.sum("done") == 120
    assert eventlog.latest(local, RUN) is None


def test_a_slow_store_holds_up_no_worker(local: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    class Slow:
        def save(self, path: str, content: bytes) -> str:
            assert gate.wait(30)
            return local.save(path, content)

    plan, pool = todo(1, 200), Played([0.0], gpus(1))
    scheduler = Scheduler(plan.streams.values(), pool.capacity())
    monkeypatch.setattr("orchestrator.eventlog.time.monotonic", lambda: pool.clock[0])
    with Recorder(Slow(), RUN, plan, scheduler, lambda seen: None, {}) as recorder:  # type: ignore[arg-type]
        driver.run(scheduler, recorder.watching(pool), recorder.observe)
        gate.set()
    assert sum(row["event"] == "done" for row in eventlog.read(local, RUN)[0].to_pylist()) == 200


def test_rows_that_wait_have_a_limit(local: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "KEPT_ROWS", 100)
    monkeypatch.setattr(eventlog, "PIECE_ROWS", 50)
    plan, pool = todo(1, 500), Played([0.0], gpus(1))
    scheduler = Scheduler(plan.streams.values(), pool.capacity())
    recorder = Recorder(Refusing(local, 10**9), RUN, plan, scheduler, lambda seen: None, {})  # type: ignore[arg-type]
    most = 0

    def observe(event: Event | None) -> None:
        nonlocal most
        recorder.observe(event)
        under_way = recorder._writing[1] if recorder._writing else []
        most = max(most, len(recorder._rows) + len(under_way))

    with recorder:
        driver.run(scheduler, recorder.watching(pool), observe)
    assert 50 <= most <= 250, "of more than a thousand"


def test_a_damaged_piece_is_named_and_the_one_before_it_counts(
    local: ParquetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = sweep(local, todo(1, 30), Played([0.0], gpus(1)), monkeypatch)
    pieces = local.list(f"runs/{RUN}/events")
    assert len(pieces) >= 2
    local.save(pieces[-1], b"no parquet")
    _, damaged = eventlog.read(local, RUN)
    assert damaged == [pieces[-1]]
    before = eventlog.latest(local, RUN)
    assert before is not None
    assert before.at < shown[-1].at


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5),
)
def test_metrics_say_what_a_snapshot_says(counts: list[tuple[int, int, int]]) -> None:
    from orchestrator.tally import StreamCount

    streams = tuple(
        StreamCount("same" if at % 2 else f"m{at}", f"f{at}", 70, 60, done=done, failed=failed, quarantined=bad)
        for at, (done, failed, bad) in enumerate(counts)
    )
    found = samples(Snapshot(RUN, "running", 0.0, 9.0, 5.0, None, streams, ()))
    assert {sample.metric for sample in found} <= set(METRICS)
    keys = [(sample.metric, sample.labels) for sample in found]
    assert len(set(keys)) == len(keys), "one value a series"
    rows = [sample for sample in found if sample.metric == ROWS]
    for state, column in (("scored", 0), ("failed", 1), ("quarantined", 2)):
        assert sum(s.value for s in rows if s.labels[1] == state) == sum(count[column] for count in counts)
    assert all(len(sample.labels) == len(sample.metric.labels) for sample in found)
    left = sum(max(0, 60 - sum(count)) for count in counts)
    progress = next(s.value for s in found if s.metric.name == "rewardsweep_sweep_progress")
    assert progress == pytest.approx(1 - left / (70 * len(counts)))


def test_metric_names_are_those_that_dashboards_were_promised() -> None:
    assert {metric.name: metric.labels for metric in METRICS} == {
        "rewardsweep_rows_total": ("model", "state"),
        "rewardsweep_tokens_total": ("model",),
        "rewardsweep_mfu": ("model",),
        "rewardsweep_ooms_total": ("model",),
        "rewardsweep_retries_total": ("model",),
        "rewardsweep_queue_shards": ("model",),
        "rewardsweep_gpu_seconds_total": ("model", "kind", "phase"),
        "rewardsweep_dollars_total": ("model",),
        "rewardsweep_sweep_progress": (),
        "rewardsweep_owed_rows": (),
        "rewardsweep_last_event_timestamp_seconds": (),
    }
    assert all(metric.name.endswith("_total") == (metric.type == "counter") for metric in METRICS)


def test_an_old_sign_of_life_is_said_plainly(local: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    [*_, last] = sweep(local, todo(1, 3), Played([0.0], gpus(1)), monkeypatch)
    run = Run(RUN, "", (), {}, 6, 0, {})
    fresh, old = live.standing(local, run, last.at + 5), live.standing(local, run, last.at + 3600)
    assert fresh is not None
    assert old is not None
    assert not fresh.silent
    assert old.silent
    said = "\n".join(old.lines())
    assert "no sign of life for 1 h 00 min: the driver is probably dead" in said
    assert "probably dead" not in "\n".join(fresh.lines())


def start(words: list[str], store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "orchestrator", "run", *words, f"store={store}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_status_follows_a_run_and_its_death(
    cli: Cli, tmp_path: Path, write_pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"q{row}", "chosen": f"good {row}", "rejected": f"bad {row}"} for row in range(400)]
    slow = [
        "+models.slow.family=baseline",
        "+models.slow.engine=tests.sleepy_engine",
        "+models.slow.options.seconds=0.1",
    ]
    words = [*slow, "benchmarks=[pairs]", f"data.pairs={write_pairs(rows)}", "pool=local", "shard_rows=1"]
    process = start(words, tmp_path / "s")
    deadline = time.monotonic() + 60
    seen: dict[str, Any] | None = None
    while time.monotonic() < deadline and not (seen and seen["done"]):
        time.sleep(1)
        done = cli("status", f"store={tmp_path / 's'}", "output=json")
        seen = json.loads(done.stdout)["now"] if done.returncode == 0 else None
    assert seen is not None
    assert (seen["state"], seen["silent"], len(seen["workers"])) == ("running", False, 1)
    assert 0 < seen["done"] < seen["owed"] == 800
    assert seen["rate"] > 0
    assert 0 < seen["seconds_left"] < 800
    text = cli("status", f"store={tmp_path / 's'}").stdout
    for part in ("running; began", "rows/s", "left; cost so far", "runs: slow: 1 scoring"):
        assert part in text, text
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = open_store(str(tmp_path / "s"))
    last = eventlog.latest(store, seen["run"])
    assert last is not None
    for piece in store.list(f"runs/{seen['run']}/events"):
        assert pq.read_schema(tmp_path / "s" / piece).equals(eventlog.SCHEMA, check_metadata=False)
    aged = live.standing(store, Run(seen["run"], "", (), {}, 1, 0, {}), last.at + 600)
    assert aged is not None
    assert aged.silent
