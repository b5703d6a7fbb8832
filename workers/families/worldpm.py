"""WorldPM: two linear layers on a Qwen2 body, tokens of the template alone.

Source: rewardbench 0.1.4, `models/worldpm.py` (tokens), and the architecture `Qwen2ForRewardModel` that Qwen publishes
with its reward models: with h the last state before the first pad id, `score = W2 relu(W1 h + b1) + b2`, layers
`score.0` and `score.2`. The reference passes no attention mask, so that padding is attended to; here it is masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.checkpoint import raw_config, tensors
from workers.families._plain import plain
from workers.families.scalar import values, wanted
from workers.heads import Answer, before_first_pad, body, stack, states
from workers.protocol import Kind, ModelSpec, Request
from workers.render import Rendered, Renderer

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "config", "head", "render", "values", "wanted"]


class TwoLayerHead:
    """A hidden layer and a score."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        import torch

        what = f"a model of family {spec.family!r}"
        self.model: Any = body(spec, config, what)
        layers = {**tensors(spec, "score.0.", what), **tensors(spec, "score.2.", what)}
        self.model.add_module("reward_head", stack(layers, "score", torch.nn.ReLU))

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """The first output of the second layer."""
        positions = before_first_pad(rows, self.model.config.pad_token_id)
        scores = self.model.reward_head(states(self.model, inputs, positions))[:, 0]
        return list(map(Answer, scores.cpu().tolist()))


def config(spec: ModelSpec) -> Any:
    """Qwen2's own configuration: the checkpoint's is code, which is not needed."""
    from transformers import Qwen2Config

    return Qwen2Config.from_dict(dict(raw_config(spec)))


def render(renderer: Renderer, request: Request) -> Rendered:
    """Without special tokens."""
    return plain(renderer, request)


def head(spec: ModelSpec, config: Any) -> TwoLayerHead:
    """The two layers of `score`."""
    return TwoLayerHead(spec, config)
