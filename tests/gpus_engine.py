"""`chaotic_engine` that says in every part which GPUs its process may see, and how many it spreads over."""

from __future__ import annotations

import os

from tests.chaotic_engine import KINDS, NEEDS_WEIGHTS, PACKAGES, VERSION, ChaoticEngine, lint, shown, token_hashes
from workers.protocol import ModelSpec

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "lint", "load", "shown", "token_hashes"]


class GpusEngine(ChaoticEngine):
    """Tells what it sees."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._spec = spec

    def details(self) -> dict[str, str]:
        return {"visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "spread": str(self._spec.gpus)}


def load(spec: ModelSpec) -> GpusEngine:
    return GpusEngine(spec)
