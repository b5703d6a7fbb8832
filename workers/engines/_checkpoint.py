"""What the heads of the transformers engine share: configuration, tokenizer limits, pad id, weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.errors import ModelError, boundary
from workers.protocol import ModelSpec
from workers.render import Renderer

ARCHITECTURES = {"reward": ("Classification", "Reward"), "logprob": ("CausalLM", "LMHead")}
"""By kind of request, what the name of a checkpoint's architecture holds."""

NAMES = {"reward": "a reward model (sequence classifier)", "logprob": "a causal language model"}
CLASSES = {"reward": "AutoModelForSequenceClassification", "logprob": "AutoModelForCausalLM"}
"""By kind of request, the class of transformers that loads such a checkpoint."""


def config_of(spec: ModelSpec, kind: str) -> Any:
    """The checkpoint's configuration; `ModelError` where its architecture cannot answer requests of that kind."""
    from transformers import AutoConfig

    with boundary(ModelError, f"model {spec.name!r}: cannot read the configuration of {spec.path}"):
        config = AutoConfig.from_pretrained(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    architectures = config.architectures or []
    if architectures and not any(part in name for name in architectures for part in ARCHITECTURES[kind]):
        raise ModelError(
            f"model {spec.name!r}: {spec.path} is a {architectures[0]}, not {NAMES[kind]}; "
            f"set models.{spec.name}.family to what it is"
        )
    return config


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the language model."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def renderer_of(spec: ModelSpec, config: Any) -> Renderer:
    """The renderer, limited to the positions that the model can tell apart."""
    text = text_config(config)
    context = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if context and getattr(text, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
        context -= text.pad_token_id + 1  # their first position is pad_token_id + 1
    return Renderer(spec, context)


def pad_id_of(config: Any, tokenizer: Any) -> int:
    """The pad id of the model, else the tokenizer's, else EOS."""
    if tokenizer.pad_token_id is None:
        candidates = [tokenizer.eos_token_id]
    else:
        candidates = [text_config(config).pad_token_id, tokenizer.pad_token_id]
    pad = next((candidate for candidate in candidates if candidate is not None), None)
    if pad is None:
        raise ModelError("the tokenizer has neither a pad token nor EOS; add a pad token to tokenizer_config.json")
    return int(pad)


def weights_of(spec: ModelSpec, config: Any, kind: str) -> Any:
    """The model in `spec.dtype`; weights that the checkpoint lacks are an error, not a random start."""
    import torch
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    arguments: Mapping[str, Any] = {"attn_implementation": spec.attention} if spec.attention else {}
    with boundary(ModelError, f"model {spec.name!r}: cannot load {spec.path}"):
        model, info = getattr(transformers, CLASSES[kind]).from_pretrained(
            spec.path,
            revision=spec.revision,
            config=config,
            dtype=getattr(torch, spec.dtype),
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=None if spec.allow_pickle else True,
            output_loading_info=True,
            **arguments,
        )
    missing = sorted([*info["missing_keys"], *(str(key) for key in info.get("mismatched_keys", []))])
    if missing:
        raise ModelError(
            f"model {spec.name!r}: {spec.path} is not {NAMES[kind]}: it has no weights for {', '.join(missing[:3])}"
        )
    return model.eval()
