"""A store in a bucket: what `workers.buckets` connects to, as a place for files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from orchestrator.stores.files import Entry, checked
from workers import buckets
from workers.errors import StoreError

if TYPE_CHECKING:
    from obstore import ListResult, ObjectMeta
    from obstore.store import ObjectStore


class ObjectFiles:
    """Objects below a prefix. `patient` tries again by itself; `single` does not, as conditional writes need."""

    def __init__(self, patient: ObjectStore, single: ObjectStore, address: Mapping[str, str]) -> None:
        self.address = address
        self._patient = patient
        self._single = single

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        found = self._fetch(path)
        return None if found is None else found[0]

    def write(self, path: str, content: bytes) -> None:
        """See `Files`. Above 5 MiB in pieces (multipart), which appear together at the end."""
        import obstore

        buckets.whole(lambda: obstore.put(self._patient, checked(path), content))

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

        with suppress(FileNotFoundError):
            names = [checked(path) for path in paths]
            buckets.whole(lambda: obstore.delete(self._patient, names))
            return
        for path in paths:  # GCS stops at one that is not there
            with suppress(FileNotFoundError):
                obstore.delete(self._patient, path)

    def folders(self, folder: str) -> list[str]:
        """See `Files`. One request for 1000 folders, however much is in them."""
        return [path.rpartition("/")[2] for path in self._level(checked(folder))["common_prefixes"]]

    def unfinished(self) -> list[Entry]:
        """See `Files`. An object is put whole; a probe at the top is all that may be left."""
        return [entry for entry in map(_entry, self._level(None)["objects"]) if entry.path.startswith(".")]

    def list(self, folder: str) -> list[Entry]:
        """See `Files`. A page holds 1000 objects."""
        import obstore

        prefix = checked(folder) if folder else None
        pages = buckets.whole(lambda: list(obstore.list(self._patient, prefix=prefix, chunk_size=1000)))
        found = [_entry(found) for page in pages for found in page]
        return [entry for entry in found if not entry.path.rpartition("/")[2].startswith(".")]

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

    def _level(self, folder: str | None) -> ListResult[Sequence[ObjectMeta]]:
        """What is in a folder itself, not below the folders in it."""
        import obstore

        return buckets.whole(lambda: obstore.list_with_delimiter(self._patient, folder))

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


def _entry(found: ObjectMeta) -> Entry:
    stamp = f"{found['size']}-{found['e_tag']}-{found['version']}"
    return Entry(found["path"], found["size"], stamp, found["last_modified"].timestamp())


def open_objects(uri: str, address: Mapping[str, str] | None) -> ObjectFiles:
    """The objects below a bucket's prefix, at an address or at the one in the environment."""
    try:
        place = buckets.place_of(uri)
        found = buckets.address_of(place) if address is None else address
        make = buckets.connect(place, found)
        return ObjectFiles(make(buckets.RETRIES), make(0), found)
    except StoreError as error:
        raise StoreError(f"store={error}") from error
