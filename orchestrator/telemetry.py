"""Pure: the metrics of a running sweep. The table is the contract with dashboards and alerts.

Ray puts `ray_` before every name when it exports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.tally import Snapshot, StreamCount


@dataclass(frozen=True)
class Metric:
    """A counter only grows during a run; a gauge is what is so now."""

    name: str
    type: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Sample:
    """A metric's value for one set of labels, in the order of the metric's."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


ROWS = Metric(
    "rewardsweep_rows_total", "counter", ("model", "state"), "Rows by what became of them: scored, failed, quarantined"
)
TOKENS = Metric("rewardsweep_tokens_total", "counter", ("model",), "Tokens of the rows scored")
MFU = Metric("rewardsweep_mfu", "gauge", ("model",), "Share of the devices' peak FLOP/s while scoring, 0 to 1")
OOMS = Metric("rewardsweep_ooms_total", "counter", ("model",), "Passes that did not fit into memory and were halved")
RETRIES = Metric("rewardsweep_retries_total", "counter", ("model",), "Workers that failed or were lost at work")
QUEUE = Metric("rewardsweep_queue_shards", "gauge", ("model",), "Shards that wait for a worker")
GPU_SECONDS = Metric(
    "rewardsweep_gpu_seconds_total",
    "counter",
    ("model", "kind", "phase"),
    "Seconds of GPUs that workers held, by phase: load, compute, idle",
)
DOLLARS = Metric(
    "rewardsweep_dollars_total", "counter", ("model",), "Cost of GPUs and endpoints, where prices are known"
)
PROGRESS = Metric(
    "rewardsweep_sweep_progress", "gauge", (), "Share of the rows asked for that need no more work, 0 to 1"
)
OWED = Metric("rewardsweep_owed_rows", "gauge", (), "Rows that are still owed")
LAST_EVENT = Metric(
    "rewardsweep_last_event_timestamp_seconds", "gauge", (), "When the driver last counted, in seconds since 1970"
)

METRICS = (ROWS, TOKENS, MFU, OOMS, RETRIES, QUEUE, GPU_SECONDS, DOLLARS, PROGRESS, OWED, LAST_EVENT)


def samples(snapshot: Snapshot) -> list[Sample]:
    """All values; streams of one name, such as a reference that two policies share, are added up."""
    added: dict[tuple[str, tuple[str, ...]], Sample] = {}
    for stream in snapshot.streams:
        for sample in _of_stream(stream):
            key = (sample.metric.name, sample.labels)
            known = added.get(key)
            added[key] = sample if known is None else replace(sample, value=known.value + sample.value)
    found = list(added.values())
    total, left = snapshot.sum("total"), snapshot.sum("left")
    return [
        *found,
        Sample(PROGRESS, (), 1 - left / total if total else 1.0),
        Sample(OWED, (), left),
        Sample(LAST_EVENT, (), snapshot.at),
    ]


def _of_stream(stream: StreamCount) -> Iterator[Sample]:
    model = (stream.model,)
    for state, rows in (("scored", stream.done), ("failed", stream.failed), ("quarantined", stream.quarantined)):
        yield Sample(ROWS, (stream.model, state), rows)
    yield Sample(TOKENS, model, stream.tokens)
    yield Sample(OOMS, model, stream.ooms)
    yield Sample(RETRIES, model, stream.retries)
    yield Sample(QUEUE, model, stream.queue)
    for kind, phases in stream.gpu_seconds.items():
        for phase, seconds in phases.items():
            yield Sample(GPU_SECONDS, (stream.model, kind, phase), seconds)
    if stream.dollars is not None:
        yield Sample(DOLLARS, model, stream.dollars)
    if stream.possible:
        yield Sample(MFU, model, stream.flops / stream.possible)
