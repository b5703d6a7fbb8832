"""A store in a bucket, through obstore: s3://, gs://, and memory:// within one process.

Transient errors (5xx, 429, refused or dropped connections, timeouts) are tried again with exponential backoff and
jitter, at most `RETRIES` times or `RETRY_SECONDS`; what a second try cannot mend (403, no such bucket) is not.
Credentials come from the usual chains alone: botocore's for S3, google-auth's for GCS.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from orchestrator.stores.files import Entry, checked
from workers.errors import StoreError, first_line

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RETRIES, RETRY_SECONDS = 8, 120
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
TIMEOUT = timedelta(seconds=60)
"""Of one request, a multipart upload's pieces counted singly."""


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

        pages = obstore.list(self._patient, prefix=checked(folder) if folder else None, chunk_size=1000)
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
        kind, text = type(error).__name__, first_line(error)
        if "NoSuchBucket" in str(error) or "bucket does not exist" in str(error):
            return "no such bucket; create it, or correct its name"
        if kind == "PermissionDeniedError":
            return "access denied; these credentials need the rights that docs/store.md lists"
        if kind == "UnauthenticatedError":
            return "the credentials are missing, wrong or out of date; see docs/store.md"
        return f"{text}; check the network and the endpoint, then run the same command again"

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

        doubtful, pause = False, FIRST_PAUSE
        for attempt in range(RETRIES + 1):
            try:
                obstore.put(self._single, checked(path), content, mode=mode)
                return True
            except (AlreadyExistsError, PreconditionError):
                return doubtful and self.read(path) == content
            except GenericError:
                if attempt == RETRIES:
                    raise
                doubtful = True
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("unreachable")


def open_objects(kind: str, bucket: str, prefix: str) -> ObjectFiles:
    """The objects of a bucket below a prefix."""
    try:
        make = KINDS[kind](bucket, prefix)
        return ObjectFiles(make(RETRIES), make(0))
    except ImportError as error:
        extra = {"gs": "gcs"}.get(kind, kind)
        raise StoreError(
            f"store={kind}://{bucket}: {error.name} is not installed; pip install 'rewardsweep[{extra}]'"
        ) from error


def _client(endpoint: str, retries: int) -> dict[str, Any]:
    """Options that every kind shares."""
    backoff = {
        "init_backoff": timedelta(seconds=FIRST_PAUSE),
        "max_backoff": timedelta(seconds=LONGEST_PAUSE),
        "base": 2,
    }
    return {
        "client_options": {"allow_http": endpoint.startswith("http://"), "timeout": TIMEOUT},
        "retry_config": {
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": backoff,
        },
    }


def _s3(bucket: str, prefix: str) -> Callable[[int], ObjectStore]:
    """Amazon's S3 or whatever speaks it; endpoint, region and credentials as every AWS tool finds them."""
    import botocore.session
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    try:
        session = botocore.session.get_session()
        profile = session.get_scoped_config()
        region = session.get_config_variable("region") or os.environ.get("AWS_REGION") or "us-east-1"
    except botocore.exceptions.BotoCoreError as error:
        raise StoreError(f"store=s3://{bucket}: {first_line(error)}; see docs/store.md") from error
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    endpoint = next(filter(None, named), profile.get("endpoint_url", ""))
    options: dict[str, Any] = {"region": region, **({"endpoint": endpoint} if endpoint else {})}
    if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() not in ("true", "1"):
        if session.get_credentials() is None:
            raise StoreError(
                f"store=s3://{bucket}: no AWS credentials were found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or give this machine a role (docs/store.md)"
            )
        options["credential_provider"] = Boto3CredentialProvider(session)
    return lambda retries: S3Store(bucket, prefix=prefix or None, **options, **_client(endpoint, retries))


def _gcs(bucket: str, prefix: str) -> Callable[[int], ObjectStore]:
    """Google's Cloud Storage, or an emulator at STORAGE_EMULATOR_HOST, which asks for no credentials."""
    import google.auth.exceptions
    from obstore.auth.google import GoogleCredentialProvider
    from obstore.store import GCSStore

    host = os.environ.get("STORAGE_EMULATOR_HOST", "")
    endpoint = host if "://" in host or not host else f"http://{host}"
    options: dict[str, Any] = {"base_url": endpoint, "skip_signature": True} if endpoint else {}
    if not endpoint:
        try:
            options["credential_provider"] = GoogleCredentialProvider()
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise StoreError(
                f"store=gs://{bucket}: no Google credentials were found; run `gcloud auth application-default login`, "
                "set GOOGLE_APPLICATION_CREDENTIALS, or give this machine a service account (docs/store.md)"
            ) from error
    return lambda retries: GCSStore(bucket, prefix=prefix or None, **options, **_client(endpoint, retries))


def _memory(bucket: str, prefix: str) -> Callable[[int], ObjectStore]:
    """Nothing outlives the process; for tests."""
    found = _memories(bucket, prefix)
    return lambda retries: found


@cache
def _memories(bucket: str, prefix: str) -> ObjectStore:
    from obstore.store import MemoryStore

    return MemoryStore()


KINDS: dict[str, Callable[[str, str], Callable[[int], ObjectStore]]] = {"s3": _s3, "gs": _gcs, "memory": _memory}
