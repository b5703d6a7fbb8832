"""Pure: how fast devices are for our models, assumed until the footers of a store say it.

A footer tells of one shard on one device: its FLOPs by formula, tokens, characters and seconds, and how long its
worker's weights took to load. The median of like footers replaces an assumption; every rate says which of both it is.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.architecture import BYTES, Architecture, size_class
from orchestrator.work import estimated_tokens

ASSUMED_MFU = 0.5
"""Share of a device's peak in dense packed passes; what large models reach, never a measurement of ours."""
LOAD_BYTES = {"disk": 2e9, "store": 1e9, "hub": 0.3e9}
"""Bytes of weights a second: a local NVMe disk, an object store in the same region, the model hub."""
START_SECONDS = {"vllm": 60.0, "transformers": 15.0}
"""Before the first byte: imports and the device's context; vLLM captures graphs besides."""
LOADING = ("fetch_seconds", "load_seconds", "compile_seconds")
"""What a worker does before it computes, as footers tell it apart; its GPUs wait meanwhile."""
FEWEST = 3
"""Footers that outweigh an assumption."""


@dataclass(frozen=True)
class Rate:
    """A number and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class Rates:
    """What was measured: shares of the peak by device and class of models, bytes loaded a second by source besides.

    `tokens` corrects the estimate of tokens from characters.
    """

    shares: Mapping[tuple[str, str], Rate] = field(default_factory=dict)
    loads: Mapping[tuple[str, str, str], Rate] = field(default_factory=dict)
    tokens: Rate = Rate(1.0, "assumed")
    assumed_mfu: float = ASSUMED_MFU

    def mfu(self, device: str, architecture: Architecture) -> Rate:
        """Of a model on a device: of its own class there, else of models of its size there, else assumed."""
        named = self.shares.get((device, architecture.name)) if architecture.name else None
        assumed = Rate(self.assumed_mfu, "assumed")
        return named or self.shares.get((device, architecture.size_class), assumed)

    def load_seconds(self, device: str, source: str, engine: str, architecture: Architecture, dtype: str) -> Rate:
        """From the start of loading until the weights are in memory."""
        size = architecture.weight_bytes(dtype)
        measured = self.loads.get((device, source, architecture.size_class))
        if measured is not None:
            return Rate(size / measured.value, measured.source)
        return Rate(START_SECONDS.get(engine, 0.0) + size / LOAD_BYTES[source], "assumed")


def source_of(path: str) -> str:
    """Where a checkpoint at a path lies: `disk`, `store` (a URI) or `hub`."""
    if "://" in path:
        return "store"
    return "disk" if path.startswith(("/", ".", "~")) else "hub"


def calibrated(footers: Iterable[Mapping[str, str]], kinds: Mapping[str, tuple[str, float]]) -> Rates:
    """Rates from the provenance of parts; `kinds` gives the name and the peak FLOP/s of each footer's `device`."""
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    loads: dict[tuple[str, str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    corrections: list[float] = []
    for footer in footers:
        estimate = estimated_tokens(_number(footer, "characters"), _number(footer, "utf8"))
        if estimate and _number(footer, "tokens"):
            corrections.append(_number(footer, "tokens") / estimate)
        if footer.get("device") not in kinds:
            continue
        device, peak = kinds[footer["device"]]
        operations, seconds = _number(footer, "flops"), _number(footer, "compute_seconds")
        if operations and seconds and not _number(footer, "written_tokens"):  # reads weights, a token at a time
            share = operations / seconds / peak / max(1.0, _number(footer, "gpus"))
            for known in (footer.get("architecture", ""), size_class(_number(footer, "parameters"))):
                shares[device, known].append(share)
        if rate := _load_rate(footer):
            place = (device, source_of(footer.get("path", "")), size_class(_number(footer, "parameters")))
            loads[place][footer.get("run", ""), footer["load_seconds"]] = rate
    return Rates(
        {key: _median(values, "parts") for key, values in shares.items() if len(values) >= FEWEST},
        {key: _median(list(found.values()), "loads") for key, found in loads.items() if len(found) >= FEWEST},
        _median(corrections, "parts") if len(corrections) >= FEWEST else Rates.tokens,
    )


def _load_rate(footer: Mapping[str, str]) -> float | None:
    """Bytes a second of one load, from its first request to the end of what it compiles."""
    size = _number(footer, "parameters") * BYTES.get(footer.get("dtype", ""), 2)
    seconds = sum(_number(footer, name) for name in LOADING)
    return size / seconds if size and seconds else None


def _median(values: list[float], of: str) -> Rate:
    return Rate(statistics.median(values), f"measured on {len(values)} {of}")


def _number(footer: Mapping[str, str], key: str) -> float:
    """A footer's number; 0 where it is absent, as in parts of older versions."""
    try:
        return float(footer.get(key, 0))
    except ValueError:
        return 0.0
