"""ArmoRM: the rewards of 19 objectives, mixed by a gate (see `_gated`).

The reference leaves both BOS that template and tokenizer add; here the second goes, and `bos: keep` leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    """One number an objective."""
    return GatedHead(spec, config, quantiles=1)
