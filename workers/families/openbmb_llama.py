"""UltraRM: a Llama body and one layer without bias on the last token.

Source: rewardbench 0.1.4, `models/openbmb.py`: `score = w h`, layer `regression_head`.
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
