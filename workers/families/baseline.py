"""Null models: a score that knows nothing of quality, so that a shortcut in the data is seen."""

from __future__ import annotations

from workers.families.scalar import KIND, SCORING, TIES, values, wanted

VERSION = "1"
ENGINES = ("baseline",)

__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "values", "wanted"]
