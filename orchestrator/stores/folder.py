"""A store in a folder, also one that many machines share."""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.stores.files import Entry, checked
from workers.errors import first_line

LOCK = ".lock"
"""A file that a folder's lock is held on; it stays, since removing it would break the lock."""

REMEDIES = {
    errno.ENOSPC: "free some space, or give another store",
    errno.EDQUOT: "free some of your quota, or give another store",
    errno.ENOLCK: "use a filesystem that has locks (flock)",
    errno.ENOSYS: "use a filesystem that has locks (flock)",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or give another store",
}


class FolderFiles:
    """Files are written beside their place under a name that starts with a dot, flushed to disk, and renamed."""

    def __init__(self, root: str) -> None:
        self._root = root.rstrip("/") or "/"
        self.address: Mapping[str, str] = {}

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        try:
            with open(self._place(path), "rb") as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        """See `Files`."""
        with self._beside(path, content) as temporary:
            os.replace(temporary, self._place(path))

    def create(self, path: str, content: bytes) -> bool:
        """See `Files`. A hard link excludes on every filesystem that has them, also between machines."""
        with self._locked(path), self._beside(path, content) as temporary:
            try:
                os.link(temporary, self._place(path))
            except FileExistsError:
                return False
            return True

    def replace(self, path: str, content: bytes, expected: bytes) -> bool:
        """See `Files`. The lock is the kernel's, and ends with its holder."""
        with self._locked(path):
            if self.read(path) != expected:
                return False
            self.write(path, content)
            return True

    def remove(self, paths: Sequence[str]) -> None:
        """See `Files`."""
        for path in paths:
            Path(self._place(path)).unlink(missing_ok=True)

    def folders(self, folder: str) -> list[str]:
        """See `Files`."""
        root = Path(self._place(folder))
        try:
            return [place.name for place in root.iterdir() if any(not _is_unfinished(path) for path in _names(place))]
        except FileNotFoundError:
            return []

    def unfinished(self) -> list[Entry]:
        """See `Files`."""
        found = self._walk(self._root, "")
        return [entry for entry in found if _is_unfinished(entry.path) and entry.path.rpartition("/")[2] != LOCK]

    def list(self, folder: str) -> list[Entry]:
        """See `Files`."""
        found = self._walk(self._place(folder) if folder else self._root, f"{folder}/" if folder else "")
        return [entry for entry in found if not _is_unfinished(entry.path)]

    def explained(self, error: Exception) -> str:
        """See `Files`."""
        number = error.errno if isinstance(error, OSError) else None
        reason = getattr(error, "strerror", None) or first_line(error)
        return f"{reason}; {REMEDIES.get(number or 0, 'check that folder and its rights, or give another store')}"

    def _place(self, path: str) -> str:
        return f"{self._root}/{checked(path)}"

    def _walk(self, folder: str, prefix: str) -> Iterator[Entry]:
        """Files that vanish meanwhile are left out; links to folders are not followed."""
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except FileNotFoundError:
            return
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(entry.path, f"{path}/")
                continue
            try:
                facts = entry.stat()
            except FileNotFoundError:
                continue
            stamp = f"{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ino}"
            yield Entry(path, facts.st_size, stamp, facts.st_mtime)

    @contextmanager
    def _beside(self, path: str, content: bytes) -> Iterator[str]:
        """A finished, flushed file beside a file's place; gone afterwards, whatever happens."""
        folder, _, name = self._place(path).rpartition("/")
        os.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{name[:32]}-{uuid.uuid4().hex}"
        try:
            with open(temporary, "xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            yield temporary
        finally:
            Path(temporary).unlink(missing_ok=True)

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        """Hold the lock of the folder that a path is in."""
        folder = self._place(path).rpartition("/")[0]
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{LOCK}", "ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _is_unfinished(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def _names(folder: Path) -> list[str]:
    """What is in a folder; nothing where it is gone, or a file."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
