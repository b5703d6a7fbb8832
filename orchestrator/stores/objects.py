"""A store in a bucket, through obstore: s3://, gs://, and memory:// within one process.

Transient errors (5xx, 429, refused or dropped connections, timeouts) are tried again with exponential backoff and
jitter, at most `RETRIES` times or `RETRY_SECONDS`; what a second try cannot mend (403, no such bucket) is not.
Credentials come from the usual chains alone: botocore's for S3, google-auth's for GCS.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.stores.files import Entry, checked
from workers.errors import StoreError, first_line

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RETRIES, RETRY_SECONDS = 8, 120
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
SILENCE, TIMEOUT = timedelta(seconds=60), timedelta(minutes=10)
"""How long a request may go without a byte, and altogether; a multipart upload's pieces are counted singly."""


Result = TypeVar("Result")
Connect = Callable[[int], Any]
"""Makes a client of a store that tries again so many times."""


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

        _whole(lambda: obstore.put(self._patient, checked(path), content))

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
            _whole(lambda: obstore.delete(self._patient, names))
            return
        for path in paths:  # GCS stops at one that is not there
            with suppress(FileNotFoundError):
                obstore.delete(self._patient, path)

    def list(self, folder: str) -> list[Entry]:
        """See `Files`. A page holds 1000 objects."""
        import obstore

        prefix = checked(folder) if folder else None
        pages = _whole(lambda: list(obstore.list(self._patient, prefix=prefix, chunk_size=1000)))
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
        if kind == "PermissionDeniedError" or "403 Forbidden" in text:
            return "access denied; these credentials need the rights that docs/store.md lists"
        if kind == "UnauthenticatedError" or "401 Unauthorized" in text:
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

        doubtful = False
        for pause in (*pauses(), None):
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


def _whole(call: Callable[[], Result]) -> Result:
    """Ask again where an answer began and broke off: obstore does so for what it fetches, not for its listings."""
    from obstore.exceptions import GenericError

    for pause in pauses():
        try:
            return call()
        except GenericError as error:
            if "body error" not in str(error):
                raise
            time.sleep(pause)
    return call()


def pauses() -> Iterator[float]:
    """Seconds between tries: exponential, with jitter."""
    for retry in range(RETRIES):
        longest = min(FIRST_PAUSE * 2**retry, LONGEST_PAUSE)
        yield random.uniform(longest / 2, longest)


def open_objects(kind: str, bucket: str, prefix: str, address: Mapping[str, str] | None) -> ObjectFiles:
    """The objects of a bucket below a prefix."""
    try:
        find, connect = KINDS[kind]
        found = find() if address is None else address
        make = connect(bucket, prefix, found)
        return ObjectFiles(make(RETRIES), make(0), found)
    except ImportError as error:
        extra = {"gs": "gcs"}.get(kind, kind)
        raise StoreError(
            f"store={kind}://{bucket}: {error.name} is not installed; pip install 'rewardsweep[{extra}]'"
        ) from error


def _s3_address() -> dict[str, str]:
    """Endpoint and region, as every AWS tool finds them: in the environment, else in the profile."""
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        session = botocore.session.get_session()
        profile = session.get_scoped_config()
        region = session.get_config_variable("region") or os.environ.get("AWS_REGION") or "us-east-1"
    except BotoCoreError as error:
        raise StoreError(f"store=s3://...: {first_line(error)}; see docs/store.md") from error
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    endpoint = next(filter(None, named), profile.get("endpoint_url", ""))
    return {"region": region, **({"endpoint": endpoint} if endpoint else {})}


def _s3(bucket: str, prefix: str, address: Mapping[str, str]) -> Connect:
    """Amazon's S3 or whatever speaks it, with botocore's credentials."""
    import botocore.session
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    options: dict[str, Any] = dict(address)
    if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() not in ("true", "1"):
        session = botocore.session.get_session()
        if session.get_credentials() is None:
            raise StoreError(
                f"store=s3://{bucket}: no AWS credentials were found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or give this machine a role (docs/store.md)"
            )
        options["credential_provider"] = Boto3CredentialProvider(session)
    shared = _client(address.get("endpoint", ""))
    return lambda retries: S3Store(bucket, prefix=prefix or None, **options, **shared(retries))


def _gcs_address() -> dict[str, str]:
    """The endpoint of an emulator, as Google's own libraries find it."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "")
    return {"endpoint": host if "://" in host else f"http://{host}"} if host else {}


def _gcs(bucket: str, prefix: str, address: Mapping[str, str]) -> Connect:
    """Google's Cloud Storage with google-auth's credentials, or an emulator, which asks for none."""
    import google.auth.exceptions
    from obstore.auth.google import GoogleCredentialProvider
    from obstore.store import GCSStore

    endpoint = address.get("endpoint", "")
    options: dict[str, Any] = {"base_url": endpoint} if endpoint else {}
    if endpoint:  # obstore asks for a token even where requests are not signed
        options["credential_provider"] = lambda: {"token": "emulator", "expires_at": None}
    else:
        try:
            options["credential_provider"] = GoogleCredentialProvider()
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise StoreError(
                f"store=gs://{bucket}: no Google credentials were found; run `gcloud auth application-default login`, "
                "set GOOGLE_APPLICATION_CREDENTIALS, or give this machine a service account (docs/store.md)"
            ) from error
    shared = _client(endpoint)
    return lambda retries: GCSStore(bucket, prefix=prefix or None, **options, **shared(retries))


def _memory(bucket: str, prefix: str, address: Mapping[str, str]) -> Connect:
    """Nothing outlives the process; for tests."""
    found = _memories(bucket, prefix)
    return lambda retries: found


@cache
def _memories(bucket: str, prefix: str) -> ObjectStore:
    from obstore.store import MemoryStore

    return MemoryStore()


def _client(endpoint: str) -> Callable[[int], dict[str, Any]]:
    """Options that every kind shares, for a number of retries."""
    first, longest = timedelta(seconds=FIRST_PAUSE), timedelta(seconds=LONGEST_PAUSE)
    backoff = {"init_backoff": first, "max_backoff": longest, "base": 2}
    limits = {"retry_timeout": timedelta(seconds=RETRY_SECONDS), "backoff": backoff}
    return lambda retries: {
        "client_options": {
            "allow_http": endpoint.startswith("http://"),
            "read_timeout": SILENCE,
            "timeout": TIMEOUT,
        },
        "retry_config": {"max_retries": retries, **limits},
    }


KINDS: dict[str, tuple[Callable[[], dict[str, str]], Callable[[str, str, Mapping[str, str]], Connect]]] = {
    "s3": (_s3_address, _s3),
    "gs": (_gcs_address, _gcs),
    "memory": (dict, _memory),
}
"""How each kind finds its address, and how it connects to it."""
