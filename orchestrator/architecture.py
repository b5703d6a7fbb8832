"""Pure: what of a checkpoint decides how much memory and work it takes.

Read from the values of its `config.json` where they are at hand, else guessed from its size in billions of parameters
through a published model of about that size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers import flops

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

TWO_MATRICES = (
    *("bert", "roberta", "xlm-roberta", "deberta", "electra", "opt", "falcon", "bloom", "starcoder", "nemotron"),
    *("gpt2", "gpt_neo", "gptj", "gpt_bigcode", "phi-msft"),
)
"""Beginnings of `model_type` whose feed-forward layer has two matrices; all others have a gate besides, so three."""

SHAPES = (
    (0.07, 6, 8, 8, 64, 512, 2048, 50304),  # Pythia 70M
    (0.16, 12, 12, 12, 64, 768, 3072, 50304),  # Pythia 160M
    (0.41, 24, 16, 16, 64, 1024, 4096, 50304),  # Pythia 410M
    (1.1, 22, 32, 4, 64, 2048, 5632, 32000),  # TinyLlama 1.1B
    (1.8, 24, 16, 16, 128, 2048, 5504, 151936),  # Qwen1.5 1.8B
    (2.8, 32, 32, 32, 80, 2560, 10240, 50304),  # Pythia 2.8B
    (4.0, 40, 20, 20, 128, 2560, 6912, 151936),  # Qwen1.5 4B
    (6.7, 32, 32, 32, 128, 4096, 11008, 32000),  # Llama 2 7B
    (8.0, 32, 32, 8, 128, 4096, 14336, 128256),  # Llama 3 8B
    (13.0, 40, 40, 40, 128, 5120, 13824, 32000),  # Llama 2 13B
    (20.0, 48, 48, 8, 128, 6144, 16384, 92544),  # InternLM2 20B
    (27.0, 46, 32, 16, 128, 4608, 36864, 256000),  # Gemma 2 27B
    (34.0, 60, 56, 8, 128, 7168, 20480, 64000),  # Yi 34B
    (70.0, 80, 64, 8, 128, 8192, 28672, 128256),  # Llama 3 70B
    (104.0, 64, 96, 8, 128, 12288, 33792, 256000),  # Command R+
    (180.0, 80, 232, 8, 64, 14848, 59392, 65024),  # Falcon 180B
    (340.0, 96, 96, 8, 192, 18432, 73728, 256000),  # Nemotron 4 340B
)
"""Billions of parameters, layers, heads, heads of keys, size of a head, hidden size, intermediate size, vocabulary;
from the models' config.json."""


SIZE_CLASSES = (("below 1B", 1), ("1B to 5B", 5), ("5B to 20B", 20))


@dataclass(frozen=True)
class Architecture:
    """A transformer in numbers.

    `parameters` are all that are stored, `matrices` those of them in matrices that one token meets, which leaves out
    embeddings and the experts that it is not sent to. `name` is the class in its config.json, empty where `source`
    says that its shape is a guess.
    """

    name: str
    source: str
    parameters: int
    matrices: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    intermediate: int
    vocabulary: int

    @property
    def cost(self) -> flops.Cost:
        """Floating point operations a token, a pair and a row of logits."""
        return flops.cost(self.matrices, self.layers, self.heads * self.head_size, self.hidden, self.vocabulary)

    @property
    def size_class(self) -> str:
        """Its class among models of all sizes."""
        return size_class(self.parameters)

    def weight_bytes(self, dtype: str) -> int:
        """Of all parameters in a dtype."""
        return self.parameters * BYTES.get(dtype, 2)

    def kv_bytes(self, dtype: str) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * BYTES.get(dtype, 2)

    def activation_bytes(self, dtype: str) -> int:
        """Of one token while a layer runs: its states, queries, keys and values twice, and the feed-forward layer's.

        An upper estimate: six vectors of the hidden size (residual, normed, both outputs, and the head's copy of the
        states twice) and three of the intermediate size (gate, up, product).
        """
        attention = 2 * (self.heads + 2 * self.kv_heads) * self.head_size
        return (6 * self.hidden + attention + 3 * self.intermediate) * BYTES.get(dtype, 2)


def size_class(parameters: float) -> str:
    """Models of about one size reach about the same share of a device's peak."""
    return next((name for name, most in SIZE_CLASSES if parameters < most * 1e9), "20B and more")


def from_config(config: Mapping[str, Any], head: bool) -> Architecture | None:
    """The architecture behind the values of a config.json, None where they do not say enough.

    `head`: whether the model has an output embedding of its own, as language models have and classifiers have not.
    """
    own = {**config, **(config.get("text_config") or {})}
    hidden, layers, heads = (_count(own, *names) for names in (HIDDEN, LAYERS, HEADS))
    if not hidden or not layers or not heads:
        return None
    kv_heads = _count(own, "num_key_value_heads", "num_kv_heads") or heads
    size = _count(own, "head_dim") or hidden // heads
    vocabulary, intermediate = _count(own, "vocab_size"), _count(own, "intermediate_size", "n_inner") or 4 * hidden
    attention = 2 * hidden * size * (heads + kv_heads)
    stored, met = _feed_forward(own, hidden, intermediate)
    embeddings = vocabulary * hidden * (2 if head and not own.get("tie_word_embeddings") else 1)
    return Architecture(
        name=str((config.get("architectures") or [""])[0]),
        source="config.json",
        parameters=layers * (attention + stored) + embeddings,
        matrices=layers * (attention + met),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        hidden=hidden,
        intermediate=intermediate,
        vocabulary=vocabulary,
    )


def typical(billions: float, head: bool, active: float | None = None) -> Architecture:
    """The shape of the published model nearest in size; `active` billions meet one token of a mixture of experts."""
    met = active or billions
    _, layers, heads, kv_heads, size, hidden, intermediate, vocabulary = min(
        SHAPES, key=lambda shape: abs(math.log(shape[0] / met))
    )
    embeddings = vocabulary * hidden * (2 if head else 1)
    return Architecture(
        name="",
        source=f"a model of {met:g}B" + (f" (active of {billions:g}B)" if active else ""),
        parameters=int(billions * 1e9),
        matrices=int(max(met * 1e9 - embeddings, met * 1e9 / 2)),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        hidden=hidden,
        intermediate=intermediate,
        vocabulary=vocabulary,
    )


HIDDEN = ("hidden_size", "n_embd", "d_model")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
HEADS = ("num_attention_heads", "n_head", "num_heads")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def _feed_forward(own: Mapping[str, Any], hidden: int, intermediate: int) -> tuple[int, int]:
    """Weights of a layer's feed-forward part: all that are stored, and those that one token meets."""
    kind = str(own.get("model_type", "")).lower()
    matrices = 2 if kind.startswith(TWO_MATRICES) else 3
    experts = _count(own, *EXPERTS)
    if not experts:
        return matrices * hidden * intermediate, matrices * hidden * intermediate
    one = matrices * hidden * (_count(own, "moe_intermediate_size") or intermediate)
    shared = matrices * hidden * _count(own, "shared_expert_intermediate_size")
    return experts * one + shared, (_count(own, "num_experts_per_tok") or 1) * one + shared


def _count(own: Mapping[str, Any], *names: str) -> int:
    """The first of some keys that holds a whole number above 0; 0 where none does."""
    values = (own.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), 0)
