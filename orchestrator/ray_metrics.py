"""The sweep's metrics through Ray, whose agent on the driver's node shows them to Prometheus.

The agent is part of `ray[default]` (the extra `metrics`). Where it is missing nothing is shown, and nothing fails.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from orchestrator.tally import Snapshot
from orchestrator.telemetry import METRICS, Sample, samples


class RayMetrics:
    """One run's metrics: counters start at 0 with the run, as those of any process that begins."""

    def __init__(self) -> None:
        self._series = {
            metric.name: (Counter if metric.type == "counter" else Gauge)(metric.name, metric.help, metric.labels)
            for metric in METRICS
        }
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}

    def publish(self, snapshot: Snapshot) -> None:
        """Show what a snapshot says."""
        for sample in samples(snapshot):
            self._show(sample)

    def _show(self, sample: Sample) -> None:
        """A counter takes what was added since; corrections downwards, such as of rows once thought lost, wait."""
        series, tags = self._series[sample.metric.name], dict(zip(sample.metric.labels, sample.labels, strict=True))
        if isinstance(series, Gauge):
            series.set(sample.value, tags)
            return
        key = (sample.metric.name, sample.labels)
        added = sample.value - self._counted.get(key, 0.0)
        if added > 0:
            series.inc(added, tags)
            self._counted[key] = sample.value
