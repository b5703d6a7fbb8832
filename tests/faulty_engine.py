"""An engine for tests, named from outside as a dotted plug-in: scores like `longest` and kills its own process.

`options.once` names a file: the first worker that scores creates it and dies by SIGKILL. `options.poison` is a text:
a worker that is asked to score a response which holds it dies, every time. `options.seconds` a shard takes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workers.engines.baseline import PACKAGES, VERSION, BaselineEngine, lint, shown, token_hashes
from workers.protocol import Finding, ModelSpec, Output, Request

NEEDS_WEIGHTS = False
KINDS = ("reward",)

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "Finding", "lint", "load", "shown", "token_hashes"]


class FaultyEngine:
    """Dies where its options say so."""

    def __init__(self, spec: ModelSpec) -> None:
        self._options = spec.options
        self._baseline = BaselineEngine(replace(spec, options={"score": "longest"}))

    def run(self, requests: Sequence[Request]) -> list[Output]:
        once, poison = self._options.get("once"), self._options.get("poison")
        if once and not Path(once).exists():
            Path(once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if poison and any(poison in request.responses[0] for request in requests):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(self._options.get("seconds", 0)))
        return self._baseline.run(requests)

    def details(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Holds nothing."""


def load(spec: ModelSpec) -> FaultyEngine:
    return FaultyEngine(spec)
