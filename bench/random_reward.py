"""A family of classifiers with random weights, made on the device: `bench.gpu` has no time to read 16 GB.

A request's response holds token ids and its prompt their number; nothing is tokenised. A model stays in `MODELS` so
that several ways of scoring can be measured on the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.heads import Classifier, Head
from workers.protocol import Kind, ModelSpec, Request
from workers.render import Rendered, Renderer

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
}
"""That of Llama 3 8B (its config.json), and one for a test."""

MODELS: dict[tuple[str, int], Any] = {}
"""By class and seed."""


def config(spec: ModelSpec) -> Any:
    """The shape that `options` name; scores spread over more than the noise of bfloat16."""
    from transformers import LlamaConfig

    shape = SHAPES[spec.options["shape"]]
    return LlamaConfig(
        **shape,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        initializer_range=0.7 / shape["hidden_size"] ** 0.5,
        num_labels=1,  # type: ignore[call-arg]
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )


def render(renderer: Renderer, request: Request) -> Rendered:
    """The ids as they stand."""
    ids = tuple(map(int, request.responses[0].split()))
    completion = int(request.prompt[0].content) if request.kind == "logprob" else None
    return Rendered("", ids, None, len(ids), double_bos=False, completion=completion)


def model_of(spec: ModelSpec, config: Any, auto: str) -> Any:
    """The model of that class of transformers and seed, made where it does not exist."""
    import torch
    import transformers

    key = (auto, spec.options["seed"])
    if key not in MODELS:
        torch.manual_seed(key[1])
        with torch.device("cuda" if spec.gpus else "cpu"):
            made = getattr(transformers, auto).from_config(config, dtype=getattr(torch, spec.dtype))
        MODELS[key] = made.eval().requires_grad_(False)
    return MODELS[key]


class RandomClassifier(Classifier):
    """A classifier of random weights."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        self.model = model_of(spec, config, "AutoModelForSequenceClassification")
        self._label = 0


def head(spec: ModelSpec, config: Any) -> Head:
    """What the engine asks a family for."""
    return RandomClassifier(spec, config)
