"""InternLM2 reward models: one linear layer on the state of a reward token, which ends the conversation.

Source: rewardbench 0.1.4, `models/internlm.py` (tokens), and the architecture `InternLM2ForRewardModel` that InternLM
publishes: `score = v_head h` at the last attended position. InternLM2 is Llama with other names and with queries, keys
and values of a group packed into one matrix, [key heads, heads of a group + 2, head size, hidden size]; it is unpacked
into transformers' Llama, so no code of the checkpoint runs for the model (its tokenizer may still bring some).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.checkpoint import load, raw_config, tensors
from workers.errors import ModelError
from workers.families._plain import plain
from workers.families.scalar import values, wanted
from workers.heads import OneLayer, linear
from workers.protocol import Kind, ModelSpec, Request
from workers.render import Rendered, Renderer

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "config", "head", "render", "values", "wanted"]

NAMES = {
    "tok_embeddings": "embed_tokens",
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
"""InternLM2's names of layers, and Llama's."""

SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
"""What both configurations call the same."""


def config(spec: ModelSpec) -> Any:
    """Llama's configuration of the same numbers."""
    from transformers import LlamaConfig

    raw = raw_config(spec)
    if raw.get("model_type") != "internlm2" or "reward_token_id" not in raw:
        raise ModelError(f"model {spec.name!r}: {spec.path} is not an InternLM2 reward model")
    shared = {name: raw[name] for name in SHARED if raw.get(name) is not None}
    return LlamaConfig(attention_bias=bool(raw.get("bias", False)), **shared)


def render(renderer: Renderer, request: Request) -> Rendered:
    """Without special tokens; the reward token ends it. The reference never cuts, here the model's context does."""
    return plain(renderer, request, raw_config(renderer.spec)["reward_token_id"])


def head(spec: ModelSpec, config: Any) -> OneLayer:
    """`v_head` on the last token."""
    what = f"a model of family {spec.family!r}"
    layer = linear(tensors(spec, "v_head.", what), "v_head")
    state = unpacked(tensors(spec, "model.", what, as_stored=True), config)
    return OneLayer(load(spec, config, "LlamaModel", what, state=state), layer)


def unpacked(stored: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """InternLM2's tensors by Llama's names, queries, keys and values apart."""
    heads, groups = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    state: dict[str, Any] = {}
    for name, tensor in stored.items():
        layer, _, kind = name.removeprefix("model.").rpartition(".")
        if layer.endswith("attention.wqkv"):
            packed = tensor.unflatten(0, (heads, groups + 2, -1))
            parts = {"q_proj": packed[:, :groups], "k_proj": packed[:, -2:-1], "v_proj": packed[:, -1:]}
            attention = layer.removesuffix("attention.wqkv") + "self_attn"
            state |= {f"{attention}.{part}.{kind}": rows.flatten(0, 2) for part, rows in parts.items()}
        else:
            known = next((one for one in NAMES if layer.endswith(one)), "")
            state[f"{layer.removesuffix(known)}{NAMES.get(known, '')}.{kind}"] = tensor
    return state
