"""Pure: what scores took, from the footers of the parts that hold them: hours of GPUs with loading, dollars, MFU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.cost import Gpu, gpu_of


@dataclass(frozen=True)
class Spent:
    """Of a stream of measurements.

    `gpu_hours` is 0 where it ran on CPUs, and `dollars` None where a GPU's price is unknown. `mfu` is the mean over
    the seconds of the parts that tell it, None where none does.
    """

    tokens: int = 0
    compute_seconds: float = 0.0
    load_seconds: float = 0.0
    gpu_hours: float = 0.0
    dollars: float | None = 0.0
    mfu: float | None = None

    @property
    def seconds(self) -> float:
        """Of all workers together, with loading."""
        return self.compute_seconds + self.load_seconds

    def __add__(self, other: Spent) -> Spent:
        prices = (self.dollars, other.dollars)
        known = [one for one in (self, other) if one.mfu is not None and one.compute_seconds]
        seconds = sum(one.compute_seconds for one in known)
        return Spent(
            self.tokens + other.tokens,
            self.compute_seconds + other.compute_seconds,
            self.load_seconds + other.load_seconds,
            self.gpu_hours + other.gpu_hours,
            None if None in prices else sum(price or 0.0 for price in prices),
            sum((one.mfu or 0.0) * one.compute_seconds for one in known) / seconds if seconds else None,
        )


def spent(parts: Iterable[Mapping[str, str]], devices: Mapping[str, Gpu]) -> Spent:
    """The sum over footers; a load counts once, however many parts its worker wrote. `devices` hold the prices."""
    total, loads = Spent(), set()
    for part in parts:
        load = (part.get("run"), part.get("load_seconds"))
        total += _one(part, float(part.get("load_seconds") or 0) if load not in loads else 0.0, devices)
        loads.add(load)
    return total


def _one(part: Mapping[str, str], load: float, devices: Mapping[str, Gpu]) -> Spent:
    device, compute = part.get("device", ""), float(part.get("compute_seconds") or 0)
    told = part.get("gpus") or part.get("tensor_parallel") or 1  # parts of older versions tell the latter alone
    gpus = 0.0 if device in ("", "cpu", "none") else float(told)
    hours, kind = gpus * (compute + load) / 3600, gpu_of(device)
    dollars = 0.0 if not gpus else None if kind is None else hours * devices[kind.name].dollars
    mfu = float(part["mfu"]) if part.get("mfu") else None
    return Spent(int(part.get("tokens") or 0), compute, load, hours, dollars, mfu)
