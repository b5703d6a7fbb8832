"""Random checkpoints of more than 50 million weights, most of them in layers: what `bench.throughput` measures on.

Shapes are those of published models cut to fewer layers. The tokenizer is trained on the benchmark's own texts, so
that conversations have about as many tokens as under published tokenizers of 130,000 entries (see `lengths`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers import tiny_zoo

HIDDEN, WIDE, HEAD, VOCABULARY = 768, 2048, 64, 16_000


@dataclass(frozen=True)
class Checkpoint:
    """What one folder holds; equal arguments give byte-identical weights."""

    architecture: str
    layers: int
    seed: int = 0
    causal: bool = False
    hidden: int = HIDDEN


CHECKPOINTS = {
    "llama": Checkpoint("llama", 5),
    "gpt-neox": Checkpoint("gpt-neox", 7),
    "bert": Checkpoint("bert", 7),
    "policy": Checkpoint("llama", 5, 1, causal=True),
    "policy-2": Checkpoint("llama", 5, 2, causal=True),
    "reference": Checkpoint("llama", 5, 3, causal=True),
    "wide": Checkpoint("llama", 4, hidden=WIDE),
}
"""By folder: three classifiers, two policies and the model that both were tuned from, and a classifier as wide as a
Llama of 1B, for the rate of its products."""


def build(folder: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Path]:
    """The folder of each checkpoint, written where it is missing."""
    texts = [row[name] for row in rows for name in ("prompt", "chosen", "rejected")]
    found = {}
    for name, wanted in CHECKPOINTS.items():
        found[name] = folder / name
        if not (found[name] / "tokenizer_config.json").exists():
            tiny_zoo.build(
                found[name],
                wanted.architecture,
                texts=texts,
                seed=wanted.seed,
                hidden_size=wanted.hidden,
                head_size=HEAD,
                layers=wanted.layers,
                vocab_size=VOCABULARY,
                causal=wanted.causal,
            )
    return found


def weights(checkpoint: Path) -> int:
    """The number of weights, from the header of the file."""
    with (checkpoint / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
    return sum(_product(shape) for shape in shapes)


def _product(shape: Sequence[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
