"""How a run stands, from its event log alone: what runs, what is done, when it will be, what failed, what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from orchestrator import eventlog
from orchestrator.progress import duration
from orchestrator.records import Run
from orchestrator.stores import Store
from orchestrator.tally import Phase, Snapshot

PATIENCE = 3
"""Promises of a next sign of life that a driver may break, on a slow store, before it counts as dead."""
SLACK_SECONDS = 30.0
"""By which clocks of two machines may differ besides."""
SAYS: Mapping[Phase, str] = {"load": "loading", "compute": "scoring", "idle": "idle"}


@dataclass(frozen=True)
class Standing:
    """The last snapshot of a run and its age in seconds."""

    snapshot: Snapshot
    age: float
    ended: bool

    @property
    def silent(self) -> bool:
        """Whether the driver promised a sign of life long ago and gave none."""
        promised = PATIENCE * self.snapshot.every + SLACK_SECONDS
        return not self.ended and self.age > promised

    def to_json(self) -> dict[str, Any]:
        """What is so now; of workers what they do."""
        now = self.snapshot
        return {
            **now.to_json(),
            "age": round(self.age, 1),
            "silent": self.silent,
            "done": now.sum("done"),
            "owed": now.sum("owed"),
            "left": now.sum("left"),
            "seconds_left": None if self.ended else now.seconds_left,
            "gpu_seconds": now.gpu_seconds,
            "dollars": now.dollars,
        }

    def lines(self) -> Iterator[str]:
        """The same for people."""
        now = self.snapshot
        left = now.seconds_left
        began = datetime.fromtimestamp(now.started, UTC).isoformat(timespec="seconds")
        state = "no sign of life" if self.silent else "ended" if self.ended else now.state
        yield f"run {now.run}: {state}; began {began}, last event {duration(self.age)} ago"
        if self.silent:
            yield (
                f"  warning: no sign of life for {duration(self.age)}: the driver is probably dead; "
                "run the same command again to resume"
            )
        bad = [f"{int(now.sum(name))} {name}" for name in ("failed", "quarantined") if now.sum(name)]
        rate = f", {now.rate:,.1f} rows/s" if now.rate and not self.ended else ""
        eta = f", {duration(left)} left" if left and not self.ended and not self.silent else ""
        counts = ", ".join([f"{int(now.sum('done'))} of {int(now.sum('owed'))} rows scored", *bad])
        yield f"  {counts}{rate}{eta}; {self._cost()}"
        yield from self._workers()
        for stream in now.streams:
            if stream.failed or stream.quarantined:
                lost = stream.failed + stream.quarantined
                yield f"  failed: {stream.model}: {lost} rows: {stream.reason}"

    def _cost(self) -> str:
        hours = self.snapshot.gpu_seconds / 3600
        dollars = self.snapshot.dollars
        price = "no known price" if dollars is None else f"${dollars:,.2f}"
        return f"cost so far: {hours:,.2f} GPU-hours, {price}"

    def _workers(self) -> Iterator[str]:
        """A line a model that runs."""
        if self.ended:
            return
        phases = Counter((worker.stream, worker.phase) for worker in self.snapshot.workers)
        running = {worker.stream for worker in self.snapshot.workers}
        for stream in self.snapshot.streams:
            if stream.fingerprint in running:
                what = ", ".join(
                    f"{phases[stream.fingerprint, phase]} {word}"
                    for phase, word in SAYS.items()
                    if phases[stream.fingerprint, phase]
                )
                word = "ran" if self.silent else "runs"
                yield f"  {word}: {stream.model}: {what}; {stream.done} of {stream.owed} rows"


def standing(store: Store, run: Run, now: float) -> Standing | None:
    """How a run stands at a time; None where it left no event log, as one that had nothing to score."""
    found = eventlog.latest(store, run.id)
    return None if found is None else Standing(found, max(0.0, now - found.at), run.outcome is not None)
