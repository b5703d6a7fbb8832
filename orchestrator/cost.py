"""Pure: kinds of devices, and ways to run a model on them."""

from __future__ import annotations

from dataclasses import dataclass

CPU = "cpu"
"""The kind of a node without GPUs, and of a placement that needs none."""


@dataclass(frozen=True)
class Placement:
    """One way to run a stream: what one worker of it takes, and how long it needs.

    `gpus`: 0 for one CPU slot, below 1 for a fraction of one GPU, else whole GPUs, spread evenly over `nodes`.
    `shard_seconds` holds one prediction for each shard of the plan, in its order. An empty `kind` is any.
    """

    kind: str
    gpus: float
    nodes: int
    load_seconds: float
    shard_seconds: tuple[float, ...]
