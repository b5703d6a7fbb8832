"""An engine that sleeps, named as a dotted plug-in: `options.seconds` for every shard, then the scores of `longest`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from workers.engines import baseline
from workers.engines.baseline import PACKAGES, VERSION, lint, shown, token_hashes
from workers.protocol import ModelSpec, Output, Request

NEEDS_WEIGHTS = False
KINDS = ("reward",)

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "lint", "load", "shown", "token_hashes"]


class SleepingEngine:
    """Takes its time."""

    def __init__(self, spec: ModelSpec) -> None:
        self._seconds = float(spec.options["seconds"])
        self._baseline = baseline.load(replace(spec, options={"score": "longest"}))

    def run(self, requests: Sequence[Request]) -> list[Output]:
        """Sleep, then score."""
        time.sleep(self._seconds)
        return self._baseline.run(requests)

    def details(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Holds nothing."""


def load(spec: ModelSpec) -> SleepingEngine:
    """The engine of a model."""
    return SleepingEngine(spec)
