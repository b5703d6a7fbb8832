"""Starling-RM-7B: a Llama body and one layer in PyTorch's format, on another model's configuration.

Source: rewardbench 0.1.4, `models/starling.py`: `score = w h`, layer `v_head`, body `transformer`. What it takes for
the pad id is the BOS that its tokenizer puts in front, so a row alone is read at its last token; in a padded batch the
reference reads on the padding. `options.base` names the model whose configuration counts where the checkpoint has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.checkpoint import file_of, raw_config
from workers.errors import ModelError
from workers.families.scalar import values, wanted
from workers.heads import LinearHead
from workers.protocol import Kind, ModelSpec

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "config", "head", "values", "wanted"]


def config(spec: ModelSpec) -> Any:
    """The checkpoint's configuration, else that of `options.base`."""
    from transformers import AutoConfig

    if file_of(spec, "config.json") is not None:
        return AutoConfig.for_model(**{"model_type": "llama", **raw_config(spec)})
    base = spec.options.get("base")
    if not isinstance(base, str):
        raise ModelError(
            f"model {spec.name!r}: {spec.path} has no config.json; "
            f"set models.{spec.name}.options.base to the model it was made from"
        )
    return AutoConfig.from_pretrained(base, revision=spec.options.get("base_revision"))


def head(spec: ModelSpec, config: Any) -> LinearHead:
    """One layer on the last token."""
    return LinearHead(spec, config, "v_head", {r"^transformer\.": ""})
