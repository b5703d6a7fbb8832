"""Which model's files come to which machine ahead of need. Pure, beside the scheduler: it only watches.

While machines compute, the models that wait are the next to come, the most urgent first; the machines whose models end
soonest are the next to be free. One is matched with the other, once each, so a machine fetches one model ahead. A model
that then starts elsewhere fetches its own files there, as it would have without this.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.events import Command, Fetch, Start, Stop
from orchestrator.scheduler import Scheduler
from orchestrator.streams import StreamState


class Ahead:
    """Remembers where workers run, and what was fetched where."""

    def __init__(self) -> None:
        self._nodes: dict[int, tuple[str, ...]] = {}
        self._known: set[tuple[str, str]] = set()

    def watch(self, given: Iterable[Command], scheduler: Scheduler) -> list[Fetch]:
        """What to fetch after the scheduler gave these commands."""
        changed = False
        for command in given:
            match command:
                case Start(number, spec, _, nodes):
                    self._nodes[number], changed = nodes, True
                    self._known |= {(spec.fingerprint, node) for node in nodes}
                case Stop(number):
                    changed = self._nodes.pop(number, None) is not None
        return self._fetches(scheduler) if changed else []

    def _fetches(self, scheduler: Scheduler) -> list[Fetch]:
        nodes = self._soonest(scheduler)
        fetches = [
            Fetch(stream.spec, node) for stream, node in zip(_waiting(scheduler.streams.values()), nodes, strict=False)
        ]
        new = [fetch for fetch in fetches if (fetch.spec.fingerprint, fetch.node) not in self._known]
        self._known |= {(fetch.spec.fingerprint, fetch.node) for fetch in new}
        return new

    def _soonest(self, scheduler: Scheduler) -> list[str]:
        """The machines that compute, those whose model has the least left first."""
        left: dict[str, float] = {}
        for number, worker in scheduler.workers.items():
            stream = scheduler.streams[worker.stream]
            for node in self._nodes.get(number, ()):
                left[node] = min(left.get(node, float("inf")), stream.work(scheduler.now) / stream.rate())
        return sorted(left, key=lambda node: (left[node], node))


def _waiting(streams: Iterable[StreamState]) -> list[StreamState]:
    """Models of the hub without a worker, in the order in which the scheduler gives them one."""
    waiting = [stream for stream in streams if stream.waiting and not stream.crew and stream.spec.revision is not None]
    return sorted(waiting, key=lambda stream: (-stream.priority, -stream.pieces.cost * stream.scale))
