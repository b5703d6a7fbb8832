"""An engine for tests, named as a dotted plug-in: scores like `longest`, and takes two seconds over every shard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from workers.engines.baseline import PACKAGES, VERSION, BaselineEngine, lint, shown, token_hashes
from workers.protocol import ModelSpec, Output, Request

NEEDS_WEIGHTS = False
KINDS = ("reward",)
SECONDS = 2.0

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "lint", "load", "shown", "token_hashes"]


class SleepyEngine:
    """Takes its time, as `options.seconds` says."""

    def __init__(self, spec: ModelSpec) -> None:
        self._seconds = float(spec.options.get("seconds", SECONDS))
        self._baseline = BaselineEngine(replace(spec, options={"score": "longest"}))

    def run(self, requests: Sequence[Request]) -> list[Output]:
        time.sleep(self._seconds)
        return self._baseline.run(requests)

    def details(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Holds nothing."""


def load(spec: ModelSpec) -> SleepyEngine:
    return SleepyEngine(spec)
