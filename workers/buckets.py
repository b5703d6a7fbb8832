"""Clients for buckets, through obstore: s3://, gs://, and memory:// within one process. Stores and checkpoints use it.

Transient errors (5xx, 429, refused or dropped connections, timeouts) are tried again with exponential backoff and
jitter, at most `RETRIES` times or `RETRY_SECONDS`; what a second try cannot mend (403, no such bucket) is not.
Credentials come from the usual chains alone: botocore's for S3, google-auth's for GCS. Every complaint is a
`StoreError` that begins with the bucket; who asked puts the configuration's key before it.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from workers.errors import StoreError, first_line

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RETRIES, RETRY_SECONDS = 8, 120
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
SILENCE, TIMEOUT = timedelta(seconds=60), timedelta(minutes=10)
"""How long a request may go without a byte, and altogether; a multipart upload's pieces are counted singly."""
SEGMENT = re.compile(r"[^/\\\0-\x1f\x7f]+")

Result = TypeVar("Result")
Connect = Callable[[int], Any]
"""Makes a client that tries again so many times."""


@dataclass(frozen=True)
class Place:
    """What an address names."""

    kind: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.kind}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def is_bucket(uri: str) -> bool:
    """Whether an address is one of a bucket, known or not, rather than a path or a hub id."""
    kind, mark, _ = uri.partition("://")
    return bool(mark) and kind != "file"


def place_of(uri: str) -> Place:
    """The bucket and prefix of an address that holds nothing else."""
    kind = uri.partition("://")[0]
    if kind not in KINDS:
        raise StoreError(f"{uri}: no such kind; give a folder, s3://bucket/prefix or gs://bucket/prefix")
    parts = urlsplit(uri)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise StoreError(
            f"{kind}://...: holds more than a bucket and a prefix; addresses are recorded in every run, so keys belong "
            "into the environment or a profile, never into them (docs/store.md)"
        )
    if not parts.netloc:
        raise StoreError(f"{uri}: names no bucket; give {kind}://bucket/prefix")
    prefix = parts.path.strip("/")
    if prefix and not is_sound(prefix):
        raise StoreError(f"{uri}: a part of it is empty, `.`, `..` or holds a control character")
    return Place(kind, parts.netloc, prefix)


def is_sound(path: str) -> bool:
    """Whether a path stays below where it begins. Names in it come from data sets, models and listings."""
    return all(SEGMENT.fullmatch(part) and part not in (".", "..") for part in path.split("/"))


def address_of(place: Place) -> dict[str, str]:
    """Endpoint and region, as this machine's environment says; with it another process means the same bucket.

    It holds no secret.
    """
    with _extra(place):
        found = KINDS[place.kind][0]()
    if "@" in urlsplit(found.get("endpoint", "")).netloc:
        raise StoreError(f"{place}: the endpoint holds a user or a key, and endpoints are recorded; leave it out there")
    return found


def connect(place: Place, address: Mapping[str, str] | None = None) -> Connect:
    """How to make clients of a place; without an address it is looked for in the environment."""
    with _extra(place):
        return KINDS[place.kind][1](place.bucket, place.prefix, address_of(place) if address is None else address)


@contextmanager
def _extra(place: Place) -> Iterator[None]:
    """A library that is missing is named with the extra that brings it."""
    try:
        yield
    except ImportError as error:
        extra = {"gs": "gcs"}.get(place.kind, place.kind)
        raise StoreError(f"{place}: {error.name} is not installed; pip install 'rewardsweep[{extra}]'") from error


def whole(call: Callable[[], Result]) -> Result:
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


def explained(error: Exception) -> str:
    """Why a request failed, and what to do about it, in one line."""
    kind, text = type(error).__name__, first_line(error)
    if "NoSuchBucket" in str(error) or "bucket does not exist" in str(error):
        return "no such bucket; create it, or correct its name"
    if kind == "PermissionDeniedError" or "403 Forbidden" in text:
        return "access denied; these credentials need the rights that docs/store.md lists"
    if kind == "UnauthenticatedError" or "401 Unauthorized" in text:
        return "the credentials are missing, wrong or out of date; see docs/store.md"
    return f"{text}; check the network and the endpoint, then run the same command again"


def _s3_address() -> dict[str, str]:
    """Endpoint and region, as every AWS tool finds them: in the environment, else in the profile."""
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        session = botocore.session.get_session()
        profile = session.get_scoped_config()
        region = session.get_config_variable("region") or os.environ.get("AWS_REGION") or "us-east-1"
    except BotoCoreError as error:
        raise StoreError(f"s3://...: {first_line(error)}; see docs/store.md") from error
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
                f"s3://{bucket}: no AWS credentials were found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
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
                f"gs://{bucket}: no Google credentials were found; run `gcloud auth application-default login`, "
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
