"""Fewer, larger parts. Merging adds a part and takes none away; what it made superfluous is named here, and goes later.

A part may go when a sound one that holds all of its rows has been there for a time of grace. Readers that listed it
before and find it gone list again (`ParquetStore.contents`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.stores.files import Entry
from orchestrator.stores.parquet import ParquetStore
from orchestrator.stores.parts import Contents, Part, merge, superseded
from workers.errors import StoreError
from workers.protocol import digest

LARGE = 64 * 2**20
"""Bytes from which on a part is left alone; what is merged together has no more than that."""


@dataclass(frozen=True)
class Compacted:
    """What became of one fingerprint: `parts` went into `merged` new ones. Damaged parts stay where they are."""

    parts: int
    merged: int
    damaged: tuple[str, ...]


def compact(store: ParquetStore, fingerprint: str, large: int = LARGE) -> Compacted:
    """Merge a fingerprint's small parts, and gather all of them in the index."""
    found = store.contents(fingerprint)
    if len(_small(_live(found), found.entries, large)) > 1:
        found = store.contents(fingerprint, indexed=False)
    live = {name for name in _live(found) if name in found.parts and _honest(found.parts[name])}
    groups = list(_groups(_small(live, found.entries, large), found.entries, large))
    for group in groups:
        content = merge({name: found.parts[name] for name in group})
        path = store.keep(fingerprint, content)
        if store.load(path) != content:
            raise StoreError(f"store={store.uri}: {path} reads back otherwise than it was written; nothing was removed")
    store.index(fingerprint, at=1)
    return Compacted(sum(map(len, groups)), len(groups), found.damaged)


def removable(store: ParquetStore, fingerprint: str, before: float) -> list[Entry]:
    """Parts all of whose rows have been in another one since `before` (seconds since 1970), which is sound now.

    The index says where to look and since when; that a part may go is read from the other one itself.
    """
    index = store.load_index(fingerprint)[0]
    if index is None:
        return []
    entries = store.parts(fingerprint)
    candidates = {name for name, since in index.since.items() if name in entries and since <= before}
    if not candidates:
        return []
    holders = store.load_parts(fingerprint, {name: entries[name].path for name in index.stamps if name in entries})
    return [entries[name] for name in sorted(candidates & superseded(holders))]


def _live(found: Contents) -> set[str]:
    """Parts that no other one holds, as far as what was read tells."""
    inside = found.parts[""].stamps.keys() if "" in found.parts else set()
    return (inside | found.parts.keys()) - {""} - superseded(found.parts)


def _honest(part: Part) -> bool:
    """Whether a part's identity is that of its fingerprint; `verify` names one that is not, so it stays as it is."""
    return digest(part.identity) == part.fingerprint


def _small(names: set[str], entries: Mapping[str, Entry], large: int) -> list[str]:
    return sorted(name for name in names if entries[name].size < large)


def _groups(names: Sequence[str], entries: Mapping[str, Entry], large: int) -> Iterator[list[str]]:
    """Cut into groups of at most so many bytes, and of at least two parts."""
    group: list[str] = []
    size = 0
    for name in names:
        if group and size + entries[name].size > large:
            if len(group) > 1:
                yield group
            group, size = [], 0
        group.append(name)
        size += entries[name].size
    if len(group) > 1:
        yield group
