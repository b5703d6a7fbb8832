"""Beaver's reward model: one layer on the last token, normalised where the configuration says so.

Source: rewardbench 0.1.4, `models/beaver.py`: `x = w h (+ b)`, layer `score_head`; with `do_normalize` a reward is
`(x - mean) / (std + 1e-8)`, a cost `x / (std + 1e-8)`. Mean and variance are the checkpoint's `normalizer`, else the
configuration's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.checkpoint import tensors
from workers.families.scalar import values, wanted
from workers.heads import Answer, LinearHead
from workers.protocol import Kind, ModelSpec
from workers.render import Rendered

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]


EPSILON = 1e-8


class BeaverHead(LinearHead):
    """The layer, its normalisation and a sign: of a cost, less is better."""

    def __init__(self, spec: ModelSpec, config: Any, sign: float) -> None:
        super().__init__(spec, config, "score_head")
        self._sign, (self._shift, self._scale) = sign, _normalisation(spec, config)

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """One score a row."""
        raw = super().read(rows, inputs)
        return [Answer(self._sign * (answer.value - self._shift) / self._scale) for answer in raw]


def _normalisation(spec: ModelSpec, config: Any) -> tuple[float, float]:
    """What is subtracted from a score, and what it is divided by."""
    if not getattr(config, "do_normalize", False):
        return 0.0, 1.0
    kept = tensors(spec, "normalizer.", "", required=False)
    mean, variance = (_first(kept.get(f"normalizer.{name}"), getattr(config, name, None)) for name in ("mean", "var"))
    kind = getattr(config, "score_type", "reward")
    if kind == "critic":
        return 0.0, 1.0
    scale = (1.0 if variance is None else variance) ** 0.5 + EPSILON
    return (mean or 0.0) if kind == "reward" else 0.0, scale


def _first(kept: Any, configured: Any) -> float | None:
    """The first number of a tensor, else of a list in the configuration."""
    if kept is not None:
        return float(kept.flatten()[0])
    if isinstance(configured, list | tuple):
        return float(configured[0])
    return None if configured is None else float(configured)


def head(spec: ModelSpec, config: Any) -> BeaverHead:
    """A reward: more is better."""
    return BeaverHead(spec, config, 1.0)
