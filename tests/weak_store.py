"""A store that is slow and refuses at first, as one that is overloaded: a sink that travels to the workers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.stores import Store
from workers.errors import StoreError
from workers.protocol import Measurement, ModelSpec


@dataclass(frozen=True)
class WeakSink:
    """Takes `seconds` to write; of all writes the first `refusals` fail, counted by files in `folder`."""

    store: Store
    folder: Path
    seconds: float
    refusals: int

    def __call__(self, spec: ModelSpec, rows: Sequence[Measurement], provenance: Mapping[str, str]) -> None:
        time.sleep(self.seconds)
        for number in range(self.refusals):
            try:
                (self.folder / f"refused-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            raise StoreError("503 SlowDown; reduce your request rate")
        self.store.write(spec, rows, provenance)
