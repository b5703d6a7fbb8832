"""What a store asks of the place where its files are: a folder, or a bucket.

Paths are relative to the store, with `/` between their parts. Whatever a place raises, `explained` turns into one
line with the remedy. A file appears whole or not at all; so says every method that writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from workers.errors import StoreError

LOCK = ".lock"
"""A file that a folder's lock is held on; it stays, since removing it would break the lock."""

SEGMENT = re.compile(r"[^/\\\0-\x1f\x7f]+")


@dataclass(frozen=True)
class Entry:
    """A file in a listing. `stamp` changes whenever the file is written; `modified` is in seconds since 1970."""

    path: str
    size: int
    stamp: str
    modified: float


class Files(Protocol):
    """A place for files, safe to use from many threads, machines and processes at once.

    `address` is what another process needs besides the URI to mean the same place, and no secret.
    """

    address: Mapping[str, str]

    def read(self, path: str) -> bytes | None:
        """A file's content, None where there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file, or replace it."""

    def create(self, path: str, content: bytes) -> bool:
        """Write a file that is not there yet; False where it is. Of many that try at once, one succeeds."""

    def replace(self, path: str, content: bytes, expected: bytes) -> bool:
        """Write a file if its content is `expected`; False where it is not, or where another was faster."""

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; one that is not there is no error."""

    def list(self, folder: str) -> list[Entry]:
        """All files below a folder, unfinished ones too, in no order."""

    def explained(self, error: Exception) -> str:
        """Why something failed, and what to do about it, in one line."""


def open_files(uri: str, address: Mapping[str, str] | None = None) -> Files:
    """The place at a path or URI; `StoreError` where there is no such kind, or where it cannot be used here.

    Without an `address`, endpoint and region are looked for in the environment.
    """
    from orchestrator.stores.folder import FolderFiles
    from orchestrator.stores.objects import KINDS, open_objects

    kind, mark, rest = uri.partition("://")
    if not mark or kind == "file":
        return FolderFiles(rest if mark else uri)
    if kind not in KINDS:
        raise StoreError(f"store={uri}: no kind of store; give a folder, s3://bucket/prefix or gs://bucket/prefix")
    parts = urlsplit(uri)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise StoreError(
            f"store={kind}://...: holds more than a bucket and a prefix; a store's address is recorded in every run, "
            "so keys belong into the environment or a profile, never into it (docs/store.md)"
        )
    if not parts.netloc:
        raise StoreError(f"store={uri}: names no bucket; give {kind}://bucket/prefix")
    prefix = parts.path.strip("/")
    return open_objects(kind, parts.netloc, checked(prefix) if prefix else "", address)


def checked(path: str) -> str:
    """The path, if it stays within the store; `StoreError` otherwise. Names in it come from data sets and models."""
    if all(SEGMENT.fullmatch(part) and part not in (".", "..") for part in path.split("/")):
        return path
    raise StoreError(f"{path!r} is no path within a store: a part is empty, `.`, `..` or holds a control character")
