"""Parquet parts in a folder or a bucket.

    store.json                                  schema version
    measurements/<fingerprint>/<sha256>.parquet  one part; its name is the hash of its bytes
    index/<fingerprint>                          a copy of many parts in one file; a cache, never the truth
    models/<fingerprint>.json                    the spec behind a fingerprint
    benchmarks/<name>/<data hash>.parquet        the examples that a run scored
    runs/<run id>/{run,outcome}.json             what was asked for, how it ended
    leaderboards/<benchmark>/<rule>/...          tables and pages, views that can be made again

No rank numbers and no "done" marker: what is there is there. Parts are immutable, so a reader needs no lock.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from orchestrator.stores import SCHEMA, Held, Stream
from orchestrator.stores.files import Entry, Files, open_files
from orchestrator.stores.parts import Contents, Part, gathered, merge, name_of, parsed, superseded, to_bytes, united
from workers.errors import StoreError, first_line
from workers.protocol import Measurement, ModelSpec

READERS = 32
"""Parts of a model that are fetched at a time."""

MODELS = 8
"""Models that are read at a time."""

CHUNK = 1024
"""Parts whose bytes are in memory at a time."""

LISTINGS = 100
"""How often a reader lists again because a part vanished, before it gives up."""

INDEX_AT = 8
"""Parts outside the index from which on a new one is worth its writing."""


class ParquetStore:
    """See the module; every method raises `StoreError` with the path, the reason and the remedy."""

    def __init__(self, uri: str, facts: Mapping[str, str]) -> None:
        self.uri = re.sub(r"(?<=[^:/])/+$", "", uri)
        self._facts = dict(facts)
        self._address: Mapping[str, str] | None = None
        self._address = self._files.address

    @cached_property
    def _files(self) -> Files:
        return open_files(self.uri, self._address)

    def __getstate__(self) -> dict[str, Any]:
        """A store travels as its address: connections and credentials are each process's own."""
        return {"uri": self.uri, "_facts": self._facts, "_address": self._address}

    def prepare(self) -> None:
        """Write the schema's version, or check it."""
        found = self.load("store.json")
        if found is None:
            self.save("store.json", json.dumps({"schema": SCHEMA}).encode())
            return
        self._check_schema(found)
        probe = f".probe-{uuid.uuid4().hex}"
        with self._reasons("cannot be written"):
            self._files.write(probe, b"")
            self._files.remove([probe])

    def exists(self) -> bool:
        """Whether `prepare` ever ran here."""
        found = self.load("store.json")
        if found is not None:
            self._check_schema(found)
        return found is not None

    def _check_schema(self, found: bytes) -> None:
        """The store's version must be the one that this code writes."""
        try:
            version = json.loads(found)["schema"]
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"store={self.uri}: store.json is damaged ({first_line(error)}); "
                f'write {{"schema": {SCHEMA}}} into it, or use a new store'
            ) from error
        if version != SCHEMA:
            raise StoreError(
                f"store={self.uri}: schema {version}, this rewardsweep knows {SCHEMA}; upgrade, or use a new store"
            )

    def write(self, spec: ModelSpec, rows: Sequence[Measurement], provenance: Mapping[str, str]) -> None:
        """One part with all rows; the footer holds the identity, the driver's facts and the worker's."""
        told = {**self._facts, **provenance, "model": spec.name, "path": spec.path}
        footer = {"fingerprint": spec.fingerprint, "identity": spec.identity, "provenance": told}
        self.keep(spec.fingerprint, to_bytes(rows, footer))

    def keep(self, fingerprint: str, content: bytes) -> str:
        """Write a part; its path."""
        path = f"measurements/{fingerprint}/{hashlib.sha256(content).hexdigest()}.parquet"
        self.save(path, content)
        return path

    def read(self, fingerprint: str) -> Stream:
        """The union of all sound parts."""
        return united(self.contents(fingerprint))

    def held(self, fingerprint: str) -> Held:
        """The requests of all sound parts."""
        return gathered(self.contents(fingerprint))

    def held_of(self, fingerprints: Iterable[str]) -> dict[str, Held]:
        """`held` of each, several at a time."""
        names = sorted(set(fingerprints))
        with ThreadPoolExecutor(MODELS) as pool:
            return dict(zip(names, pool.map(self.held, names), strict=True))

    def footers(self, fingerprint: str, most: int) -> list[Mapping[str, str]]:
        """Of the first sound parts, and of those that went into them; read until there are enough."""
        found: dict[str, Mapping[str, str]] = {}
        for name, entry in sorted(self.parts(fingerprint).items()):
            if len(found) >= most:
                break
            for part in self.load_parts(fingerprint, {name: entry.path}).values():
                found.update({source: told for source, told in part.merged.items() if told})
        return list(found.values())[:most]

    def contents(self, fingerprint: str, *, indexed: bool = True) -> Contents:
        """All sound parts, the index in place of those that it stands for; without `indexed`, every one itself.

        A part that vanished between listing and reading went into another one, which a new listing has.
        """
        index, notes = self.load_index(fingerprint) if indexed else (None, ())
        known: dict[str, Part | str] = {}
        gone: set[str] = set()
        for _ in range(LISTINGS):
            entries = self.parts(fingerprint)
            fresh = index is not None and all(
                name in entries and entries[name].stamp == stamp for name, stamp in index.stamps.items()
            )
            covered = index.merged.keys() | index.stamps.keys() if fresh and index is not None else set()
            wanted = sorted(entries.keys() - covered)
            again = {name for name in wanted if name not in known}
            missing = self._fetch(fingerprint, {name: entries[name].path for name in again}, known) - gone
            if not missing:
                break
            gone |= missing
        else:
            raise StoreError(f"store={self.uri}: parts of {fingerprint} keep vanishing; what removes them?")
        found = {name: known.get(name, f"{entries[name].path}: listed, but not there") for name in wanted}
        parts = {name: part for name, part in found.items() if isinstance(part, Part)}
        damaged = tuple(part for part in found.values() if isinstance(part, str))
        return Contents(entries, {**({"": index} if covered and index else {}), **parts}, damaged, notes)

    def parts(self, fingerprint: str) -> dict[str, Entry]:
        """A fingerprint's parts as a listing has them, by name."""
        return {name_of(entry.path): entry for entry in self.entries(f"measurements/{fingerprint}")}

    def load_parts(self, fingerprint: str, paths: Mapping[str, str]) -> dict[str, Part]:
        """Those of some parts that are there and sound."""
        known: dict[str, Part | str] = {}
        self._fetch(fingerprint, paths, known)
        return {name: part for name, part in known.items() if isinstance(part, Part)}

    def _fetch(self, fingerprint: str, paths: Mapping[str, str], known: dict[str, Part | str]) -> set[str]:
        """Read parts into `known`, a damaged one as the reason; the names of those that are no longer there."""
        missing: set[str] = set()
        names = list(paths)
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(names), CHUNK):
                some = names[start : start + CHUNK]
                for name, content in zip(some, pool.map(lambda name: self.load(paths[name]), some), strict=True):
                    if content is None:
                        missing.add(name)
                        continue
                    try:
                        known[name] = parsed(content, paths[name], fingerprint)
                    except StoreError as error:
                        known[name] = str(error)
        return missing

    def load_index(self, fingerprint: str) -> tuple[Part | None, tuple[str, ...]]:
        """The index, and a note where it is damaged. Its first 64 bytes are the hash of the others."""
        path = f"index/{fingerprint}"
        content = self.load(path)
        if content is None:
            return None, ()
        try:
            return parsed(content[64:], content[:64].decode("ascii", "replace"), fingerprint), ()
        except StoreError:
            return None, (f"{path}: damaged, so it is not used; `rewardsweep compact` writes it again",)

    def index(self, fingerprint: str, *, at: int = INDEX_AT) -> bool:
        """Write the index again if at least so many parts are outside of it; whether it was written."""
        found = self.contents(fingerprint)
        outside = found.parts.keys() - {""}
        if not outside or len(outside) < at or len(found.entries) < 2:
            return False
        old = superseded(found.parts)
        inside = found.parts[""].stamps.keys() if "" in found.parts else set()
        stamps = {name: found.entries[name].stamp for name in (outside | inside) - old}
        content = merge(found.parts, stamps=stamps, since=self._since(fingerprint, found))
        self.save(f"index/{fingerprint}", hashlib.sha256(content).hexdigest().encode() + content)
        return True

    def _since(self, fingerprint: str, found: Contents) -> dict[str, float]:
        """When each superfluous part's rows were first in another one: a listing tells, or the index before."""
        before = self.load_index(fingerprint)[0]
        since = {} if before is None else {name: at for name, at in before.since.items() if name in found.entries}
        for name, part in found.parts.items():
            written = found.entries[name].modified if name else math.inf
            for source in part.merged.keys() & found.entries.keys() - {name}:
                since[source] = min(since.get(source, math.inf), written)
        return {name: at for name, at in since.items() if at < math.inf}

    def unfinished(self) -> list[Entry]:
        """What writers that were killed left behind, and what those that write now have not finished."""
        with self._reasons("cannot list it"):
            return self._files.unfinished()

    def fingerprints(self) -> list[str]:
        """Every fingerprint that has a part."""
        with self._reasons("cannot list measurements"):
            return sorted(self._files.folders("measurements"))

    def all_parts(self) -> list[Entry]:
        """The parts of all fingerprints by their names, a listing for each, many at a time."""
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(self.parts, self.fingerprints()))
        return [parts[name] for parts in found for name in sorted(parts)]

    def save(self, path: str, content: bytes) -> str:
        """Write a file so that it is there whole or not at all."""
        with self._reasons(f"cannot write {path}"):
            self._files.write(path, content)
        return f"{self.uri}/{path}"

    def create(self, path: str, content: bytes) -> bool:
        """Write a file that is not there yet; False where it is."""
        with self._reasons(f"cannot create {path}"):
            return self._files.create(path, content)

    def replace(self, path: str, content: bytes, expected: bytes) -> bool:
        """Write a file if its content is `expected`; False where it is not."""
        with self._reasons(f"cannot replace {path}"):
            return self._files.replace(path, content, expected)

    def remove(self, *paths: str) -> None:
        """Remove files; one that is not there is no error."""
        with self._reasons(f"cannot remove {', '.join(paths[:1])}"):
            self._files.remove(paths)

    def check_exclusive(self) -> None:
        """Try `create` and `replace` on a file of their own."""
        path = f".probe-{uuid.uuid4().hex}"
        try:
            firsts = self.create(path, b"1"), self.create(path, b"2")
            swaps = self.replace(path, b"3", b"1"), self.replace(path, b"4", b"1")
            if (firsts, swaps, self.load(path)) != ((True, False), (True, False), b"3"):
                raise StoreError(
                    f"store={self.uri}: has no conditional writes, so nothing can be held exclusively here; "
                    "use a store that has them (docs/store.md)"
                )
        finally:
            self.remove(path)

    def load(self, path: str) -> bytes | None:
        """A file's bytes, None where there is none."""
        with self._reasons(f"cannot read {path}"):
            return self._files.read(path)

    def entries(self, folder: str) -> list[Entry]:
        """All files below a folder but unfinished ones, with what a listing tells of them."""
        with self._reasons(f"cannot list {folder or 'it'}"):
            return self._files.list(folder)

    def list(self, folder: str) -> list[str]:
        """All files below a folder but unfinished ones, relative to the store, sorted."""
        return sorted(entry.path for entry in self.entries(folder))

    @contextmanager
    def _reasons(self, what: str) -> Iterator[None]:
        """Turn whatever a place raises into a `StoreError` that says what was attempted."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"store={self.uri}: {what}: {self._files.explained(error)}") from error
