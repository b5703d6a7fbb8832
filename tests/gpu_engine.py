"""`chaotic_engine` as an engine that asks for a checkpoint, and so for a GPU, of which it uses neither."""

from __future__ import annotations

from tests.chaotic_engine import KINDS, PACKAGES, VERSION, lint, load, shown, token_hashes

NEEDS_WEIGHTS = True

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "lint", "load", "shown", "token_hashes"]
