"""The event log of a run: what workers were told and what happened, in small immutable Parquet pieces.

    runs/<run id>/events/<number>.parquet    rows since the piece before; the footer holds a snapshot of the whole run

So the last piece alone says how a run stands, from any machine, and all of them say how it went. The driver keeps what
it has not written yet and no more. That a piece cannot be written is said once and never ends a sweep: its rows wait
for the next one, up to a limit.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.driver import Pool
from orchestrator.events import Capacity, Command, Event, Fetch, Tick, Want
from orchestrator.plan import Plan
from orchestrator.progress import say
from orchestrator.scheduler import Scheduler
from orchestrator.stores import Store
from orchestrator.tally import Snapshot, Tally
from workers import logs
from workers.errors import first_line

SCHEMA = pa.schema(
    [
        pa.field("at", pa.float64(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("worker", pa.int64()),
        pa.field("model", pa.string()),
        pa.field("stream", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("node", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("gpus", pa.float64()),
        pa.field("rows", pa.int64()),
        pa.field("tokens", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("flops", pa.float64()),
        pa.field("ooms", pa.int64()),
        pa.field("reason", pa.string()),
    ]
)
FOOTER = b"rewardsweep"
BEAT_SECONDS = 5.0
"""Between snapshots: what metrics show is never older."""
FIRST_SECONDS, MOST_SECONDS, SHARE = 5.0, 60.0, 100
"""Between pieces: a hundredth of the run's age within these bounds, so that a day is some 1,500 pieces."""
PIECE_ROWS, KEPT_ROWS = 20_000, 100_000
"""Rows that are written at once, and that are kept while the store cannot be written."""
LAST_SECONDS = 30.0
"""How long the end of a run waits for the last piece."""

Publish = Callable[[Snapshot], None]


class Recorder:
    """Keeps the event log of one run. A context manager, so that the last piece is written whatever happens."""

    def __init__(
        self, store: Store, run: str, todo: Plan, scheduler: Scheduler, publish: Publish, prices: Mapping[str, float]
    ) -> None:
        self._store, self._run, self._scheduler, self._publish = store, run, scheduler, publish
        self._wall, self._steady = time.time(), time.monotonic()  # a clock that jumps must not bend durations
        self._tally = Tally(todo, self._wall, prices)
        self._rows: list[dict[str, Any]] = []
        self._number = 0
        self._beaten = self._written = float("-inf")
        self._writer = ThreadPoolExecutor(1, "events")
        self._writing: tuple[Future[None], list[dict[str, Any]]] | None = None
        self._warned = False
        self.state = "running"

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.state == "running":
            self.state = "interrupted" if kind is not None else "done"
        self._collect(LAST_SECONDS)
        self._write(self._snapshot())
        self._collect(LAST_SECONDS)
        self._writer.shutdown(wait=False, cancel_futures=True)

    def watching(self, pool: Pool) -> Pool:
        """The pool, with every command recorded before it is performed, and a beat before every wait."""
        return _Watched(pool, self)

    def perform(self, command: Command | Fetch) -> None:
        """Record a command."""
        self._add(self._tally.command(command, self._now()))

    def observe(self, event: Event | None) -> None:
        """Record an event, if there is one."""
        if event is not None and not isinstance(event, Tick):
            self._add(self._tally.event(event, self._now()))

    def beat(self) -> None:
        """From time to time publish a snapshot and write a piece; called when every worker has been told what to do."""
        self._collect(0)
        now = self._now()
        late = now - self._written >= self._every() or len(self._rows) >= PIECE_ROWS
        due = late and self._writing is None
        if due or now - self._beaten >= BEAT_SECONDS:
            snapshot = self._snapshot()
            if due:
                self._write(snapshot)

    def _add(self, row: dict[str, Any]) -> None:
        if row.get("reason"):
            row["reason"] = logs.redacted(row["reason"])
        about = {name: value for name, value in row.items() if name not in ("at", "event")}
        logs.LOGGER.debug("%s", row["event"], extra={"fields": about})
        self._rows.append(row)
        if len(self._rows) > KEPT_ROWS:
            del self._rows[:PIECE_ROWS]

    def _now(self) -> float:
        return self._wall + time.monotonic() - self._steady

    def _every(self) -> float:
        return min(MOST_SECONDS, max(FIRST_SECONDS, (self._now() - self._wall) / SHARE))

    def _snapshot(self) -> Snapshot:
        """How the run stands, shown to whoever watches."""
        self._beaten = self._now()
        found = self._tally.snapshot(self._run, self.state, self._beaten, self._every(), self._scheduler)
        self._publish(found)
        return found

    def _write(self, snapshot: Snapshot) -> None:
        """Hand the rows to the thread that writes, so that a slow store holds up no worker."""
        rows, self._rows, self._written = self._rows, [], self._now()
        path = f"runs/{self._run}/events/{self._number:06d}.parquet"
        self._number += 1
        self._writing = self._writer.submit(_write, self._store, path, rows, snapshot), rows

    def _collect(self, seconds: float) -> None:
        """See how the piece under way ended, if it did; what was not written is written with the next one."""
        if self._writing is None:
            return
        future, rows = self._writing
        try:
            future.result(seconds)
        except Late:
            return
        except Exception as error:  # whatever it is: the scores are kept elsewhere
            self._rows = [*rows, *self._rows][-KEPT_ROWS:]
            if not self._warned:
                reason = first_line(error)
                say(f"warning: the event log falls behind, so `status` may be out of date; the sweep goes on: {reason}")
            self._warned = True
        self._writing = None


