"""Where measurements are kept.

Contract of every store: a part appears whole or not at all; writing the same rows twice is harmless; readers
take the union of parts and drop duplicates by key; a damaged part counts as absent and is reported. A store
is picklable: it travels to the workers, which write their own parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from workers.protocol import Measurement, ModelSpec

if TYPE_CHECKING:
    from orchestrator.stores.parquet import ParquetStore

SCHEMA = 1
"""Version of the layout and of the parts' columns. Old versions stay readable."""


@dataclass(frozen=True)
class Stream:
    """All measurements of one fingerprint, by the digest of their request.

    `damaged` names the parts that were left out, with the reason; `conflicts` counts keys that two parts give
    different values. `provenance` is what the footers of the sound parts say of who computed them, with what.
    `notes` are warnings that change nothing: an index that had to be ignored.
    """

    rows: Mapping[str, Measurement] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    conflicts: int = 0
    provenance: tuple[Mapping[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """What a plan has to know of a fingerprint: the digests of its requests; the rest as in `Stream`."""

    requests: frozenset[str] = frozenset()
    damaged: tuple[str, ...] = ()
    conflicts: int = 0
    provenance: tuple[Mapping[str, str], ...] = ()
    notes: tuple[str, ...] = ()


class Store(Protocol):
    """The contract above, as a protocol."""

    uri: str

    def prepare(self) -> None:
        """Make sure that the store can be written; `StoreError` where it cannot."""

    def exists(self) -> bool:
        """Whether a store was ever prepared here."""

    def write(self, spec: ModelSpec, rows: Sequence[Measurement], provenance: Mapping[str, str]) -> None:
        """Keep rows of one model as a new part."""

    def read(self, fingerprint: str) -> Stream:
        """All sound rows of a fingerprint."""

    def index(self, fingerprint: str) -> bool:
        """Gather a fingerprint's parts for the next reader, where that is worth it; whether it was."""

    def held(self, fingerprint: str) -> Held:
        """The requests of a fingerprint's sound rows, without the rows."""

    def held_of(self, fingerprints: Iterable[str]) -> dict[str, Held]:
        """`held` of each, in order of their names; many at a time, since a bucket's answers take long."""

    def footers(self, fingerprint: str, most: int) -> list[Mapping[str, str]]:
        """Provenance of its sound parts, at most so many."""

    def fingerprints(self) -> list[str]:
        """Every fingerprint that has a part."""

    def save(self, path: str, content: bytes) -> str:
        """Replace a small file, whole or not at all; its full path."""

    def create(self, path: str, content: bytes) -> bool:
        """Write a small file that is not there yet; False where it is. Of many that try at once, one succeeds.

        `content` must name its writer: after a lost answer it tells whose file it is.
        """

    def replace(self, path: str, content: bytes, expected: bytes) -> bool:
        """Write a small file if its content is `expected`; False where it is not, or where another was faster."""

    def remove(self, *paths: str) -> None:
        """Remove files, whatever they hold; one that is not there is no error."""

    def check_exclusive(self) -> None:
        """Make sure that `create` and `replace` exclude here; `StoreError` where they do not."""

    def load(self, path: str) -> bytes | None:
        """A small file's content, None where there is none."""

    def list(self, folder: str) -> list[str]:
        """Paths of all files below a folder, sorted."""


def open_store(uri: str, facts: Mapping[str, str] | None = None) -> ParquetStore:
    """The store at a path or URI; `facts` go into the footer of every part it writes."""
    from orchestrator.stores.parquet import ParquetStore

    return ParquetStore(uri, dict(facts or {}))
