"""Llama-3.1-Nemotron-70B-Reward-HF: a language model whose logit of token 0 after the last token is the reward.

Source: its model card, which generates one token greedily and takes the first of its scores (`scores[0][0][0]`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.checkpoint import load
from workers.families.scalar import values, wanted
from workers.heads import Answer, last_attended, states
from workers.protocol import Kind, ModelSpec
from workers.render import Rendered

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]

REWARD_TOKEN = 0


class FirstLogit:
    """One row of the output embedding, in float32."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        self.model: Any = load(spec, config, "AutoModelForCausalLM", f"a model of family {spec.family!r}")
        self._row = self.model.get_output_embeddings().weight[REWARD_TOKEN].float()

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """The logit after each row's last token."""
        hidden = states(self.model.base_model, inputs, last_attended(rows))
        scores = hidden @ self._row.to(hidden.device)
        return list(map(Answer, scores.cpu().tolist()))


def head(spec: ModelSpec, config: Any) -> FirstLogit:
    """The language model's own output."""
    return FirstLogit(spec, config)
