"""INF-ORM: two layers on the state before the first pad token.

Source: rewardbench 0.1.4, `models/inform.py`: `score = W2 relu(W1 h + b1) + b2`, layers `score.0` and `score.2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.checkpoint import tensors
from workers.families.scalar import values, wanted
from workers.heads import Answer, OneLayer, before_first_pad, body, stack, states
from workers.protocol import Kind, ModelSpec
from workers.render import Rendered

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]


class InformHead(OneLayer):
    """Two layers before the first pad id, where a row has one."""

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """One score a row."""
        positions = before_first_pad(rows, self.model.config.pad_token_id)
        return list(map(Answer, self.model.reward_head(states(self.model, inputs, positions))[:, 0].cpu().tolist()))


def head(spec: ModelSpec, config: Any) -> InformHead:
    """The layers `score`."""
    import torch

    what = f"a model of family {spec.family!r}"
    layers = stack(tensors(spec, "score.", what), "score", torch.nn.ReLU)
    return InformHead(body(spec, config, what), layers)
