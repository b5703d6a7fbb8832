"""A checkpoint in a bucket: the name of what lies there, and its files on this machine's disk.

The name (its *revision*) is the hash of the names, sizes and ETags of the files directly below the prefix, hidden ones
and *.md left out, as one listing gives them: no weight is read for it. A file that is written again gets another ETag,
so what changed has another name; so may have the same bytes when they were uploaded in other pieces, which costs a
second scoring and never a wrong score.

    <cache>/checkpoints/<name>-<hash of address and revision>/
        .manifest.json     the listing that the revision names
        .<file>.part       not whole yet; what a killed process left is fetched again
        <file>             whole: renamed to this only when all its bytes are on the disk

The cache is the folder REWARDSWEEP_CACHE, else `rewardsweep` in XDG_CACHE_HOME or ~/.cache.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from workers import buckets
from workers.errors import StoreError
from workers.protocol import digest

AT_ONCE, PIECE = 8, 32 * 2**20
"""Requests at the same time, and the bytes that one of them asks for."""
MANIFEST, LOCK = ".manifest.json", ".lock"

Address = Mapping[str, str] | None


@dataclass(frozen=True)
class File:
    """One object of a listing."""

    name: str
    size: int
    tag: str


@dataclass(frozen=True)
class Manifest:
    """What lay below a prefix when it was listed."""

    files: tuple[File, ...]

    @property
    def revision(self) -> str:
        """The name of this content."""
        return digest([[file.name, file.size, file.tag] for file in self.files])

    def wanted(self, patterns: Sequence[str], but: Sequence[str] = ()) -> list[File]:
        """The files whose names fit one of the patterns, and none of the others."""
        return [file for file in self.files if _fits(file.name, patterns) and not _fits(file.name, but)]


def manifest(uri: str, address: Address = None) -> Manifest:
    """What lies there now, by one listing; `StoreError` where that is nothing, or where it cannot be asked."""
    place, client = _connected(uri, address)
    import obstore

    with _reasons(place):
        found = buckets.whole(lambda: obstore.list_with_delimiter(client))["objects"]
    files = [File(one["path"].rpartition("/")[2], one["size"], one["e_tag"] or "") for one in found]
    kept = [file for file in files if buckets.is_sound(file.name) and not file.name.startswith(".")]
    kept = [file for file in kept if not file.name.endswith(".md")]
    if not kept:
        raise StoreError(f"{place}: nothing lies there; check the bucket and the prefix")
    if not all(file.tag for file in kept):
        raise StoreError(f"{place}: this server gives no ETags, so its content has no name; copy it to a folder")
    return Manifest(tuple(sorted(kept, key=lambda file: file.name)))


def folder_of(uri: str, revision: str) -> Path:
    """Where the files of a revision are on this machine, or will be."""
    root = os.environ.get("REWARDSWEEP_CACHE")
    cache = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rewardsweep"
    name = re.sub(r"[^\w.-]", "_", uri.rstrip("/").rpartition("/")[2])[:64]
    return cache.expanduser().absolute() / "checkpoints" / f"{name}-{digest([uri.rstrip('/'), revision])}"


def is_here(uri: str, revision: str, patterns: Sequence[str], but: Sequence[str] = ()) -> bool:
    """Whether all files that fit are on this machine, without asking the bucket."""
    folder = folder_of(uri, revision)
    known = _known(folder, revision)
    return known is not None and all((folder / file.name).exists() for file in known.wanted(patterns, but))


def bring(uri: str, revision: str, patterns: Sequence[str], but: Sequence[str] = (), address: Address = None) -> Path:
    """The folder with all files of a revision that fit; those that are not there yet are fetched.

    `StoreError` where the bucket does not give them, holds another revision by now, or the disk has no room.
    """
    folder = folder_of(uri, revision)
    if is_here(uri, revision, patterns, but):
        return folder
    place = buckets.place_of(uri)
    with _reasons(place), _alone(folder):
        for left in folder.glob(".*.part"):
            left.unlink()
        known = _known(folder, revision) or _listed(uri, revision, folder, address)
        missing = [file for file in known.wanted(patterns, but) if not (folder / file.name).exists()]
        _check_room(place, folder, sum(file.size for file in missing))
        _download(uri, folder, missing, address)
    return folder


def _download(uri: str, folder: Path, files: Sequence[File], address: Address) -> None:
    """In pieces, several at once; a file gets its name when it is whole."""
    _, client = _connected(uri, address)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            waiting = []
            for file in files:
                part = folder / f".{file.name}.part"
                part.touch()
                starts = range(0, file.size, PIECE)
                waiting.append((file, part, [pool.submit(partial(_piece, client, file, part), at) for at in starts]))
            for file, part, pieces in waiting:
                for piece in pieces:
                    piece.result()
                _flush(part)
                part.rename(folder / file.name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _piece(client: Any, file: File, part: Path, start: int) -> None:
    """Fetch some bytes to their place; the ETag makes sure that all pieces are of one version."""
    import obstore

    stop = min(start + PIECE, file.size)
    content = buckets.whole(
        lambda: obstore.get(client, file.name, options={"range": (start, stop), "if_match": file.tag}).bytes()
    )
    if len(content) != stop - start:
        raise StoreError(f"{file.name} ended after {start + len(content)} of {file.size} bytes")
    with part.open("r+b") as stream:
        stream.seek(start)
        stream.write(content)


def _flush(path: Path) -> None:
    """To the disk, so that a name never stands for bytes that a crash takes away."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _check_room(place: buckets.Place, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{place}: {needed / 1e9:.2f} GB more are needed in {folder.parent}, which has {free / 1e9:.2f} GB free; "
            "free some space, or set REWARDSWEEP_CACHE to a folder that has it"
        )


def _known(folder: Path, revision: str) -> Manifest | None:
    """The listing that was kept, if it is the revision's."""
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = Manifest(tuple(File(**value) for value in values))
    except (OSError, ValueError, TypeError):  # not there, or not whole: it is listed again
        return None
    return found if found.revision == revision else None


def _listed(uri: str, revision: str, folder: Path, address: Address) -> Manifest:
    """List the files anew, and keep that for the next time."""
    found = manifest(uri, address)
    if found.revision != revision:
        raise changed(uri, revision, found.revision)
    (folder / MANIFEST).write_text(json.dumps([asdict(file) for file in found.files]), encoding="utf-8")
    return found


def changed(uri: str, revision: str, found: str) -> StoreError:
    """What to say where a bucket no longer holds what was pinned."""
    return StoreError(f"{uri}: holds revision {found} now, not {revision}; put that back, or pin the new one")


def _connected(uri: str, address: Address) -> tuple[buckets.Place, Any]:
    place = buckets.place_of(uri)
    return place, buckets.connect(place, address)(buckets.RETRIES)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of all processes and threads of this machine; a killed one gives way."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _reasons(place: buckets.Place) -> Iterator[None]:
    """Turn whatever the bucket or the disk raises into a `StoreError` with the remedy."""
    try:
        yield
    except StoreError as error:
        raise error if str(error).startswith(f"{place.kind}://") else StoreError(f"{place}: {error}") from error
    except OSError as error:
        reason = error.strerror or buckets.explained(error)
        raise StoreError(f"{place}: {reason}" + (f": {error.filename}" if error.filename else "")) from error
    except Exception as error:
        if type(error).__name__ == "PreconditionError":
            raise StoreError(f"{place}: was written to while it was fetched; run the same command again") from error
        raise StoreError(f"{place}: {buckets.explained(error)}") from error


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
