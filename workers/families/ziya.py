"""Ziya's reward model: code of its own checkpoint, whose output is the reward.

Source: rewardbench 0.1.4, `models/ziya.py`. The code is the hub's: it runs only with `trust_remote_code` and a pinned
commit. Each row is scored alone, so that nothing depends on how that code treats padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.checkpoint import load
from workers.errors import ModelError
from workers.families.scalar import values, wanted
from workers.heads import Answer
from workers.protocol import Kind, ModelSpec
from workers.render import Rendered

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]


class RemoteHead:
    """A model whose forward pass returns the rewards."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        what = f"a model of family {spec.family!r}"
        self.model: Any = load(spec, config, "AutoModelForSequenceClassification", what)

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """One score a row."""
        return [self._alone(inputs["input_ids"][at : at + 1, : len(row.ids)]) for at, row in enumerate(rows)]

    def _alone(self, ids: Any) -> Answer:
        import torch

        return Answer(float(self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).flatten()[0]))


def head(spec: ModelSpec, config: Any) -> RemoteHead:
    """The checkpoint's own model."""
    if not spec.trust_remote_code:
        raise ModelError(
            f"model {spec.name!r}: family 'ziya' is code of the checkpoint; read it, then set "
            f"models.{spec.name}.trust_remote_code=true and models.{spec.name}.revision to its commit"
        )
    return RemoteHead(spec, config)
