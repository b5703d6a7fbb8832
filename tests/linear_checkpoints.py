"""Tiny random checkpoints with the parameter names of published models whose head is a layer or two."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SIZE, NEURONS = 64, 24
REMOTE = """
import torch
from transformers import LlamaModel, LlamaPreTrainedModel


class TinyReward(LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.value_head = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.value_head(hidden[:, -1])
"""

CONFIGS: dict[str, dict[str, Any]] = {
    "oasst_neox": {"model_type": "gpt_neox_reward_model", "architectures": ["GPTNeoXRewardModel"], "pooling": "last"},
    "starling_gpt": {"architectures": ["GPTRewardModel"]},
    "starling_llama": {"architectures": ["LlamaForSequenceClassification"]},
    "openbmb_llama": {"architectures": ["LlamaRewardModel"]},
    "openbmb_eurus": {
        "model_type": "mistral",
        "architectures": ["EurusRewardModel"],
        "sliding_window": None,
        "auto_map": {"AutoModel": "modeling_gone.EurusRewardModel"},
    },
    "grm": {"architectures": ["GRewardModel"], "vhead_layer_type": "mlp", "vhead_num_neurons": NEURONS},
    "inf_orm": {"architectures": ["INFORMForSequenceClassification"]},
    "beaver_reward": {"architectures": ["LlamaModelForScore"], "score_type": "reward", "do_normalize": False},
    "beaver_cost": {"architectures": ["LlamaModelForScore"], "score_type": "cost", "do_normalize": False},
    "ziya": {
        "architectures": ["TinyReward"],
        "auto_map": {"AutoModelForSequenceClassification": "modeling_tiny.TinyReward"},
    },
}
BIAS = ("oasst_neox", "ziya")
LAYERS = {
    "oasst_neox": "out_proj",
    "starling_gpt": "v_head",
    "starling_llama": "v_head",
    "openbmb_llama": "regression_head",
    "openbmb_eurus": "regression_head",
    "beaver_reward": "score_head",
    "beaver_cost": "score_head",
    "ziya": "value_head",
}
MEAN, VARIANCE = 0.7, 2.5


def build(folder: Path, base: Path, family: str, **config: Any) -> Path:
    """The checkpoint of a family on the body of a language model; `config` replaces values of its configuration."""
    shutil.copytree(base, folder)
    body = load_file(base / "model.safetensors")
    body.pop("lm_head.weight", None)
    body.pop("embed_out.weight", None)
    values = json.loads((base / "config.json").read_text()) | CONFIGS[family] | config
    (folder / "config.json").write_text(json.dumps(values))
    if family.startswith("starling"):
        body = {name.replace("model.", "transformer.", 1): tensor for name, tensor in body.items()}
    weights = body | head_of(family, values)
    if family == "starling_gpt":
        (folder / "model.safetensors").unlink()
        tokenizer = json.loads((base / "tokenizer_config.json").read_text()) | {"unk_token": "<pad>"}
        shutil.copytree(base, folder / "base")
        (folder / "base" / "tokenizer_config.json").write_text(json.dumps(tokenizer))  # the reference pads with <unk>
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if family == "ziya":
        (folder / "modeling_tiny.py").write_text(REMOTE)
    return folder


def head_of(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The head's tensors, the same at every call."""
    draw = torch.Generator().manual_seed(7)

    def layer(name: str, out: int, into: int, bias: bool) -> dict[str, Any]:
        made = {f"{name}.weight": torch.randn(out, into, generator=draw) / into**0.5}
        return made | ({f"{name}.bias": torch.randn(out, generator=draw)} if bias else {})

    if family == "grm" and config["vhead_layer_type"] == "linear":
        return layer("v_head.summary", 1, SIZE, True)
    if family == "grm":
        return layer("v_head.summary.0", NEURONS, SIZE, True) | layer("v_head.summary.2", 1, NEURONS, True)
    if family == "inf_orm":
        return layer("score.0", SIZE, SIZE, True) | layer("score.2", 1, SIZE, True)
    made = layer(LAYERS[family], 1, SIZE, family in BIAS)
    if family.startswith("beaver"):
        moments = {"mean": torch.tensor([MEAN]), "var": torch.tensor([VARIANCE]), "count": torch.tensor([9])}
        made |= {f"normalizer.{name}": tensor for name, tensor in moments.items()}
    return made


def by_hand(base: Path, family: str, config: Mapping[str, Any], ids: tuple[int, ...]) -> float:
    """The published formula on the states that transformers gives for the body."""
    from transformers import AutoModel

    states = AutoModel.from_pretrained(base, dtype=torch.float32)(torch.tensor([ids])).last_hidden_state[0]
    head, last = head_of(family, config), states[_position(family, config, ids)]
    if family in ("grm", "inf_orm"):
        name = "v_head.summary" if family == "grm" else "score"
        if f"{name}.weight" in head:
            return float(head[f"{name}.weight"] @ last + head[f"{name}.bias"])
        inner = (head[f"{name}.0.weight"] @ last + head[f"{name}.0.bias"]).clamp(min=0)
        return float(head[f"{name}.2.weight"] @ inner + head[f"{name}.2.bias"])
    if family == "oasst_neox" and config["pooling"] == "mean":
        last = states.mean(0)
    name = LAYERS[family]
    score = float(head[f"{name}.weight"] @ last) + float(head.get(f"{name}.bias", torch.zeros(1)))
    if config.get("do_normalize"):
        score = (score - (MEAN if config["score_type"] == "reward" else 0.0)) / (VARIANCE**0.5 + 1e-8)
    return -score if family == "beaver_cost" else score


def _position(family: str, config: Mapping[str, Any], ids: tuple[int, ...]) -> int:
    """The last token; of two families the one before the first pad id."""
    pad = {"starling_llama": 0, "inf_orm": config["pad_token_id"]}.get(family)
    return (ids.index(pad) - 1) % len(ids) if pad in ids else len(ids) - 1
