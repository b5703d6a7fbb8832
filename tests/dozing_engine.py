"""An engine for tests, named from outside as a dotted plug-in: scores like `longest`, in its own time.

A request takes the seconds that the environment's REWARDSWEEP_TEST_SLEEP says: no part of the model's identity.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from workers.engines.baseline import PACKAGES, VERSION, BaselineEngine, lint, shown, token_hashes
from workers.protocol import Finding, ModelSpec, Output, Request

NEEDS_WEIGHTS = False
KINDS = ("reward",)

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "Finding", "lint", "load", "shown", "token_hashes"]


class SleepyEngine:
    """Takes its time."""

    def __init__(self, spec: ModelSpec) -> None:
        self._seconds = float(os.environ.get("REWARDSWEEP_TEST_SLEEP", "0"))
        self._baseline = BaselineEngine(replace(spec, options={"score": "longest"}))

    def run(self, requests: Sequence[Request]) -> list[Output]:
        time.sleep(self._seconds * len(requests))
        return self._baseline.run(requests)

    def details(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Holds nothing."""


def load(spec: ModelSpec) -> SleepyEngine:
    return SleepyEngine(spec)
