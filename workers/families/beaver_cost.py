"""Beaver's cost model: the head of `beaver_reward`, of which less is better.

Source: rewardbench 0.1.4, `models/beaver.py`: the score is minus the cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.families.beaver_reward import BeaverHead
from workers.families.scalar import values, wanted
from workers.protocol import Kind, ModelSpec

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]


def head(spec: ModelSpec, config: Any) -> BeaverHead:
    """Minus the cost."""
    return BeaverHead(spec, config, -1.0)
