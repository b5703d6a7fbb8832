"""Where checkpoints lie and what is in them: hub revisions become commits, local folders the hash of their files, what
lies in a bucket the hash of its listing.

Every complaint is an `InputError` that names the key of the model's file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workers import bucketed, buckets
from workers.errors import InputError, StoreError, first_line
from workers.fetch import TOKENIZER
from workers.protocol import digest

DTYPES = ("float32", "bfloat16", "float16")
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
UNPINNED = "unpinned:"
"""Before the name of content that nobody asked the hub for: enough to plan with, never to score with."""
TOKENIZER_FILE = re.compile(
    r"(tokenizer.*|vocab.*|merges\.txt|.*\.model|added_tokens\.json|special_tokens_map\.json|chat_template\..*|.*\.tiktoken)"
)
"""Files that a tokenizer is made of, chat template included."""


@dataclass(frozen=True)
class Pinned:
    """A checkpoint's place and the name of its content."""

    path: str
    revision: str | None
    content: str


def weights(name: str, entry: Mapping[str, Any], hub: bool = True) -> Pinned:
    """The checkpoint of a model's file; remote code only from a commit. Without the hub a branch stays unpinned."""
    if not entry.get("path"):
        raise InputError(f"models.{name}.path is missing: set it to a checkpoint's folder, bucket or hub id")
    pinned = content(name, "path", entry["path"], entry.get("revision"), hub)
    if entry.get("trust_remote_code") and pinned.revision and entry.get("revision") != pinned.revision:
        raise InputError(
            f"models.{name}.trust_remote_code: remote code runs only from a pinned commit; "
            f"set models.{name}.revision={pinned.revision}"
        )
    return pinned


def content(name: str, field: str, path: str, revision: str | None, hub: bool = True) -> Pinned:
    """A folder by the hash of its files, a hub repository by its commit, what lies in a bucket by its listing."""
    if buckets.is_bucket(path):
        return _in_bucket(name, field, path.rstrip("/"), revision, hub)
    path = path.removeprefix("file://")
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists() and field == "path":
            raise InputError(f"models.{name}.{field}={path}: no config.json in this folder; it is not a checkpoint")
        return Pinned(str(folder.resolve()), None, hash_folder(folder))
    if folder.exists():
        raise InputError(f"models.{name}.{field}={path}: a file; give the folder that holds it")
    if path.startswith((".", "/", "~")) or not HUB_ID.fullmatch(path):
        raise InputError(f"models.{name}.{field}={path}: no such folder; check the path")
    given = revision if revision and COMMIT.fullmatch(revision) else None
    if not given and not hub:
        return Pinned(path, None, f"{UNPINNED}{path}@{revision or 'main'}")
    commit = given or _commit(name, field, path, revision)
    return Pinned(path, commit, f"hub:{path}@{commit}")


def _in_bucket(name: str, field: str, path: str, revision: str | None, hub: bool) -> Pinned:
    """A checkpoint by the revision that its listing gives; one that is named must be what lies there now."""
    try:
        buckets.place_of(path)
        if not hub:
            return Pinned(path, revision, f"{path}@{revision}" if revision else f"{UNPINNED}{path}")
        found = bucketed.manifest(path)
        if revision and revision != found.revision:
            raise bucketed.changed(path, revision, found.revision)
        if field == "path":
            if not found.wanted(["config.json"]):
                raise StoreError(f"{path}: no config.json lies there; it is not a checkpoint")
            bucketed.bring(path, found.revision, ["config.json"])  # what a plan reads of it
    except StoreError as error:
        raise InputError(f"models.{name}.{field}={error}") from error
    return Pinned(path, found.revision, f"{path}@{found.revision}")


def addresses(name: str, found: Iterable[Pinned | None]) -> dict[str, dict[str, str]]:
    """Where the endpoints of the buckets are that hold a model's files: what its workers need besides credentials."""
    paths = [pinned.path for pinned in found if pinned is not None and buckets.is_bucket(pinned.path)]
    try:
        return {place.kind: buckets.address_of(place) for place in map(buckets.place_of, paths)}
    except StoreError as error:
        raise InputError(f"models.{name}.path={error}") from error


def _commit(name: str, field: str, path: str, revision: str | None) -> str:
    """The commit that a branch or tag of a hub repository points to now."""
    from huggingface_hub import HfApi

    try:
        commit = HfApi().model_info(path, revision=revision, timeout=20).sha
    except Exception as error:
        raise InputError(
            f"models.{name}.{field}={path}: no such folder, and the hub gives no revision for it "
            f"({first_line(error)}); check the name, or pin models.{name}.revision to a commit"
        ) from error
    return str(commit)


