"""What a part is: Parquet bytes with rows of one fingerprint and a footer; and what several of them make together.

A merged part holds every distinct row of those it was merged from, and names them with their provenance. Since a
part's name is the hash of its bytes, no two parts can have been merged from each other. Nothing here does I/O.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.stores import SCHEMA, Held, Stream
from orchestrator.stores.files import Entry
from workers.errors import StoreError
from workers.protocol import Measurement, measurement_key

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
MERGED = b"rewardsweep-merged"
"""The footer's second entry, of merged parts and indexes: JSON, deflated, in base64. Parquet takes text alone."""


@dataclass(frozen=True)
class Part:
    """The columns of a part whose bytes are sound, and its footer.

    `merged` names every part that is in this one, with its provenance; of a part that was merged itself that is empty,
    since those that are in it have theirs. A part that no others went into has itself there. `stamps` and `since` are
    an index's: the parts that it was made of, as they were listed then, and since when (seconds since 1970) those that
    are superfluous are in another one.
    """

    fingerprint: str
    identity: Mapping[str, Any]
    table: pa.Table
    merged: Mapping[str, Mapping[str, str]]
    stamps: Mapping[str, str] = field(default_factory=dict)
    since: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def rows(self) -> list[Measurement]:
        """The rows; making them takes far longer than reading the columns."""
        return _measurements(self.table)

    @property
    def requests(self) -> list[str]:
        """The digests of the rows' requests, without the rows."""
        return cast(list[str], self.table.column("request").to_pylist())


@dataclass(frozen=True)
class Contents:
    """What the store has of one fingerprint.

    `parts` are sound and in the order of their names, the index first, under an empty name. `entries` are the parts
    that the listing has, by name. `damaged` and `notes` are as in `Stream`.
    """

    entries: Mapping[str, Entry]
    parts: Mapping[str, Part]
    damaged: tuple[str, ...]
    notes: tuple[str, ...]


def name_of(path: str) -> str:
    """The name in a part's path: the hash that its bytes should have."""
    return path.rpartition("/")[2].removesuffix(".parquet")


def to_bytes(rows: Sequence[Measurement], footer: Mapping[str, Any], **merged: Mapping[str, Any]) -> bytes:
    """A part's content; equal arguments give equal bytes."""
    metadata = {FOOTER: json.dumps({"schema": SCHEMA, **footer}, sort_keys=True).encode()}
    if merged:
        metadata[MERGED] = base64.b64encode(zlib.compress(json.dumps(merged, sort_keys=True).encode()))
    lists = [{**asdict(row), "extra": list(row.extra.items())} for row in rows]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(lists, schema=COLUMNS.with_metadata(metadata)), buffer, compression="zstd")
    return buffer.getvalue()


def merge(parts: Mapping[str, Part], **told: Mapping[str, Any]) -> bytes:
    """The content of a part that holds all that some parts of one fingerprint hold; with `stamps`, of an index."""
    distinct = {_order(row): row for part in parts.values() for row in part.rows}
    names: dict[str, Mapping[str, str]] = {name: {} for name in parts if name}
    for part in parts.values():
        names.update({name: provenance for name, provenance in part.merged.items() if provenance or name not in names})
    one = next(iter(parts.values()))
    provenance = {"merged": str(sum(map(bool, names.values())))}
    footer = {"fingerprint": one.fingerprint, "identity": one.identity, "provenance": provenance}
    return to_bytes([distinct[order] for order in sorted(distinct)], footer, merged=names, **told)


def read_part(content: bytes, path: str) -> tuple[list[Measurement], dict[str, Any]]:
    """The rows and the footer of a part whose bytes still have the hash in its name.

    Raises `StoreError` with the path and what is wrong.
    """
    table, footer = _read(content, path)
    return _measurements(table), footer


