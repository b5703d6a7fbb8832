"""Skywork-VL-Reward: a value head on Qwen2.5-VL, of which only the language model sees anything.

Source: rewardbench 0.1.4, `models/skyvl.py`, and trl's value head: `score = w h + b` on the last attended state, layer
`v_head.summary` in `value_head.safetensors` beside the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.checkpoint import tensors
from workers.families.scalar import values, wanted
from workers.heads import OneLayer, body, linear
from workers.protocol import Kind, ModelSpec

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]

LAYER, FILE = "v_head.summary", "value_head.safetensors"


def head(spec: ModelSpec, config: Any) -> OneLayer:
    """The value head on the body's state."""
    what = f"a model of family {spec.family!r}"
    return OneLayer(body(spec, config, what), linear(tensors(spec, f"{LAYER}.", what, FILE), LAYER))
