"""An engine for tests on Ray, named as a dotted plug-in: scores like `longest`, slowly, and fails as its options say.

`pause`: seconds a shard. `once` names a file: whoever makes it has the fault of `fault`, everyone after it has none;
`fault` is `kill` (SIGKILL, as the kernel's out-of-memory killer sends it), `memory` (takes `MEMORY` bytes and waits
to be ended) or `cuda` (the error of a GPU that is gone). `loads`: loading fails, every time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workers.engines import baseline
from workers.engines.baseline import PACKAGES, VERSION, lint, shown, token_hashes
from workers.protocol import ModelSpec, Output, Request

NEEDS_WEIGHTS = False
KINDS = ("reward",)
MEMORY = 4 * 2**30
WAIT_SECONDS = 60

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "lint", "load", "shown", "token_hashes"]


class ChaoticEngine:
    """Slow, and faulty once."""

    def __init__(self, spec: ModelSpec) -> None:
        self._options = spec.options
        self._baseline = baseline.load(replace(spec, options={"score": "longest"}))

    def run(self, requests: Sequence[Request]) -> list[Output]:
        time.sleep(float(self._options.get("pause", 0)))
        once = self._options.get("once")
        if once and _first(Path(once)):
            _fail(self._options["fault"])
        return self._baseline.run(requests)

    def details(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Holds nothing."""


def _first(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _fail(fault: str) -> None:
    match fault:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            taken = b"x" * MEMORY
            time.sleep(WAIT_SECONDS)
            raise RuntimeError(f"nobody minds {len(taken)} bytes")
        case "cuda":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


def load(spec: ModelSpec) -> ChaoticEngine:
    if spec.options.get("loads"):
        raise RuntimeError("the checkpoint is no checkpoint")
    return ChaoticEngine(spec)
