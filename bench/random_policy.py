"""Language models with random weights, whose log-probabilities are asked for; see `bench.random_reward`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.random_reward import config, model_of, render
from workers.heads import CausalLM, Head
from workers.protocol import Kind, ModelSpec

__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "config", "head", "render"]

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "logprob"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}


class RandomCausalLM(CausalLM):
    """A language model of random weights."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        self.model = model_of(spec, config, "AutoModelForCausalLM")
        self._spec = spec
        self._checked = False


def head(spec: ModelSpec, config: Any) -> Head:
    """What the engine asks a family for."""
    return RandomCausalLM(spec, config)
