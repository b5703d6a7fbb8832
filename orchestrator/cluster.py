"""Which devices there are: those that a command describes, those of this machine, or those of a Ray cluster."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.cost import CPU, GPUS, Gpu, Offer, gpu_of
from orchestrator.events import Node
from workers import plugins
from workers.errors import InputError

NVIDIA = Path("/proc/driver/nvidia/gpus")
CPU_SLOTS_A_GPU = 8
"""Of a cluster that is only described: what null baselines and endpoints run on."""


def offered(gpus: Any, gpu: Any, node: int) -> tuple[Offer, ...] | None:
    """The cluster behind `gpus=64 gpu=A100-80G` or `gpu={A100-80G:48,L40S-48G:16}`; None where neither is given."""
    if gpus is None and gpu is None:
        return None
    if isinstance(gpu, Mapping):
        if gpus is not None:
            raise InputError(f"gpus={gpus}: gpu={{...}} holds the counts already; leave one of both out")
        counts = {str(kind): _whole(f"gpu.{kind}", count) for kind, count in gpu.items()}
    elif gpu is None:
        if _whole("gpus", gpus):
            raise InputError(f"gpus={gpus}: of which kind? add gpu=NAME, one of {', '.join(_kinds())}")
        counts = {}
    elif gpus is None:
        raise InputError(f"gpu={gpu}: how many? add gpus=N")
    else:
        counts = {str(gpu): _whole("gpus", gpus)}
    for kind in counts:
        if kind not in _kinds():
            raise InputError(f"gpu={kind}: {plugins.unknown(kind, _kinds(), 'GPU')}")
    slots = Offer(CPU, max(CPU_SLOTS_A_GPU * sum(counts.values()), os.cpu_count() or 1), 1)
    return (*(Offer(kind, count, min(node, count)) for kind, count in counts.items() if count), slots)


def prices(dollars: Any) -> dict[str, float]:
    """Dollars an hour by kind of device; `InputError` names the key that is wrong."""
    if not isinstance(dollars, Mapping):
        raise InputError(f"dollars={dollars}: must hold prices an hour, for example dollars={{A100-80G:1.8}}")
    for kind, price in dollars.items():
        if kind not in GPUS:
            raise InputError(f"dollars: {plugins.unknown(str(kind), list(GPUS), 'device')}")
        if type(price) not in (int, float) or price < 0:
            raise InputError(f"dollars.{kind}={price}: must be a number of dollars an hour")
    return {str(kind): float(price) for kind, price in dollars.items()}


def priced(dollars: Mapping[str, float]) -> dict[str, Gpu]:
    """All known devices at these prices, else at list prices."""
    return {name: replace(gpu, dollars=dollars.get(name, gpu.dollars)) for name, gpu in GPUS.items()}


def of_this_machine(cuda: bool, workers: int | None) -> tuple[Offer, ...]:
    """Its GPUs by the names in `/proc`, where models go on them, and its CPU slots; unknown GPUs are left out."""
    most = workers or 10**6
    slots = Offer(CPU, min(most, os.cpu_count() or 1), 1)
    if not cuda:
        return (slots,)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in NVIDIA.glob("*/information")]
    names = [found[1].strip() for text in texts if (found := re.search(r"^Model:\s*(.+)$", text, re.MULTILINE))]
    kinds = Counter(gpu.name for name in names if (gpu := gpu_of(name)) is not None)
    return (*(Offer(kind, min(count, most), min(count, most)) for kind, count in kinds.items()), slots)


def of_nodes(nodes: Iterable[Node]) -> tuple[Offer, ...]:
    """What machines offer to the planner, which leaves out kinds that it has no figures of."""
    alike = Counter((node.kind, node.gpus) for node in nodes if node.gpus and node.kind in GPUS)
    found = [Offer(kind, gpus * count, gpus) for (kind, gpus), count in sorted(alike.items())]
    return (*found, Offer(CPU, max(1, sum(node.cpus for node in nodes)), 1))


def told_by_ray(names: Iterable[str]) -> tuple[str, str]:
    """The kind behind the names that Ray has for a machine's GPUs, and the name that tells it; empty where none does.

    `A100-80G` says more than `A100`, which is of either memory: the smaller is taken, and what fits there fits. A name
    that is not known stands for a kind of its own.
    """
    known: dict[str, str] = {}
    for gpu in sorted(map(GPUS.__getitem__, _kinds()), key=lambda gpu: -gpu.memory):
        known[gpu.ray] = known[gpu.name] = gpu.name
    asked = sorted(names, key=lambda name: (name not in GPUS, name not in known, name))
    return (known.get(asked[0], asked[0]), asked[0]) if asked else ("", "")


def _kinds() -> list[str]:
    return [name for name in GPUS if name != CPU]


def _whole(key: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise InputError(f"{key}={value}: must be a whole number")
    return value
