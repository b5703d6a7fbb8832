"""Parquet parts in a folder or a bucket.

    store.json                                  schema version
    measurements/<fingerprint>/<sha256>.parquet  one part; its name is the hash of its bytes
    models/<fingerprint>.json                    the spec behind a fingerprint
    benchmarks/<name>/<data hash>.parquet        the examples that a run scored
    runs/<run id>/{run,outcome}.json             what was asked for, how it ended
    leaderboards/<benchmark>/<rule>/...          tables and pages, views that can be made again

No rank numbers and no "done" marker: what is there is there. Parts are immutable, so a reader needs no lock.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.stores import SCHEMA, Held, Stream
from orchestrator.stores.files import Entry, open_files
from workers.errors import StoreError, first_line
from workers.protocol import Measurement, ModelSpec, measurement_key

COLUMNS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("request", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("token_hash", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("extra", pa.map_(pa.string(), pa.float64()), nullable=False),
    ]
)

FOOTER = b"rewardsweep"


class ParquetStore:
    """See the module; every method raises `StoreError` with the path, the reason and the remedy."""

    def __init__(self, uri: str, facts: Mapping[str, str]) -> None:
        self.uri = re.sub(r"(?<=[^:/])/+$", "", uri)
        self._facts = dict(facts)
        self._files = open_files(self.uri)

    def __reduce__(self) -> tuple[type[ParquetStore], tuple[str, dict[str, str]]]:
        """A store travels as its address: connections and credentials are each process's own."""
        return ParquetStore, (self.uri, self._facts)

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
            raise StoreError(f"store={self.uri}: schema {version}, this rewardsweep writes {SCHEMA}; use a new store")

    def write(self, spec: ModelSpec, rows: Sequence[Measurement], provenance: Mapping[str, str]) -> None:
        """One part with all rows; the footer holds the identity, the driver's facts and the worker's."""
        footer = {
            "schema": SCHEMA,
            "fingerprint": spec.fingerprint,
            "identity": spec.identity,
            "provenance": {**self._facts, **provenance, "model": spec.name, "path": spec.path},
        }
        schema = COLUMNS.with_metadata({FOOTER: json.dumps(footer, sort_keys=True).encode()})
        table = pa.Table.from_pylist([{**asdict(row), "extra": list(row.extra.items())} for row in rows], schema=schema)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        name = hashlib.sha256(buffer.getvalue()).hexdigest()
        self.save(f"measurements/{spec.fingerprint}/{name}.parquet", buffer.getvalue())

    def read(self, fingerprint: str) -> Stream:
        """The union of all sound parts; the first part wins where two disagree."""
        rows: dict[str, Measurement] = {}
        damaged: list[str] = []
        conflicts: set[str] = set()
        provenance: list[Mapping[str, str]] = []
        for table, footer in self._parts(fingerprint, damaged):
            provenance.append(footer["provenance"])
            for row in _measurements(table):
                if not _agree(rows.setdefault(row.request, row), row):
                    conflicts.add(row.request)
        return Stream(rows, tuple(damaged), len(conflicts), tuple(provenance))

    def held(self, fingerprint: str) -> Held:
        """The requests of all sound parts; whether parts disagree is looked up only where they have rows in common."""
        requests: set[str] = set()
        damaged: list[str] = []
        provenance: list[Mapping[str, str]] = []
        rows = 0
        for table, footer in self._parts(fingerprint, damaged, ["request"]):
            provenance.append(footer["provenance"])
            rows += table.num_rows
            requests.update(table["request"].to_pylist())
        conflicts = self.read(fingerprint).conflicts if len(requests) < rows else 0
        return Held(frozenset(requests), tuple(damaged), conflicts, tuple(provenance))

    def footers(self, fingerprint: str, most: int) -> list[Mapping[str, str]]:
        """The provenance of the first sound parts, at most so many."""
        return [footer["provenance"] for _, footer in islice(self._parts(fingerprint, [], []), most)]

    def _parts(
        self, fingerprint: str, damaged: list[str], columns: Sequence[str] | None = None
    ) -> Iterator[tuple[pa.Table, dict[str, Any]]]:
        """Every sound part, read and checked when it is asked for; the others are named in `damaged`."""
        for path in self.list(f"measurements/{fingerprint}"):
            try:
                table, footer = _read_table(self.load(path) or b"", path, columns)
                if footer["fingerprint"] != fingerprint:
                    raise StoreError(f"{path}: belongs to another model ({footer['fingerprint']})")
            except StoreError as error:
                damaged.append(str(error))
                continue
            yield table, footer

    def fingerprints(self) -> list[str]:
        """Every fingerprint that has a part."""
        return sorted({path.split("/")[1] for path in self.list("measurements") if path.endswith(".parquet")})

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

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        with self._reasons(f"cannot remove {path}"):
            self._files.remove([path])

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

    def _entries(self, folder: str) -> list[Entry]:
        with self._reasons(f"cannot list {folder or 'it'}"):
            found = self._files.list(folder)
        return [entry for entry in found if not entry.path.rpartition("/")[2].startswith(".")]

    def list(self, folder: str) -> list[str]:
        """All files below a folder but unfinished ones, relative to the store, sorted."""
        return sorted(entry.path for entry in self._entries(folder))

    @contextmanager
    def _reasons(self, what: str) -> Iterator[None]:
        """Turn whatever a place raises into a `StoreError` that says what was attempted."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"store={self.uri}: {what}: {self._files.explained(error)}") from error


def read_part(content: bytes, path: str) -> tuple[list[Measurement], dict[str, Any]]:
    """The rows and the footer of a part whose bytes still have the hash in its name.

    Raises `StoreError` with the path and what is wrong.
    """
    table, footer = _read_table(content, path)
    return _measurements(table), footer


def _measurements(table: pa.Table) -> list[Measurement]:
    return [Measurement(**{**row, "extra": dict(row["extra"])}) for row in table.to_pylist()]


def _read_table(content: bytes, path: str, columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """Some or all columns, and the footer; `StoreError` as `read_part`."""
    name = path.rpartition("/")[2].removesuffix(".parquet")
    if hashlib.sha256(content).hexdigest() != name:
        raise StoreError(f"{path}: damaged (its bytes no longer match its name)")
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        table = file.read(columns=columns, use_threads=False)
        footer = json.loads((file.schema_arrow.metadata or {})[FOOTER])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise StoreError(f"{path}: not a part of a rewardsweep store ({type(error).__name__})") from error
    if not file.schema_arrow.equals(COLUMNS, check_metadata=False):
        raise StoreError(f"{path}: unknown columns (schema {footer.get('schema')}, this rewardsweep reads {SCHEMA})")
    return table, footer


def check_keys(rows: Sequence[Measurement], fingerprint: str) -> int:
    """How many rows carry a key that is not the hash of the fingerprint and their request."""
    return sum(row.key != measurement_key(fingerprint, row.request) for row in rows)


def _agree(one: Measurement, other: Measurement) -> bool:
    same_value = one.value == other.value or (math.isnan(one.value) and math.isnan(other.value))
    return same_value and (one.token_hash, one.text) == (other.token_hash, other.text)
