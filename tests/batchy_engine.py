"""An engine for tests, named as a dotted plug-in, with the defect that `check` looks for: neighbours move a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workers.engines import baseline
from workers.engines.baseline import KINDS, NEEDS_WEIGHTS, PACKAGES, lint, shown, token_hashes
from workers.protocol import ModelSpec, Output, Request

VERSION = "1"

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "lint", "load", "shown", "token_hashes"]


class BatchyEngine:
    """Scores like `longest`, with the sign of the place in an odd batch."""

    def __init__(self, spec: ModelSpec) -> None:
        self._baseline = baseline.load(replace(spec, options={"score": "longest"}))

    def run(self, requests: Sequence[Request]) -> list[Output]:
        outputs = self._baseline.run(requests)
        return [replace(output, value=output.value * (-1) ** place) for place, output in enumerate(outputs)]

    def details(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


def load(spec: ModelSpec) -> BatchyEngine:
    return BatchyEngine(spec)
