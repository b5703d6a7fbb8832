"""An engine for tests, named as a dotted plug-in: scores like `longest`, and warns in every way that libraries do."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace

from workers.engines.baseline import BaselineEngine, lint, shown, token_hashes
from workers.protocol import ModelSpec, Output, Request

VERSION = "1"
PACKAGES: tuple[str, ...] = ()
NEEDS_WEIGHTS = False
KINDS = ("reward",)

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "lint", "load", "shown", "token_hashes"]


class ChattyEngine:
    """Warns at every shard."""

    def __init__(self, spec: ModelSpec) -> None:
        self._baseline = BaselineEngine(replace(spec, options={"score": "longest"}))
        own = logging.getLogger("library.own")
        own.addHandler(logging.StreamHandler(sys.stderr))
        own.propagate = False

    def run(self, requests: Sequence[Request]) -> list[Output]:
        logging.getLogger("library").warning("a library warns")
        logging.getLogger("library.own").warning("a library with a handler of its own warns")
        logging.getLogger("library").info("nobody wants to know")
        warnings.warn("a Python warning", stacklevel=1)
        return self._baseline.run(requests)

    def details(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Holds nothing."""


def load(spec: ModelSpec) -> ChattyEngine:
    return ChattyEngine(spec)
