"""The published formulas of gated and other heads, written by hand: one module a family, one conversation at a time.

Runs under transformers 5 beside our engine and, from `reference_heads.py`, under the reference's transformers 4.51.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModel, AutoModelForCausalLM

HEADER = [128009, 128006, 78191, 128007, 271]


class Published(torch.nn.Module):
    """A checkpoint's configuration and tensors; `forward` returns the score of each row."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.weights = load_file(folder / "model.safetensors")
        self.device = torch.device("cpu")

    def body(self) -> Any:
        return AutoModel.from_pretrained(self.folder, attn_implementation="eager").eval()

    def first_pad(self, ids: Any) -> int:
        """The position before the first pad id; the last one where there is none."""
        row = ids.tolist()
        return (row.index(self.values["pad_token_id"]) - 1) % len(row) if self.values["pad_token_id"] in row else -1


class Gated(Published):
    """ArmoRM and QRM: rewards of objectives, averaged over quantiles, weighed by a gate on the prompt."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = self.body()

    def gate(self, state: Any) -> Any:
        layers = {name: tensor for name, tensor in self.weights.items() if name.startswith("gating.layers")}
        last = max(int(name.split(".")[2]) for name in layers)
        for number in range(last + 1):
            name = f"gating.layers.{number}"
            if f"{name}.running_mean" in layers:
                mean, variance = layers[f"{name}.running_mean"], layers[f"{name}.running_var"]
                state = (state - mean) / (variance + 1e-5).sqrt() * layers[f"{name}.weight"] + layers[f"{name}.bias"]
            elif f"{name}.weight" in layers:
                state = layers[f"{name}.weight"] @ state + layers.get(f"{name}.bias", torch.zeros(1))
                state = state.clamp(min=0) if number < last else state
        return (state / self.values["gating_temperature"]).softmax(0) * self.weights["gating.logit_scale"]

    def forward(self, input_ids: Any, **others: Any) -> Any:
        assert len(input_ids) == 1
        ids = input_ids[0].tolist()
        start = max(at for at in range(len(ids)) if ids[at : at + 5] == HEADER)
        hidden = self.model(input_ids, **others).last_hidden_state[0]
        outputs = self.weights["regression_layer.weight"] @ hidden[self.first_pad(input_ids[0])]
        rewards = outputs.view(self.values["num_objectives"], -1).mean(1) @ self.weights["reward_transform_matrix"]
        return (self.gate(hidden[start]) * rewards).sum().view(1)


class Distribution(Published):
    """LDL: the expectation of ten grades under a gated mixture of softmax distributions."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = self.body()
        self.regression, self.gating = (torch.load(folder / f"{name}_layer.pt") for name in ("regression", "gating"))

    def through(self, layers: dict[str, Any], numbers: tuple[int, ...], state: Any) -> Any:
        for number in numbers:
            state = layers[f"network.{number}.weight"] @ state + layers[f"network.{number}.bias"]
            state = torch.where(state < 0, 0.01 * state, state) if number != numbers[-1] else state
        return state

    def forward(self, input_ids: Any, **others: Any) -> Any:
        state = self.model(input_ids, **others).last_hidden_state[0, self.first_pad(input_ids[0])]
        gate = self.through(self.gating, (0, 3, 6), state)
        if self.values.get("softmax"):
            gate = (gate / self.values.get("temperature", 1)).softmax(0)
        grades = self.through(self.regression, (0, 2, 4), state).view(-1, 10).softmax(1)
        expected = sum(grade / 9 * grades[:, grade] for grade in range(10))
        return (gate * expected).sum().view(1)


class TwoLayers(Published):
    """WorldPM: a hidden layer and a score."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = self.body()

    def forward(self, input_ids: Any, **others: Any) -> Any:
        assert not others, "its pipeline passes no mask"
        state = self.model(input_ids).last_hidden_state[0, self.first_pad(input_ids[0])]
        inner = (self.weights["score.0.weight"] @ state + self.weights["score.0.bias"]).clamp(min=0)
        return self.weights["score.2.weight"] @ inner + self.weights["score.2.bias"]


class Value(Published):
    """Skywork-VL: a value head on the last token."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = self.body()
        self.head = load_file(folder / "value_head.safetensors")

    def forward(self, input_ids: Any, **others: Any) -> Any:
        state = self.model(input_ids, **others).last_hidden_state[0, -1]
        return self.head["v_head.summary.weight"] @ state + self.head["v_head.summary.bias"]


class Generated(Published):
    """Nemotron, as its model card calls it: the first score of one generated token."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def forward(self, input_ids: Any, **others: Any) -> Any:
        made = self.model.generate(
            input_ids, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_scores=True, **others
        )
        return made["scores"][0][0][0].view(1)


class InternLM2(Published):
    """InternLM2's own forward pass, packed projections and all, and its head on the last token."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reward_token_id = self.values["reward_token_id"]

    def normed(self, states: Any, name: str) -> Any:
        scale = (states.square().mean(-1, keepdim=True) + self.values["rms_norm_eps"]).rsqrt()
        return states * scale * self.weights[f"model.{name}.weight"]

    def rotated(self, states: Any) -> Any:
        """[heads, length, size]: pairs (i, i + size / 2) turned by position times theta^(-2i / size)."""
        size = states.shape[-1]
        frequencies = self.values["rope_theta"] ** (-torch.arange(0, size, 2) / size)
        angles = torch.arange(states.shape[1])[:, None] * frequencies
        one, other = states[..., : size // 2], states[..., size // 2 :]
        return torch.cat((one * angles.cos() - other * angles.sin(), other * angles.cos() + one * angles.sin()), dim=-1)

    def attention(self, states: Any, layer: str) -> Any:
        """Each key head's group packs its query heads, its key and its value, one after the other."""
        length, keys = len(states), self.values["num_key_value_heads"]
        size = self.values["hidden_size"] // self.values["num_attention_heads"]
        packed = (states @ self.weights[f"model.{layer}.attention.wqkv.weight"].T).view(length, keys, -1, size)
        mixed = []
        for group in range(keys):
            parts = packed[:, group].transpose(0, 1)
            queries, key, value = self.rotated(parts[:-2]), self.rotated(parts[-2:-1]), parts[-1]
            weights = queries @ key.transpose(1, 2) / size**0.5
            weights = weights.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1)
            mixed += list(weights @ value)
        return torch.cat(mixed, dim=-1) @ self.weights[f"model.{layer}.attention.wo.weight"].T

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        assert attention_mask.all()
        assert len(input_ids) == 1
        states = self.weights["model.tok_embeddings.weight"][input_ids[0]]
        for number in range(self.values["num_hidden_layers"]):
            layer = f"layers.{number}"
            states = states + self.attention(self.normed(states, f"{layer}.attention_norm"), layer)
            inner = self.normed(states, f"{layer}.ffn_norm")
            one, two, three = (self.weights[f"model.{layer}.feed_forward.w{index}.weight"] for index in (1, 2, 3))
            states = states + (functional.silu(inner @ one.T) * (inner @ three.T)) @ two.T
        return (self.normed(states, "norm")[-1] @ self.weights["v_head.weight"].T).view(1, 1)


PUBLISHED: dict[str, type[Published]] = {
    "armorm": Gated,
    "qrm_llama3": Gated,
    "qrm_llama31": Gated,
    "ldl": Distribution,
    "internlm2": InternLM2,
    "worldpm": TwoLayers,
    "skywork_vl": Value,
    "nemotron": Generated,
}
"""By family."""
