"""Models that give one conversation one number: sequence classifiers with a reward head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.protocol import Kind, Measurement, Message, Model, Request

VERSION = "1"
ENGINES = ("transformers", "vllm")
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}


def wanted(model: Model, prompt: tuple[Message, ...], responses: tuple[str, ...]) -> list[tuple[int, Request]]:
    """One `reward` request a response."""
    return [(0, Request("reward", prompt, (response,))) for response in responses]


def values(
    model: Model,
    measurements: Sequence[Measurement],
    prompt: tuple[Message, ...] = (),
    responses: tuple[str, ...] = (),
) -> list[float]:
    """The rewards; responses of which the model saw the very same tokens share one, so that they tie.

    Two passes over the same tokens can differ in the last bits where their batches differed.
    """
    rewards: dict[str, float] = {}
    return [rewards.setdefault(measurement.token_hash, measurement.value) for measurement in measurements]
