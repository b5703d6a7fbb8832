"""Secrets that can be told apart, and the search for them in everything that was written."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq

SECRETS = (
    "HF_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "RAY_AUTH_TOKEN",
)
CANARIES = {name: f"canary-{name.lower().replace('_', '-')}-7f3a+/=" for name in SECRETS}
MARK = "a-subset-that-must-be-found"
"""Stands in the data, and so in parts, records and pages: the search must see it wherever a secret could be."""


def spellings(secret: str) -> set[bytes]:
    """A secret as it is, in base64, percent-encoded, escaped for HTML and JSON, and its first half."""
    plain = secret.encode()
    html = secret.replace("&", "&amp;").replace("+", "&#43;")
    encoded = base64.b64encode(plain).rstrip(b"=")
    return {plain, encoded, quote(secret, safe="").encode(), html.encode(), plain[: len(plain) // 2]}


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder; Parquet is unpacked, its footer and schema too, since its pages are compressed."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            content += repr((table.schema.metadata, table.to_pylist())).encode()
        yield str(path.relative_to(folder)), str(path).encode() + content


def leaks(where: Mapping[str, bytes]) -> list[tuple[str, str]]:
    return [
        (name, place)
        for name, secret in CANARIES.items()
        for place, content in where.items()
        if any(spelling in content for spelling in spellings(secret))
    ]