def parsed(content: bytes, path: str, fingerprint: str) -> Part:
    """`read_part` as a `Part`; it must be of that fingerprint."""
    table, footer = _read(content, path)
    if footer["fingerprint"] != fingerprint:
        raise StoreError(f"{path}: belongs to another model ({footer['fingerprint']})")
    merged = footer.get("merged", {name_of(path): footer["provenance"]})
    return Part(fingerprint, footer["identity"], table, merged, footer.get("stamps", {}), footer.get("since", {}))


def _read(content: bytes, path: str) -> tuple[pa.Table, dict[str, Any]]:
    if hashlib.sha256(content).hexdigest() != name_of(path):
        raise StoreError(f"{path}: damaged (its bytes no longer match its name)")
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
        metadata = table.schema.metadata or {}
        footer = json.loads(metadata[FOOTER])
        if MERGED in metadata:
            footer.update(json.loads(zlib.decompress(base64.b64decode(metadata[MERGED]))))
    except (pa.ArrowException, KeyError, ValueError, zlib.error) as error:
        raise StoreError(f"{path}: not a part of a rewardsweep store ({type(error).__name__})") from error
    if not table.schema.equals(COLUMNS, check_metadata=False):
        raise StoreError(f"{path}: unknown columns (schema {footer.get('schema')}, this rewardsweep reads {SCHEMA})")
    return table, footer


def _measurements(table: pa.Table) -> list[Measurement]:
    columns = [table.column(name).to_pylist() for name in COLUMNS.names]
    columns[-1] = [dict(extra) for extra in columns[-1]]
    return [Measurement(*values) for values in zip(*columns, strict=True)]


def superseded(parts: Mapping[str, Part]) -> set[str]:
    """The names of parts whose rows are all in another of these; an index takes no part's place."""
    return {
        source for name, part in parts.items() for source in part.merged if source != name and source not in part.stamps
    }


def united(found: Contents) -> Stream:
    """The union of parts. Where rows disagree, their content decides which one counts, not the part it is in.

    So neither merging parts nor removing those that were merged can change a score.
    """
    rows: dict[str, Measurement] = {}
    conflicts: set[str] = set()
    for row in chain.from_iterable(part.rows for part in found.parts.values()):
        first = rows.setdefault(row.request, row)
        if first is not row and (first != row or not row.value):  # 0.0 equals -0.0
            rows[row.request] = min(first, row, key=_order)
            if not _agree(first, row):
                conflicts.add(row.request)
    return Stream(rows, found.damaged, len(conflicts), _told(found), found.notes)


def gathered(found: Contents) -> Held:
    """`united` without the rows; whether parts disagree is looked up only where they have rows in common."""
    lists = [part.requests for part in found.parts.values()]
    requests = frozenset(chain.from_iterable(lists))
    conflicts = united(found).conflicts if len(requests) < sum(map(len, lists)) else 0
    return Held(requests, found.damaged, conflicts, _told(found), found.notes)


def _told(found: Contents) -> tuple[Mapping[str, str], ...]:
    """The provenance of all parts, by the order of their names; a merged part has none of its own."""
    told = {name: provenance for part in found.parts.values() for name, provenance in part.merged.items()}
    return tuple(told[name] for name in sorted(told) if told[name])


def check_keys(rows: Sequence[Measurement], fingerprint: str) -> int:
    """How many rows carry a key that is not the hash of the fingerprint and their request."""
    return sum(row.key != measurement_key(fingerprint, row.request) for row in rows)


def _order(row: Measurement) -> tuple[Any, ...]:
    """Sorts rows by all they hold; NaN behind every number, and equal to itself."""
    value = (1, 0.0, 0.0) if math.isnan(row.value) else (0, row.value, math.copysign(1, row.value))
    extra = tuple(sorted((name, repr(number)) for name, number in row.extra.items()))
    texts = (row.token_hash, row.text is not None, row.text or "", row.kind, row.key)
    return (row.request, *value, *texts, row.num_tokens, row.truncated, extra)


def _agree(one: Measurement, other: Measurement) -> bool:
    same_value = one.value == other.value or (math.isnan(one.value) and math.isnan(other.value))
    return same_value and (one.token_hash, one.text) == (other.token_hash, other.text)
