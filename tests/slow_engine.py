"""An engine for tests, named as a dotted plug-in: transformers, with a rest after every shard."""

from __future__ import annotations

import time
from collections.abc import Sequence

from workers.engines import transformers as engine
from workers.engines.transformers import KINDS, NEEDS_WEIGHTS, PACKAGES, lint, shown, token_hashes
from workers.protocol import ModelSpec, Output, Request, Unscored

VERSION = "1"
REST = 4.0

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "lint", "load", "shown", "token_hashes"]


class SlowEngine(engine.TransformersEngine):
    """Takes its time."""

    def run(self, requests: Sequence[Request]) -> list[Output | Unscored]:
        found = super().run(requests)
        time.sleep(REST)
        return found


def load(spec: ModelSpec) -> SlowEngine:
    return SlowEngine(spec)
