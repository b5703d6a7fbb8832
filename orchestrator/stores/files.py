"""What a store asks of the place where its files are: a folder, or a bucket.

Paths are relative to the store, with `/` between their parts. Whatever a place raises, `explained` turns into one
line with the remedy. A file appears whole or not at all; so says every method that writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from workers import buckets
from workers.errors import StoreError


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

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder that hold a finished file, in no order; asks far less than `list`."""

    def unfinished(self) -> list[Entry]:
        """What killed writers left behind, and what those that write now have not finished."""

    def list(self, folder: str) -> list[Entry]:
        """All files below a folder but unfinished ones, in no order."""

    def explained(self, error: Exception) -> str:
        """Why something failed, and what to do about it, in one line."""


def open_files(uri: str, address: Mapping[str, str] | None = None) -> Files:
    """The place at a path or URI; `StoreError` where there is no such kind, or where it cannot be used here.

    Without an `address`, endpoint and region are looked for in the environment.
    """
    from orchestrator.stores.folder import FolderFiles
    from orchestrator.stores.objects import open_objects

    return open_objects(uri, address) if buckets.is_bucket(uri) else FolderFiles(uri.removeprefix("file://"))


def checked(path: str) -> str:
    """The path, if it stays within the store; `StoreError` otherwise. Names in it come from data sets and models."""
    if buckets.is_sound(path):
        return path
    raise StoreError(f"{path!r} is no path within a store: a part is empty, `.`, `..` or holds a control character")
