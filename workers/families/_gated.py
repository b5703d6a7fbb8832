"""Rewards of several objectives, mixed by a gate that reads the prompt: ArmoRM and the QRM models.

Source of the formulas: `modeling_custom.py` of RLHFlow/ArmoRM-Llama3-8B-v0.1 and rewardbench 0.1.4, `models/qrm.py`.
With h the last state before the first pad id, e the state where the last assistant header begins, O objectives and K
quantiles an objective (one for ArmoRM):

    r = reshape(W h, (O, K)), their mean over K;   gate = s softmax(layers(e) / temperature);   score = gate . (r T)

Names in the checkpoint: `regression_layer` (W), `gating.layers.N`, `gating.logit_scale` (s), `reward_transform_matrix`
(T). The temperature is `gating_temperature` of the configuration, 10 if it says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.checkpoint import tensors
from workers.errors import ModelError
from workers.heads import Answer, at, before_first_pad, body, linear, stack
from workers.protocol import ModelSpec
from workers.readout import reading
from workers.render import Rendered

HEADER = (128009, 128006, 78191, 128007, 271)
"""`<|eot_id|><|start_header_id|>assistant<|end_header_id|>` and two line breaks, in the vocabulary of Llama 3."""


class GatedHead:
    """The head of both families; what they differ in, the checkpoint tells."""

    def __init__(self, spec: ModelSpec, config: Any, quantiles: int) -> None:
        import torch

        what = f"a model of family {spec.family!r}"
        self.model: Any = body(spec, config, what)
        regression = linear(tensors(spec, "regression_layer.weight", what), "regression_layer")
        transform = tensors(spec, "reward_transform_matrix", what)["reward_transform_matrix"]
        scale = tensors(spec, "gating.logit_scale", what)["gating.logit_scale"]
        gate = stack(tensors(spec, "gating.layers.", what), "gating.layers", torch.nn.ReLU)
        if regression.out_features != transform.shape[0] * quantiles:
            raise ModelError(
                f"model {spec.name!r}: {spec.path} is not {what}: {regression.out_features} regression outputs are not "
                f"{transform.shape[0]} objectives of {quantiles}"
            )
        self.model.add_module("reward_head", torch.nn.ModuleDict({"regression": regression, "gate": gate}))
        self.model.reward_head.register_buffer("transform", transform)
        self.model.reward_head.register_buffer("scale", scale)
        self._spec = spec
        self._temperature = float(getattr(config, "gating_temperature", 10))

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """One score a row, all of the head in float32."""
        starts = [self._header(row) for row in rows]
        ends = before_first_pad(rows, self.model.config.pad_token_id)
        with reading(list(zip(starts, ends, strict=True))):
            hidden = self.model(**inputs, use_cache=False).last_hidden_state
        head = self.model.reward_head
        answer = at(hidden, ends)
        rewards = head.regression(answer).reshape(len(rows), head.transform.shape[0], -1).mean(-1)
        gate = (head.gate(at(hidden, starts)) / self._temperature).softmax(-1) * head.scale[0]
        scores = (gate * (rewards @ head.transform)).sum(-1)
        return list(map(Answer, scores.cpu().tolist()))

    def _header(self, row: Rendered) -> int:
        """Where the last assistant header begins; without one there is no gate."""
        for start in range(len(row.ids) - len(HEADER), -1, -1):
            if row.ids[start : start + len(HEADER)] == HEADER:
                return start
        name = self._spec.name
        cut = f"; raise models.{name}.max_length" if row.truncated else f"; check models.{name}.chat_template"
        raise ModelError(
            f"model {name!r}: a conversation of {len(row.ids)} tokens holds no assistant header "
            f"(ids {' '.join(map(str, HEADER))}), from which the gate is read{cut}"
        )
