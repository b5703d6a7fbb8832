"""What a person sees while a sweep runs, on standard error: a live table on a terminal, else a line a minute.

With `log=json` every line is an object instead, and there is no table.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from orchestrator.events import Event, Failed, GpuChecked, Linted, Lost, NodeDraining, NodeLost, Ready
from orchestrator.plan import Plan
from orchestrator.scheduler import Scheduler
from orchestrator.streams import StreamState
from workers import logs
from workers.errors import ModelError
from workers.protocol import Finding

LINE_SECONDS = 60.0

LEVELS = {"error:": logging.ERROR, "problem:": logging.ERROR, "warning:": logging.WARNING}

_console = Console(stderr=True, highlight=False, soft_wrap=True)


class _Plain(logging.Handler):
    """Lines as they are, above the live table if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        _console.print(escape(logs.redacted(record.getMessage())), markup=True)


def _plain() -> bool:
    return any(isinstance(handler, _Plain) for handler in logs.LOGGER.handlers)


def log_as(form: logs.Form) -> None:
    """From now on all lines to standard error are plain text, or JSON, those of libraries too."""
    if form == "json":
        logs.to_stderr("json")
    elif not _plain():
        logging.getLogger().setLevel(logging.ERROR)  # warnings of libraries say little to a user
        logs.LOGGER.handlers = [_Plain()]
        logs.LOGGER.setLevel(logging.INFO)
        logs.LOGGER.propagate = False


log_as("text")


def say(line: str, **fields: object) -> None:
    """One line to standard error; in JSON with the fields, such as the model that it is about."""
    level = next((level for begin, level in LEVELS.items() if line.startswith(begin)), logging.INFO)
    logs.LOGGER.log(level, "%s", line, extra={"fields": fields})


class Progress:
    """Follows a scheduler. A context manager, so that the terminal is given back whatever happens."""

    def __init__(self, todo: Plan, scheduler: Scheduler) -> None:
        self._plan = todo
        self._scheduler = scheduler
        self._names = {name: stream.spec.name for name, stream in todo.streams.items()}
        self._started = self._last_line = time.monotonic()
        self._reported: set[str] = set()
        shown = sys.stderr.isatty() and _plain()
        self._live = Live(console=_console, refresh_per_second=4, transient=True) if shown else None

    def __enter__(self) -> Progress:
        reused = self._plan.total - self._plan.owed
        say(f"{self._plan.owed} of {self._plan.total} measurements are owed, {reused} are in the store")
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        self._report_failures()
        say(self._line())

    def observe(self, event: Event | None) -> None:
        """Show an event that matters by itself, then the state."""
        self._report_failures()
        match event:
            case Linted(worker, findings):
                self._findings(worker, findings)
            case Failed(_, error) if not isinstance(error, ModelError):  # the model's own line has said that one
                say(f"worker failed: {error}")
            case Lost(worker, reason):
                say(f"worker {worker} lost ({reason}); its shard goes back to the queue", worker=worker)
            case NodeLost(node, reason):
                say(f"node {node} lost ({reason}); the shards of its workers go back to the queue")
            case NodeDraining(node, seconds):
                say(f"node {node} goes away in {duration(seconds)}; it begins nothing that would take longer")
            case GpuChecked(node, healthy):
                say(f"node {node}: its GPUs {'work again' if healthy else 'do not work; what failed is used no more'}")
            case Ready(worker, seconds):
                model = self._model_of(worker)
                say(f"{model}: weights loaded in {seconds:.1f} s", model=model, worker=worker)
        if self._live:
            self._live.update(self._table())
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            say(self._line())

    def _model_of(self, worker: int) -> str:
        state = self._scheduler.workers.get(worker)
        return self._names[state.stream] if state else f"worker {worker}"

    def _findings(self, worker: int, findings: tuple[Finding, ...]) -> None:
        """Each finding once, with the number of responses and the subsets they are in."""
        state = self._scheduler.workers.get(worker)
        if state is None:
            return
        stream = self._plan.streams[state.stream]
        for finding in findings:
            subsets = Counter(stream.subsets[index] for index in finding.requests)
            places = ": " + ", ".join(f"{name} {count}" for name, count in sorted(subsets.items()))
            everywhere = subsets.total() == len(stream.owed)
            count = f"all {len(stream.owed)}" if everywhere else f"{subsets.total()} of {len(stream.owed)}"
            where = f" ({count} responses{'' if everywhere else places})" if subsets else ""
            model = stream.spec.name
            say(f"{model}: preflight {finding.severity}: {finding.check}: {finding.message}{where}", model=model)

    def _report_failures(self) -> None:
        for name, stream in self._scheduler.streams.items():
            if stream.failed and name not in self._reported:
                self._reported.add(name)
                model = stream.spec.name
                say(f"error: model {model!r} is given up, {_unscored(stream)} rows: {stream.failed}", model=model)

    def _line(self) -> str:
        """The whole sweep in one line."""
        streams = self._scheduler.streams.values()
        done, failed = sum(stream.done for stream in streams), sum(_unscored(stream) for stream in streams)
        seconds = time.monotonic() - self._started
        running = ", ".join(sorted({self._names[worker.stream] for worker in self._scheduler.workers.values()}))
        left = self._plan.owed - done - failed
        eta = f", {duration(left * seconds / done)} left" if done and left else ""
        now = f"; running: {running}" if running else ""
        lost = f", {failed} failed" if failed else ""
        return f"{done} of {self._plan.owed} scored{lost} in {duration(seconds)}{eta}{now}"

    def _table(self) -> Table:
        table = Table("model", "state", box=None, pad_edge=False)
        for column in ("rows", "of", "failed", "tokens/s", "left"):
            table.add_column(column, justify="right")
        for name, stream in self._scheduler.streams.items():
            phases = Counter(worker.phase for worker in self._scheduler.workers.values() if worker.stream == name)
            state = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())) or _resting(stream)
            cells = [escape(self._names[name]), state, str(stream.done), str(stream.total), str(_unscored(stream))]
            table.add_row(*cells, _rate(stream), _left(stream, max(1, phases.total())))
        return table


def _resting(stream: StreamState) -> str:
    if stream.failed:
        return "failed"
    return "waiting" if stream.waiting else "done"


def _unscored(stream: StreamState) -> int:
    """Rows that have no score and get none."""
    return stream.failed_rows + len(stream.quarantined)


def _rate(stream: StreamState) -> str:
    return f"{stream.tokens / stream.seconds:,.0f}" if stream.seconds else ""


def _left(stream: StreamState, workers: int) -> str:
    rows = stream.left_rows
    return duration(rows * stream.seconds / stream.done / workers) if stream.done and rows else ""


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"
