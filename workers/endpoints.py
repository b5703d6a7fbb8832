"""Where models answer that are not loaded here: the `endpoint` of a model's file. Nothing guessed, nothing secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from workers.errors import InputError
from workers.plugins import unknown


@dataclass(frozen=True)
class Preset:
    """A provider: its address, the environment variable of its key, and whether it takes a `seed`."""

    url: str
    key: str
    seed: bool


PRESETS = {
    "openai": Preset("https://api.openai.com/v1", "OPENAI_API_KEY", seed=True),
    "anthropic": Preset("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", seed=False),
    "gemini": Preset("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", seed=False),
    "together": Preset("https://api.together.xyz/v1", "TOGETHER_API_KEY", seed=True),
}


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers. Nothing here is part of a text's key but `serves`, the address if it is not given.

    `key` names an environment variable, None where the endpoint wants no key; `concurrency` is the number of requests
    at a time, `timeout` is in seconds; `input_price` and `output_price` are dollars per million tokens.
    """

    url: str
    key: str | None = None
    seed: bool = True
    concurrency: int = 8
    retries: int = 10
    timeout: float = 600.0
    input_price: float | None = None
    output_price: float | None = None
    serves: str | None = None


RULES: dict[str, tuple[tuple[type, ...], float, str]] = {
    "seed": ((bool,), 0, "true or false"),
    "concurrency": ((int,), 1, "a whole number of at least 1"),
    "retries": ((int,), 0, "a whole number of at least 0"),
    "timeout": ((int, float), 1, "a number of seconds, at least 1"),
    "input_price": ((int, float), 0, "a number: dollars per million tokens"),
    "output_price": ((int, float), 0, "a number: dollars per million tokens"),
    "serves": ((str,), 0, "text: what answers there, for example a checkpoint's commit"),
}


def endpoint(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """`models.<name>.endpoint`, checked, presets filled in; `InputError` names the key that is wrong."""
    key = f"models.{name}.endpoint"
    if not entry.get("path"):
        raise InputError(f"models.{name}.path is missing: set it to the model's name at the endpoint")
    given = entry.get("endpoint")
    values = {"url": given} if isinstance(given, str) else dict(given or {})
    known = [field.name for field in fields(Endpoint)]
    for field in values:
        if field not in known:
            raise InputError(f"{key}: {unknown(str(field), known, 'key')}")
    url = values.get("url")
    if not isinstance(url, str) or not (url in PRESETS or _is_url(url)):
        raise InputError(f"{key}.url: must be one of {', '.join(PRESETS)}, or an http(s) address without a password")
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", str(values.get("key") or "KEY")):
        raise InputError(f"{key}.key: must be the name of an environment variable that holds the key, not the key")
    for field, (kinds, least, what) in RULES.items():
        value = values.get(field)
        if value is not None and (type(value) not in kinds or (not isinstance(value, str) and value < least)):
            raise InputError(f"{key}.{field}={value}: must be {what}")
    preset = asdict(PRESETS[url]) if url in PRESETS else {"url": url.rstrip("/")}
    made = Endpoint(**{**values, **preset, **{field: values[field] for field in ("key", "seed") if field in values}})
    return {**asdict(made), "serves": made.serves or made.url}


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and not parts.query
        )
    except ValueError:
        return False
