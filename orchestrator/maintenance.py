"""The verbs `compact` and `gc`: fewer and larger parts, and nothing that nobody needs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from orchestrator import records
from orchestrator.config import Settings
from orchestrator.leaderboards import existing_store
from orchestrator.progress import say
from orchestrator.retention import Item, Policy, kept_runs, of_night, superfluous, useless_indexes
from orchestrator.stores.compaction import compact as compact_parts
from orchestrator.stores.compaction import removable
from orchestrator.stores.files import Entry
from orchestrator.stores.parquet import ParquetStore
from workers.errors import StoreError, first_line

HOUR = 3600
BATCH = 1000
"""Files that are removed with one request, where the store can."""


def compact(settings: Settings) -> int:
    """Merge small parts and write the indexes; nothing is removed. 1 if a part is damaged."""
    store = existing_store(settings)
    fingerprints = store.fingerprints()
    done = [compact_parts(store, fingerprint) for fingerprint in fingerprints]
    damaged = [problem for one in done for problem in one.damaged]
    for problem in damaged:
        say(f"problem: {problem}; left as it is")
    parts, merged = sum(one.parts for one in done), sum(one.merged for one in done)
    if settings.output == "json":
        print(json.dumps({"models": len(done), "parts": parts, "merged": merged, "damaged": damaged}, indent=1))
    elif parts:
        print(
            f"{parts} parts of {len(done)} models went into {merged} larger ones; "
            f"`rewardsweep gc` removes the old ones after {settings.grace_hours:g} hours"
        )
    else:
        print(f"nothing to merge: the parts of {len(done)} models are few and large")
    return 1 if damaged else 0


def gc(settings: Settings) -> int:
    """Say what nothing refers to; with `apply=true`, remove it."""
    store = existing_store(settings)
    policy = Policy(settings.keep_runs, settings.keep_days, settings.grace_hours)
    found = _found(store, policy)
    if settings.apply:
        found = _removed(store, policy, found)
    if settings.output == "json":
        print(json.dumps({"removed": settings.apply, "files": [asdict(item) for item in found]}, indent=1))
        return 0
    for item in found:
        print(f"{item.path}  {item.size} bytes  {item.reason}")
    if not found:
        print(f"nothing to remove: all that is older than {settings.grace_hours:g} hours is needed")
        return 0
    count = f"{len(found)} files, {sum(item.size for item in found)} bytes"
    print(f"{count}: removed" if settings.apply else f"{count}: nothing was removed; apply=true does it")
    return 0


def _found(store: ParquetStore, policy: Policy) -> list[Item]:
    """All that may go now, in the order of removal."""
    before = time.time() - policy.grace * HOUR
    fingerprints = store.fingerprints()
    unfinished = [Item(one.path, one.size, "unfinished") for one in _old(store.unfinished(), before)]
    parts = [
        Item(one.path, one.size, "all of its rows are in a larger part")
        for fingerprint in fingerprints
        for one in removable(store, fingerprint, before)
    ]
    indexes = {one.path: one.size for one in _old(store.entries("index"), before)}
    return [*unfinished, *parts, *useless_indexes(indexes, fingerprints), *_records(store, policy, before)]


def _records(store: ParquetStore, policy: Policy, before: float) -> list[Item]:
    """Files are listed before the runs: what a run wrote in between is none of them."""
    entries = [one for folder in ("runs", "models", "benchmarks") for one in store.entries(folder)]
    runs = records.load_runs(store)
    kept = kept_runs(runs, policy, datetime.now(UTC))
    return superfluous({one.path: one.size for one in _old(entries, before)}, runs, kept, _nights(store))


def _nights(store: ParquetStore) -> set[str]:
    """What the snapshots of all nights refer to. One that cannot be read may refer to anything: then nothing goes."""
    paths = [path for path in store.list("nightly") if path.endswith("/snapshot.json")]
    return set().union(*(_night(store, path) for path in paths))


def _night(store: ParquetStore, path: str) -> set[str]:
    try:
        return of_night(json.loads(store.load(path) or b""))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoreError(
            f"store={store.uri}: {path} is damaged or of another version ({first_line(error)}); remove that file"
        ) from error


def _old(entries: Iterable[Entry], before: float) -> list[Entry]:
    return [one for one in entries if one.modified <= before]


def _removed(store: ParquetStore, policy: Policy, found: Sequence[Item]) -> list[Item]:
    """Remove what is still superfluous: a run that began meanwhile may refer to some of it."""
    still = {item.path for item in _records(store, policy, time.time() - policy.grace * HOUR)}
    folders = ("runs/", "models/", "benchmarks/")
    going = [item for item in found if not item.path.startswith(folders) or item.path in still]
    for start in range(0, len(going), BATCH):
        store.remove(*(item.path for item in going[start : start + BATCH]))
    return going
