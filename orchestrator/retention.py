"""What may be removed from a store. Pure: it is told what there is, and says what may go and why.

Measurements that no run asks for any more stay: they cost hours of GPUs, and the next run may ask for them. So do
imports, leaderboards and every folder that is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator.eventlog import sweep_of
from orchestrator.records import Run

RUNNING = timedelta(days=7)
"""A run without an outcome counts as running for so long."""


@dataclass(frozen=True)
class Policy:
    """Of runs, the newest `keep_runs` stay, and those of the last `keep_days`; without either, all of them.

    `grace` is in hours: nothing younger is removed, since a writer or reader may be about to need it.
    """

    keep_runs: int | None = None
    keep_days: float | None = None
    grace: float = 24


@dataclass(frozen=True)
class Item:
    """A file that may be removed. `size` is in bytes."""

    path: str
    size: int
    reason: str


def kept_runs(runs: Sequence[Run], policy: Policy, now: datetime) -> list[Run]:
    """The runs that stay, of all, oldest first.

    Whatever the policy, a run stays that is the newest of a benchmark, or of a model on a benchmark: as it was asked,
    as it could be pinned, or as it ended. So does one that may still be running. The jobs of a multirun are one run.
    """
    if policy.keep_runs is None and policy.keep_days is None:
        return list(runs)
    newest = {key: run.id for run in runs for key in _stands_for(run)}
    sweeps = list(dict.fromkeys(sweep_of(run.id) for run in runs))
    stay = {
        *sweeps[max(len(sweeps) - (policy.keep_runs or 0), 0) :],
        *map(sweep_of, newest.values()),
        *(sweep_of(run.id) for run in runs if _age(run, now) < timedelta(days=policy.keep_days or 0)),
        *(sweep_of(run.id) for run in runs if run.outcome is None and _age(run, now) < RUNNING),
    }
    return [run for run in runs if sweep_of(run.id) in stay]


def _stands_for(run: Run) -> Iterator[tuple[str | bool, ...]]:
    """All that a run may be the newest of."""
    for benchmark, rows in run.benchmarks.items():
        yield (benchmark,)
        yield (benchmark, rows)
        for model in run.models:
            yield (benchmark, model.name)
            yield (benchmark, model.name, bool(model.streams))
            yield (benchmark, model.name, run.outcome.state if run.outcome else "running")


def _age(run: Run, now: datetime) -> timedelta:
    return now - datetime.fromisoformat(run.started)


def of_runs(runs: Iterable[Run]) -> set[str]:
    """The files that runs refer to."""
    found = {f"models/{spec.fingerprint}.json" for run in runs for model in run.models for spec in model.streams}
    return found | {f"benchmarks/{name}/{rows}.parquet" for run in runs for name, rows in run.benchmarks.items()}


def of_night(snapshot: Mapping[str, Any]) -> set[str]:
    """The files that a night's snapshot refers to; `KeyError`, `TypeError` or `AttributeError` where it is damaged."""
    found: set[str] = set()
    for benchmark, models in snapshot["standings"].items():
        for standing in models.values():
            found.add(f"benchmarks/{benchmark}/{standing['data_hash']}.parquet")
            found.update(f"models/{fingerprint}.json" for fingerprint in standing["streams"])
    return found


def superfluous(
    files: Mapping[str, int], runs: Sequence[Run], kept: Sequence[Run], nights: Collection[str] = ()
) -> list[Item]:
    """What of a store's `runs/`, `models/` and `benchmarks/` nothing refers to, of `files` with their sizes.

    `nights` are the files that nightly snapshots refer to. In the order in which it is to be removed: what refers,
    before what is referred to.
    """
    ids, stay = {run.id for run in runs}, {run.id for run in kept}
    sweeps = {sweep_of(name) for name in ids}
    referred = of_runs(kept) | set(nights)
    found: list[Item] = []
    for path, size in sorted(files.items(), key=lambda item: (not item[0].endswith("/run.json"), item[0])):
        folder, name, *_ = *path.split("/"), ""
        if folder == "runs" and name in ids - stay:
            found.append(Item(path, size, "a run that the policy does not keep"))
        elif re.fullmatch(r"runs/[^/]+/(outcome\.json|events/[^/]+\.parquet)", path) and name not in ids | sweeps:
            found.append(Item(path, size, "left over of a run that was removed"))
        elif re.fullmatch(r"models/[^/]+\.json|benchmarks/[^/]+/[^/]+\.parquet", path) and path not in referred:
            found.append(Item(path, size, "no run and no night refers to it"))
    return found


def useless_indexes(files: Mapping[str, int], fingerprints: Collection[str]) -> list[Item]:
    """Indexes of fingerprints that have no part."""
    paths = ((path, size) for path, size in sorted(files.items()) if path.startswith("index/"))
    return [Item(path, size, "an index of no part") for path, size in paths if path.split("/")[1] not in fingerprints]
