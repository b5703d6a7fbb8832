"""Eurus-RM: as UltraRM, on a Mistral body; the checkpoint's own code is not needed.

Source: its model card; rewardbench 0.1.4 runs the remote code through `models/openbmb.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.families.scalar import values, wanted
from workers.heads import LinearHead
from workers.protocol import Kind, ModelSpec

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]


def head(spec: ModelSpec, config: Any) -> LinearHead:
    """The layer `regression_head`."""
    return LinearHead(spec, config, "regression_head")
