"""QRM on Llama 3.1: the quantiles of 19 objectives, of which the mean counts, mixed by a gate (see `_gated`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.errors import ModelError
from workers.families._gated import GatedHead
from workers.families.scalar import values, wanted
from workers.protocol import Kind, ModelSpec

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]


def head(spec: ModelSpec, config: Any) -> GatedHead:
    """`num_quantiles` numbers an objective, objective by objective."""
    quantiles = getattr(config, "num_quantiles", None)
    if quantiles is None:
        raise ModelError(f"model {spec.name!r}: {spec.path} is not a QRM model: its configuration has no num_quantiles")
    return GatedHead(spec, config, quantiles)
