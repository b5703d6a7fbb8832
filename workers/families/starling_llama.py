"""Starling-RM-34B: a Llama body and one layer, read before the first token of id 0.

Source: rewardbench 0.1.4, `models/starling.py`: `score = w h`, layer `v_head`, body `transformer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.families.scalar import values, wanted
from workers.heads import Answer, LinearHead, before_first_pad, states
from workers.protocol import Kind, ModelSpec
from workers.render import Rendered

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]


PAD_ID = 0
"""Fixed in the reference's class, whatever the tokenizer says."""


class StarlingHead(LinearHead):
    """One layer before the first id 0, on the last token where there is none."""

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """One score a row."""
        scores = self.model.reward_head(states(self.model, inputs, before_first_pad(rows, PAD_ID)))[:, 0]
        return list(map(Answer, scores.cpu().tolist()))


def head(spec: ModelSpec, config: Any) -> StarlingHead:
    """The layer `v_head`."""
    return StarlingHead(spec, config, "v_head", {r"^transformer\.": ""})
