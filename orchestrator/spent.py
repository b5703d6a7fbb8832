"""Pure: what scores took, from the footers of the parts that hold them: hours of devices with loading, dollars, MFU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.cost import CPU, Gpu, gpu_of
from orchestrator.rates import LOADING

WITHOUT = ("none", "endpoint")
"""What engines without weights call their device."""


@dataclass(frozen=True)
class Spent:
    """Of a stream of measurements.

    `cpu_hours` are of CPU slots, one a worker. `dollars` are of both, None where a GPU's price is unknown. `mfu` is the
    mean over the seconds of the parts that tell it, None where none does.
    """

    tokens: int = 0
    compute_seconds: float = 0.0
    load_seconds: float = 0.0
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    dollars: float | None = 0.0
    mfu: float | None = None

    @property
    def on_devices(self) -> bool:
        """Whether anything was computed on a GPU or a CPU that we know of."""
        return bool(self.gpu_hours or self.cpu_hours)

    @property
    def seconds(self) -> float:
        """Of all workers together, with loading."""
        return self.compute_seconds + self.load_seconds

    def __str__(self) -> str:
        hours = {"GPU-hours": self.gpu_hours, "CPU-hours": self.cpu_hours}
        told = [f"{value:,.3f} {name}" for name, value in hours.items() if value]
        told += [] if self.dollars is None or not told else [f"${self.dollars:,.2f}"]
        return ", ".join([*told, *([] if self.mfu is None else [f"MFU {self.mfu:.0%}"])])

    def __add__(self, other: Spent) -> Spent:
        prices = (self.dollars, other.dollars)
        known = [one for one in (self, other) if one.mfu is not None and one.compute_seconds]
        seconds = sum(one.compute_seconds for one in known)
        return Spent(
            self.tokens + other.tokens,
            self.compute_seconds + other.compute_seconds,
            self.load_seconds + other.load_seconds,
            self.gpu_hours + other.gpu_hours,
            self.cpu_hours + other.cpu_hours,
            None if None in prices else sum(price or 0.0 for price in prices),
            sum((one.mfu or 0.0) * one.compute_seconds for one in known) / seconds if seconds else None,
        )


def spent(parts: Iterable[Mapping[str, str]], devices: Mapping[str, Gpu]) -> Spent:
    """The sum over footers; a load counts once, however many parts its worker wrote. `devices` hold the prices."""
    total, loads = Spent(), set()
    for part in parts:
        load = (part.get("run"), part.get("load_seconds"))
        total += _one(part, 0.0 if load in loads else sum(float(part.get(name) or 0) for name in LOADING), devices)
        loads.add(load)
    return total


def _one(part: Mapping[str, str], load: float, devices: Mapping[str, Gpu]) -> Spent:
    device, compute = part.get("device", ""), float(part.get("compute_seconds") or 0)
    told = part.get("gpus") or part.get("tensor_parallel") or 1  # parts of older versions tell the latter alone
    gpus = 0.0 if device in ("", CPU, *WITHOUT) else float(told)
    slots = 1.0 if device == CPU else 0.0
    hours, kind = (compute + load) / 3600, gpu_of(device)
    used = gpus + slots
    dollars = 0.0 if not used else None if kind is None else used * hours * devices[kind.name].dollars
    mfu = float(part["mfu"]) if part.get("mfu") else None
    return Spent(int(part.get("tokens") or 0), compute, load, gpus * hours, slots * hours, dollars, mfu)
