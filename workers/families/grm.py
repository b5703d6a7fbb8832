"""GRM: a value head of one or more layers on the last token of a language model.

Source: rewardbench 0.1.4, `models/grm.py`. Layers `v_head.summary` (linear) or `v_head.summary.N` (each but the last
followed by ReLU), all with bias; dropout does nothing when scoring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.checkpoint import tensors
from workers.families.scalar import values, wanted
from workers.heads import OneLayer, body, linear, stack
from workers.protocol import Kind, ModelSpec

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]


def head(spec: ModelSpec, config: Any) -> OneLayer:
    """The value head, linear or of several layers as the checkpoint has it."""
    import torch

    what, name = f"a model of family {spec.family!r}", "v_head.summary"
    weights = tensors(spec, f"{name}.", what)
    layers = linear(weights, name) if f"{name}.weight" in weights else stack(weights, name, torch.nn.ReLU)
    return OneLayer(body(spec, config, what), layers)
