"""What a plan will take, from what is at hand: model files, configurations, the store's footers, the devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from orchestrator import cluster
from orchestrator.architecture import Architecture, from_config, typical
from orchestrator.checkpoints import cached, config_at_hand
from orchestrator.config import Settings
from orchestrator.cost import CPU, Gpu, Offer, gpu_of
from orchestrator.eventlog import sweep_of
from orchestrator.placing import Here, Prediction, predict
from orchestrator.plan import Plan, family
from orchestrator.planned import SWEEP
from orchestrator.prepare import Prepared
from orchestrator.rates import FEWEST, Rates, calibrated
from orchestrator.records import Run
from orchestrator.spent import Spent, spent
from orchestrator.stores import Held, Store
from workers import buckets
from workers.fetch import is_here
from workers.protocol import Model, ModelSpec


def outlook(settings: Settings, store: Store, prepared: Prepared) -> Prediction:
    """The prediction for what a command owes."""
    known = architectures(settings, prepared.models) if prepared.plan.owed else {}
    return outlook_of(settings, store, prepared.plan, prepared.held, known, prepared.cuda)


def outlook_of(
    settings: Settings,
    store: Store,
    plan: Plan,
    held: Mapping[str, Held],
    known: Mapping[str, Architecture],
    cuda: bool,
) -> Prediction:
    """The prediction for a plan, on the cluster that the command describes or on the one that is there.

    Where nothing is owed no cluster is asked.
    """
    gpus = cluster.priced(settings.dollars)
    if settings.what_if is None:
        gpus[CPU] = replace(gpus[CPU], memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if not plan.owed:
        return predict(plan, Here(gpus, (), Rates(), {}))
    here = {name for name, stream in plan.streams.items() if stream.spec.revision and _weights_here(stream.spec)}
    return predict(plan, Here(gpus, _offers(settings, cuda), _rates(store, held), known, here))


def _offers(settings: Settings, cuda: bool) -> tuple[Offer, ...]:
    if settings.what_if is not None:
        return settings.what_if
    if settings.pool == "ray" and settings.ray_address:
        from orchestrator.ray_cluster import cluster_devices

        return cluster_devices(settings.ray_address)
    return cluster.of_this_machine(cuda, 1 if settings.pool == "local" else settings.workers)


def architectures(settings: Settings, models: Sequence[Model]) -> dict[str, Architecture]:
    """By fingerprint, of the streams of which anything is known."""
    found: dict[str, Architecture] = {}
    for model in models:
        entry = settings.models.get(model.name, {})
        members = list((entry.get("members") or {}).values())
        for at, spec in enumerate(model.streams):
            own = {**entry, **(members[at] if at < len(members) else {})}
            shape = None if spec.fingerprint in found else _architecture(spec, own)
            if shape is not None:
                found[spec.fingerprint] = shape
    return found


def _architecture(spec: ModelSpec, entry: Mapping[str, Any]) -> Architecture | None:
    """From the checkpoint's config.json where it is here, else from the size in the model's file."""
    head = family(spec.family).KIND in ("logprob", "generate")
    values = config_at_hand(spec.path, spec.revision or entry.get("revision"))
    shape = from_config(values, head) if values is not None else None
    size = entry.get("size")
    return typical(float(size), head, entry.get("active")) if shape is None and size else shape


def _has_weights(spec: ModelSpec) -> bool:
    return spec.weights != "none" and not spec.endpoint


def _weights_here(spec: ModelSpec) -> bool:
    if buckets.is_bucket(spec.path):
        return is_here(spec)
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return any(cached(spec.path, name, spec.revision) for name in names)


def _rates(store: Store, held: Mapping[str, Held]) -> Rates:
    """Calibrated on all parts of the planned models and some of every other one."""
    footers = [footer for one in held.values() for footer in one.provenance]
    if store.exists():
        others = (name for name in store.fingerprints() if name not in held)
        footers += [footer for name in others for footer in store.footers(name, FEWEST)]
    return calibrated(footers, _kinds(footers))


def _kinds(footers: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, float]]:
    """The kind and the peak of each device that footers name."""
    devices = {footer["device"] for footer in footers if footer.get("device")}
    found: dict[str, Gpu | None] = {device: gpu_of(device) for device in devices}
    return {device: (gpu.name, gpu.flops) for device, gpu in found.items() if gpu is not None}


@dataclass(frozen=True)
class Compared:
    """What a run's plan expected of a stream, and what the parts say that the run wrote; hours are of GPUs."""

    model: str
    predicted: Mapping[str, float]
    measured: Spent

    def to_json(self) -> dict[str, Any]:
        """Both, each under the same names."""
        took = self.measured
        measured = {"tokens": took.tokens, "seconds": took.seconds, "gpu_hours": took.gpu_hours}
        return {
            "model": self.model,
            "predicted": dict(self.predicted),
            "measured": {**measured, "dollars": took.dollars},
        }

    def __str__(self) -> str:
        expected, took = self.predicted, self.measured
        ratio = f", {took.seconds / expected['seconds']:.2f} x" if expected["seconds"] else ""
        hours = (
            f", {expected['gpu_hours']:.3f} and {took.gpu_hours:.3f} GPU-hours"
            if expected["gpu_hours"] or took.gpu_hours
            else ""
        )
        price = "no known price" if took.dollars is None else f"${took.dollars:,.2f}"
        return (
            f"{self.model}: predicted {expected['tokens']:,.0f} tokens in {expected['seconds']:,.1f} s of its workers, "
            f"measured {took.tokens:,} in {took.seconds:,.1f} s{ratio}{hours}, ${expected['dollars']:,.2f} and {price}"
        )


Parts = Callable[[str], Sequence[Mapping[str, str]]]
"""The provenance of a fingerprint's parts."""


def compared(parts: Parts, run: Run, devices: Mapping[str, Gpu]) -> list[Compared]:
    """Prediction against outcome of a run, for every stream that loaded weights and wrote parts."""
    specs = {spec.fingerprint: spec for model in run.models for spec in model.streams if _has_weights(spec)}
    found = []
    for fingerprint, expected in run.predicted.items():
        if fingerprint in specs:
            own = [part for part in parts(fingerprint) if part.get("run") == sweep_of(run.id)]
            if own:
                found.append(Compared(specs[fingerprint].name, expected, spent(own, devices)))
    return found


def as_a_whole(run: Run) -> str | None:
    """How long a run that scored everything was expected to take, and took; None for all others."""
    expected = run.predicted.get(SWEEP)
    if not expected or run.outcome is None or run.outcome.state != "done" or run.outcome.failures:
        return None
    took = (datetime.fromisoformat(run.outcome.ended) - datetime.fromisoformat(run.started)).total_seconds()
    makespan, bound = expected["makespan"], expected["bound"]
    ratio = f", {took / makespan:.2f} x" if makespan else ""
    return f"the sweep: predicted {makespan:,.1f} s (at least {bound:,.1f}), took {took:,.1f} s{ratio}"


def told(against: Sequence[Compared], run: Run) -> list[str]:
    """Prediction against outcome in words."""
    whole = as_a_whole(run)
    return [*map(str, against), *([whole] if whole else [])]
