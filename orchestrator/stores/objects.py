"""A store in a bucket: what `workers.buckets` connects to, as a place for files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.stores.files import Entry, checked
from workers import buckets
from workers.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class ObjectFiles:
    """Objects below a prefix. `patient` tries again by itself; `single` does not, as conditional writes need."""

    def __init__(self, patient: ObjectStore, single: ObjectStore) -> None:
        self._patient = patient
        self._single = single

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        found = self._fetch(path)
        return None if found is None else found[0]

    def write(self, path: str, content: bytes) -> None:
        """See `Files`. Above 5 MiB in pieces (multipart), which appear together at the end."""
        import obstore

        obstore.put(self._patient, checked(path), content)

    def create(self, path: str, content: bytes) -> bool:
        """See `Files`."""
        return self._conditional(path, content, "create")

    def replace(self, path: str, content: bytes, expected: bytes) -> bool:
        """See `Files`."""
        found = self._fetch(path)
        return found is not None and found[0] == expected and self._conditional(path, content, found[1])

    def remove(self, paths: Sequence[str]) -> None:
        """See `Files`."""
        import obstore

        for path in paths:
            try:
                obstore.delete(self._patient, checked(path))
            except FileNotFoundError:
                continue

    def list(self, folder: str) -> list[Entry]:
        """See `Files`. A page holds 1000 objects."""
        import obstore

        prefix = checked(folder) if folder else None
        pages = buckets.whole(lambda: list(obstore.list(self._patient, prefix=prefix, chunk_size=1000)))
        return [
            Entry(
                found["path"],
                found["size"],
                f"{found['size']}-{found['e_tag']}-{found['version']}",
                found["last_modified"].timestamp(),
            )
            for page in pages
            for found in page
        ]

    def explained(self, error: Exception) -> str:
        """See `Files`."""
        return buckets.explained(error)

    def _fetch(self, path: str) -> tuple[bytes, dict[str, str]] | None:
        """A file's content and what names this version of it."""
        import obstore

        try:
            found = obstore.get(self._patient, checked(path))
            content = bytes(found.bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None
        version = {name: found.meta.get(name) for name in ("e_tag", "version")}
        return content, {name: str(value) for name, value in version.items() if value is not None}

    def _conditional(self, path: str, content: bytes, mode: Any) -> bool:
        """A put under a condition. After an answer that was lost, a refusal may be the echo of our own success."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

        doubtful = False
        for pause in (*buckets.pauses(), None):
            try:
                obstore.put(self._single, checked(path), content, mode=mode)
                return True
            except (AlreadyExistsError, PreconditionError):
                return doubtful and self.read(path) == content
            except GenericError:
                if pause is None:
                    raise
                doubtful = True
                time.sleep(pause)
        raise AssertionError("unreachable")


def open_objects(uri: str) -> ObjectFiles:
    """The objects below a bucket's prefix."""
    try:
        make = buckets.connect(buckets.place_of(uri))
        return ObjectFiles(make(buckets.RETRIES), make(0))
    except StoreError as error:
        raise StoreError(f"store={error}") from error
