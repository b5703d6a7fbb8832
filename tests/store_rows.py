"""Rows and models for the tests of stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.stores import Held, Stream
from orchestrator.stores.parquet import ParquetStore
from workers.protocol import Measurement, ModelSpec, measurement_key

SPEC = ModelSpec("small", "models/small", "sha256:1", "scalar", "1", "transformers", "1", (("torch", "2.7"),))
OTHER = replace(SPEC, name="other", weights="sha256:2", options={"seed": 1}, template_kwargs={"über": [1, None]})
FOLDER = f"measurements/{SPEC.fingerprint}"


def row(number: int, value: float = 0.5, text: str | None = None, token_hash: str = "t") -> Measurement:
    """A row of `SPEC`."""
    request = f"request {number}"
    key = measurement_key(SPEC.fingerprint, request)
    return Measurement(key, request, "reward", value, number, False, token_hash, text)


def told(rows: Sequence[Measurement]) -> list[str]:
    """A form in which NaN equals NaN and 0.0 differs from -0.0."""
    return sorted(map(repr, rows))


def held_is(store: ParquetStore, stream: Stream) -> bool:
    """Whether the light way of reading `SPEC` says what the whole one does."""
    light = Held(frozenset(stream.rows), stream.damaged, stream.conflicts, stream.provenance, stream.notes)
    return store.held(SPEC.fingerprint) == light
