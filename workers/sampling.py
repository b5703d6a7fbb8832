"""How text is generated: the `options` of a judge's file, the same for every engine. All are part of a text's key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workers.errors import ModelError
from workers.protocol import ModelSpec, digest

MAX_NEW_TOKENS = 2048
"""The reference's limit for judges (`run_generative.py`)."""

RANGES: dict[str, tuple[tuple[type, ...], float, float]] = {
    "max_new_tokens": ((int,), 1, 1_000_000),
    "temperature": ((int, float), 0, 10),
    "top_p": ((int, float), 1e-6, 1),
    "seed": ((int,), 0, 2**31 - 1),
}
"""Types, least and greatest value of each option."""


@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0; else a draw that the request and `seed` decide."""

    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def seed_of(self, name: str) -> int:
        """The seed of one request, from a name that does not depend on its neighbours: 31 bits."""
        return int(digest([self.seed, name])[:8], 16) >> 1


def sampling_of(spec: ModelSpec) -> Sampling:
    """The sampling that a model's `options` ask for; `ModelError` names the option that is wrong."""
    given: dict[str, Any] = {name: value for name, value in spec.options.items() if name in RANGES}
    for name, value in given.items():
        kinds, least, most = RANGES[name]
        if type(value) not in kinds or not least <= value <= most:
            raise ModelError(f"models.{spec.name}.options.{name}={value}: must be a number from {least:g} to {most:g}")
    return Sampling(**given)
