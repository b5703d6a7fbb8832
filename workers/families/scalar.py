"""Models that give one conversation one number: sequence classifiers with a reward head."""

from __future__ import annotations

from collections.abc import Sequence

from workers.protocol import Measurement, Message, Request

VERSION = "1"
ENGINES = ("transformers",)


def wanted(prompt: tuple[Message, ...], responses: tuple[str, ...]) -> list[tuple[int, Request]]:
    """One `reward` request a response."""
    return [(0, Request("reward", prompt, (response,))) for response in responses]


def values(measurements: Sequence[Measurement]) -> list[float]:
    """The rewards as they are."""
    return [measurement.value for measurement in measurements]
