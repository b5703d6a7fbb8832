"""Implicit rewards: how much more likely a response is to a tuned policy than to the model it was tuned from.

Source of the formulas: rewardbench 0.1.4, `dpo.py` and `scripts/run_dpo.py`. With a reference model the reward is
`sum_t log pi(y_t) - sum_t log pi_ref(y_t)` over the completion's tokens, without beta. Without one, `reference_free`
says what is made of the policy's log-probabilities l_t: `avg` their mean, `sum` their sum, `norm` minus the square
root of the sum of their squares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from workers.protocol import Kind, Measurement, Message, Model, Request

VERSION = "1"
ENGINES = ("transformers", "vllm")
KIND: Kind = "logprob"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {"reference_free": ("avg", "sum", "norm")}


def wanted(model: Model, prompt: tuple[Message, ...], responses: tuple[str, ...]) -> list[tuple[int, Request]]:
    """One `logprob` request a response and stream: all of the policy, then all of the reference."""
    paired = model.streams[0].protocol == "reference" and len(responses) == 2
    asked = [
        Request("logprob", prompt, (response, responses[1 - index]) if paired else (response,))
        for index, response in enumerate(responses)
    ]
    return [(stream, request) for stream in range(len(model.streams)) for request in asked]


def values(
    model: Model,
    measurements: Sequence[Measurement],
    prompt: tuple[Message, ...] = (),
    responses: tuple[str, ...] = (),
) -> list[float]:
    """The rewards in nats; responses of the very same tokens share one, so that they tie."""
    rewards: dict[str, float] = {}
    if len(model.streams) == 1:
        made = [_alone(measurement, model.scoring.get("reference_free", "avg")) for measurement in measurements]
    else:
        half = len(measurements) // 2
        made = list(map(_against, measurements[:half], measurements[half:]))
    return [rewards.setdefault(seen.token_hash, value) for seen, value in zip(measurements, made, strict=False)]


def _against(policy: Measurement, reference: Measurement) -> float:
    """The reward with a reference model; NaN where the two saw different tokens, which nothing can compare."""
    return policy.value - reference.value if policy.token_hash == reference.token_hash else math.nan


def _alone(measurement: Measurement, reference_free: str) -> float:
    """The reward without a reference model; the mean over no tokens is NaN."""
    if reference_free == "sum":
        return measurement.value
    if reference_free == "norm":
        return -math.sqrt(measurement.extra["squares"])
    tokens = measurement.extra["tokens"]
    return measurement.value / tokens if tokens else math.nan
