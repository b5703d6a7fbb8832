"""What is known before anything is computed: rows, pinned models, what the store has, what is owed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from orchestrator import records
from orchestrator.benchmarks import Benchmark, Example, find
from orchestrator.config import Settings
from orchestrator.cost import CPU
from orchestrator.paths import CONF_DIR
from orchestrator.pin import check_entry, cuda_here, pin_model
from orchestrator.plan import Plan, make_plan
from orchestrator.progress import say
from orchestrator.records import Run
from orchestrator.stores import Held, Store
from workers.errors import InputError
from workers.protocol import Model

PINNED_AT_ONCE = 16
Present = Mapping[str, AbstractSet[str]]
"""Digests of the requests whose answers the store has, by fingerprint."""
Loaded = Mapping[str, tuple[Benchmark, list[Example]]]
"""Benchmarks with their rows, by name."""


@dataclass(frozen=True)
class Prepared:
    """What a command asks for, and what of it is owed.

    `refused` tells why some models could not be pinned, `cuda` whether models go on GPUs; `held` is what the store has,
    by fingerprint, and `runs` are its earlier runs.
    """

    models: tuple[Model, ...]
    refused: Mapping[str, str]
    benchmarks: Loaded
    cuda: bool
    plan: Plan
    held: Mapping[str, Held]
    runs: Sequence[Run]


def prepare(settings: Settings, store: Store) -> Prepared:
    """Load the data, pin the models, see what the store has; `InputError` where no model can be pinned."""
    require_models(settings)
    benchmarks = {name: load_benchmark(settings, name) for name in benchmark_names(settings)}
    cuda = uses_cuda(settings)
    models, refused = pinned(settings, cuda, {})
    return plan_owed(settings, store, models, refused, benchmarks, cuda)


def plan_owed(
    settings: Settings,
    store: Store,
    models: tuple[Model, ...],
    refused: Mapping[str, str],
    benchmarks: Loaded,
    cuda: bool,
) -> Prepared:
    """What is owed of pinned models over loaded benchmarks, by what the store has."""
    held = held_of(store, models)
    present = {fingerprint: one.requests for fingerprint, one in held.items()}
    examples = {name: rows for name, (_, rows) in benchmarks.items()}
    runs = records.load_runs(store)
    asked = [model for model in models if model.streams]
    todo = make_plan(asked, examples, present, earlier(runs), settings.shard_rows)
    return Prepared(models, refused, benchmarks, cuda, todo, held, runs)


def require_models(settings: Settings) -> None:
    """`InputError` unless there is a model, and nothing wrong in any model's file."""
    if not settings.models:
        suites = ", ".join(sorted(file.stem for file in (CONF_DIR / "suite").glob("*.yaml")))
        raise InputError(
            f"no model: give model=[name,...] (a file of conf/model, for example longest), suite=NAME ({suites}) "
            "or +models.mine.path=DIR +models.mine.family=scalar"
        )
    for name, entry in settings.models.items():
        check_entry(name, entry)


def benchmark_names(settings: Settings) -> tuple[str, ...]:
    """The benchmarks of the command: those named, else those with a file, else RewardBench."""
    return settings.benchmarks or tuple(settings.data) or ("rewardbench",)


def load_benchmark(settings: Settings, name: str) -> tuple[Benchmark, list[Example]]:
    """A benchmark and its examples, from `data.<name>` or its pinned source."""
    benchmark = find(name)
    return benchmark, benchmark.load(settings.data.get(name))


def pinned(settings: Settings, cuda: bool, known: dict[str, Model]) -> tuple[tuple[Model, ...], dict[str, str]]:
    """The models of the command; of several, one whose checkpoint cannot be pinned fails alone, and that is said.

    `known` as in `resolved`.
    """
    models, refused = resolved(settings, cuda, known)
    said = list(refused.items())
    last = said.pop() if len(refused) == len(models) else None
    for name, reason in said:
        say(f"error: model '{name}' is given up: {reason}")
    if last is not None:  # nothing is left to be scored: a mistake of the command
        raise InputError(last[1])
    return models, refused


def resolved(settings: Settings, cuda: bool, known: dict[str, Model]) -> tuple[tuple[Model, ...], dict[str, str]]:
    """The models of the command, and why some of them, without streams, cannot be pinned now.

    Many at a time: of a model on the hub it is a question over the network. A plan for a cluster that is described
    does not ask it. Mistakes in a model's file are for `require_models`. What was pinned already is in `known`, by
    name and entry; what is pinned here is added.
    """

    def one(name: str, entry: Mapping[str, Any]) -> tuple[Model, str | None]:
        key = json.dumps([name, entry], sort_keys=True, default=str)
        try:
            known[key] = known.get(key) or pin_model(name, entry, cuda, hub=settings.what_if is None)
        except InputError as error:
            return Model(name, entry["family"], ()), str(error)
        return known[key], None

    with ThreadPoolExecutor(PINNED_AT_ONCE) as threads:
        found = list(threads.map(lambda item: one(*item), settings.models.items()))
    return tuple(model for model, _ in found), {model.name: reason for model, reason in found if reason is not None}


def uses_cuda(settings: Settings) -> bool:
    """Whether models go on GPUs: as configured, else whether the cluster, or this machine, has some."""
    if settings.what_if is not None:
        return any(offer.kind != CPU for offer in settings.what_if)
    if settings.device != "auto":
        return settings.device == "cuda"
    if settings.pool == "ray" and settings.ray_address:
        from orchestrator.ray_cluster import cluster_gpus

        return cluster_gpus(settings.ray_address) > 0
    return cuda_here()


def held_of(store: Store, models: Iterable[Model]) -> dict[str, Held]:
    """What the store has of each of the models' streams; damage is said aloud."""
    held = store.held_of(spec.fingerprint for model in models for spec in model.streams)
    for one in held.values():
        absent = [f"{problem}; its rows count as absent and are scored again" for problem in one.damaged]
        for warning in (*absent, *one.notes):
            say(f"warning: {warning}")
        if one.conflicts:
            say(f"warning: {one.conflicts} rows were scored twice with different values; run `rewardsweep verify`")
    return held


def earlier(runs: Iterable[Run]) -> dict[str, Mapping[str, Any]]:
    """The identity under which each stream's name was last seen."""
    return {spec.name: spec.identity for run in runs for model in run.models for spec in model.streams}