class _Watched:
    """A pool whose commands are recorded."""

    def __init__(self, pool: Pool, recorder: Recorder) -> None:
        self._pool, self._recorder = pool, recorder

    def perform(self, command: Command | Fetch | Want) -> None:
        if not isinstance(command, Want):  # a wish is no part of what happened
            self._recorder.perform(command)
        self._pool.perform(command)

    def next_event(self, timeout: float) -> Event | None:
        self._recorder.beat()
        return self._pool.next_event(timeout)

    def capacity(self) -> Capacity:
        return self._pool.capacity()

    def close(self) -> None:
        self._pool.close()


def _write(store: Store, path: str, rows: list[dict[str, Any]], snapshot: Snapshot) -> None:
    """One piece, whole or not at all."""
    footer = json.dumps(snapshot.to_json()).encode()
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({FOOTER: footer}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    store.save(path, buffer.getvalue())


def latest(store: Store, run: str) -> Snapshot | None:
    """How a run stood when its driver last wrote; None where it left no event log that can be read."""
    for path in reversed(_pieces(store, run)):
        with suppress(pa.ArrowException, KeyError, ValueError, TypeError):
            schema = pq.read_schema(pa.BufferReader(store.load(path) or b""))
            return Snapshot.from_json(json.loads(schema.metadata[FOOTER]))
    return None


def read(store: Store, run: str) -> tuple[pa.Table, list[str]]:
    """All events of a run in order, and the pieces that cannot be read."""
    tables, damaged = [], []
    for path in _pieces(store, run):
        try:
            tables.append(pq.ParquetFile(pa.BufferReader(store.load(path) or b"")).read(use_threads=False))
        except pa.ArrowException:
            damaged.append(path)
    plain = [table.replace_schema_metadata(None) for table in tables]
    return pa.concat_tables([SCHEMA.empty_table(), *plain], promote_options="default"), damaged


def sweep_of(run: str) -> str:
    """The run whose driver did the work: jobs of one multirun are `<run>.1`, `<run>.2` and so on."""
    return run.partition(".")[0]


def _pieces(store: Store, run: str) -> list[str]:
    return [path for path in store.list(f"runs/{sweep_of(run)}/events") if path.endswith(".parquet")]
