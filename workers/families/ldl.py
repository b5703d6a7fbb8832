"""LDL: a gated mixture of distributions over ten grades, of which the expectation counts.

Source of the formulas: rewardbench 0.1.4, `models/ldlreward.py`. With h the last state before the first pad id, p_j the
softmax over ten outputs of the regression layers and g_j the outputs of the gating layers, which are a softmax as well
only where the configuration's `softmax` says so:

    score = sum_b (b / 9) sum_j g_j p_j,b

Both stacks are beside the weights, pickled: `regression_layer.pt` and `gating_layer.pt`, layers `network.N`. Gemma-2
caps its attention logits, which kernel `sdpa` leaves out: without a choice in the model's file it is `eager`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from workers.checkpoint import raw_config, tensors
from workers.errors import ModelError
from workers.families.scalar import values, wanted
from workers.heads import Answer, at, before_first_pad, body, stack
from workers.protocol import Kind, ModelSpec
from workers.readout import reading
from workers.render import Rendered

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "values", "wanted"]

GRADES = 10


class DistributionHead:
    """Expected grade, from 0 to 1 times the sum of the gate."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        import torch

        what = f"a model of family {spec.family!r}"
        if spec.attention == "sdpa":
            raise ModelError(
                f"model {spec.name!r}: kernel sdpa leaves out Gemma-2's capped attention; "
                f"set models.{spec.name}.attention to eager or flash_attention_2"
            )
        self.model: Any = body(replace(spec, attention=spec.attention or "eager"), config, what)
        stacks = {
            name: stack(tensors(spec, "network.", what, f"{name}_layer.pt"), "network", torch.nn.LeakyReLU)
            for name in ("regression", "gating")
        }
        if stacks["regression"][-1].out_features != GRADES * stacks["gating"][-1].out_features:
            raise ModelError(f"model {spec.name!r}: {spec.path} is not {what}: not {GRADES} grades for each gate")
        self.model.add_module("reward_head", torch.nn.ModuleDict(stacks))
        given = raw_config(spec)  # transformers takes a `temperature` for one of generation and drops it
        self._temperature = float(given.get("temperature", 1)) if given.get("softmax") else None

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """One score a row, all of the head in float32."""
        import torch

        ends = before_first_pad(rows, self.model.config.pad_token_id)
        with reading([[end] for end in ends]):
            hidden = self.model(**inputs, use_cache=False).last_hidden_state
        state = at(hidden, ends)
        head = self.model.reward_head
        grades = head.regression(state).reshape(len(rows), -1, GRADES).softmax(-1)
        gate = head.gating(state)
        if self._temperature is not None:
            gate = (gate / self._temperature).softmax(-1)
        worth = torch.linspace(0, 1, GRADES, device=state.device)
        scores = ((gate.unsqueeze(1) @ grades).squeeze(1) * worth).sum(-1)
        return list(map(Answer, scores.cpu().tolist()))


def head(spec: ModelSpec, config: Any) -> DistributionHead:
    """Both stacks on the body's state."""
    return DistributionHead(spec, config)