def dtype(name: str, entry: Mapping[str, Any], checkpoint: Pinned, hub: bool = True) -> str:
    """The model file's dtype, else the one in which the checkpoint was saved; without the hub else bfloat16."""
    chosen = entry.get("dtype", "auto")
    if chosen != "auto":
        return str(chosen)
    if not hub:
        values = config_at_hand(entry["path"], checkpoint.revision or entry.get("revision")) or {}
        saved = values.get("dtype") or values.get("torch_dtype")
        return str(saved) if saved in DTYPES else "bfloat16"
    try:
        values = json.loads(_config_file(name, checkpoint).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"models.{name}.path={entry['path']}: its config.json is damaged ({error})") from error
    saved = values.get("dtype") or values.get("torch_dtype")
    if saved not in DTYPES:
        raise InputError(
            f"models.{name}.dtype is missing and the checkpoint does not say it; set one of {', '.join(DTYPES)}"
        )
    return str(saved)


def config_at_hand(path: str, revision: str | None) -> dict[str, Any] | None:
    """The values of a checkpoint's config.json, of its folder or of a cache; None where it is not here."""
    folder = Path(path.removeprefix("file://")).expanduser()
    file: Any = folder / "config.json" if folder.is_dir() else cached(path, "config.json", revision)
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8")) if file else None
    except (OSError, ValueError):  # a damaged one is named when the model is pinned
        return None
    return values if isinstance(values, dict) else None


def cached(path: str, file: str, revision: str | None) -> str | None:
    """Where a file of a hub repository or a bucket lies in its cache, without asking for it."""
    if buckets.is_bucket(path):
        kept = bucketed.folder_of(path, revision) / file if revision else None
        return str(kept) if kept is not None and kept.exists() else None
    from huggingface_hub import try_to_load_from_cache

    if not HUB_ID.fullmatch(path):
        return None
    found = try_to_load_from_cache(path, file, revision=revision)
    return found if isinstance(found, str) else None


def _config_file(name: str, checkpoint: Pinned) -> Path:
    """The checkpoint's config.json, of the pinned commit where it lies on the hub."""
    if checkpoint.revision is None:
        return Path(checkpoint.path) / "config.json"
    if buckets.is_bucket(checkpoint.path):
        return bucketed.folder_of(checkpoint.path, checkpoint.revision) / "config.json"
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(checkpoint.path, "config.json", revision=checkpoint.revision))
    except Exception as error:
        raise InputError(
            f"models.{name}.path={checkpoint.path}: cannot fetch its config.json ({first_line(error)}); "
            f"set models.{name}.dtype to one of {', '.join(DTYPES)}"
        ) from error


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's files; hidden files and *.md do not count."""
    return hash_files(
        file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".") and file.suffix != ".md"
    )


def hash_files(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents."""
    hashes = []
    for file in sorted(files, key=lambda file: file.name):
        with file.open("rb") as stream:
            hashes.append([file.name, hashlib.file_digest(stream, "sha256").hexdigest()])
    return f"sha256:{digest(hashes)}"


def tokenizer(name: str, field: str, path: str, revision: str | None, hub: bool = True) -> Pinned:
    """A tokenizer by the hash of its own files alone: the same one in two checkpoints has one name."""
    pinned = content(name, field, path, revision, hub)
    if not hub and not Path(pinned.path).is_dir():
        return replace(pinned, content=f"{UNPINNED}{path}@{revision or 'main'}")
    if pinned.revision is None:
        files = [file for file in Path(pinned.path).iterdir() if TOKENIZER_FILE.fullmatch(file.name)]
        return replace(pinned, content=hash_files(files))
    if buckets.is_bucket(pinned.path):
        return replace(pinned, content=hash_files(_tokenizer_in_bucket(name, field, pinned.path, pinned.revision)))
    from huggingface_hub import HfApi, hf_hub_download

    try:
        names = HfApi().list_repo_files(pinned.path, revision=pinned.revision)
        chosen = [file for file in names if TOKENIZER_FILE.fullmatch(file)]
        files = [Path(hf_hub_download(pinned.path, file, revision=pinned.revision)) for file in chosen]
    except Exception as error:
        raise InputError(f"models.{name}.{field}={path}: cannot fetch its tokenizer ({first_line(error)})") from error
    return replace(pinned, content=hash_files(files))


def _tokenizer_in_bucket(name: str, field: str, path: str, revision: str) -> list[Path]:
    try:
        folder = bucketed.bring(path, revision, TOKENIZER)
    except StoreError as error:
        raise InputError(f"models.{name}.{field}={error}") from error
    return [file for file in folder.iterdir() if TOKENIZER_FILE.fullmatch(file.name)]
