"""Post a night's report to a webhook, as Slack and what speaks like it take it.

The address is a secret: whoever has it can post. It is read from the environment, is never part of a message, and is
sent nowhere else: a redirection counts as a refusal.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from workers.errors import InputError

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
SECONDS = 10.0
PAUSES = (1.0, 4.0)
"""Seconds before the second and the third attempt."""
LONGEST_PAUSE = 30.0
HEADER_CHARACTERS = 150
TEXT_CHARACTERS = 3000
"""What Slack takes in a header and in a section (Block Kit reference)."""


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def address(given: Any) -> str | None:
    """The address behind `webhook=`: an environment variable's value, or itself; no complaint repeats it."""
    if given is None:
        return None
    if not isinstance(given, str):
        raise InputError("webhook: must be the name of an environment variable that holds an address")
    named = VARIABLE.fullmatch(given) is not None
    url = os.environ.get(given, "").strip() if named else given
    where = f"webhook={given}" if named else "webhook"
    if not url:
        raise InputError(f"{where}: the environment has no variable of that name, or it is empty")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii() and url.isprintable()
        fine = fine and " " not in url and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine:
        raise InputError(f"{where}: must be, or name an environment variable that holds, an http(s) address")
    return url


def message(title: str, lines: list[str], link: str) -> dict[str, Any]:
    """The JSON to post: `text` for notifications and plain receivers, `blocks` for those that lay them out.

    What comes from models' names and errors cannot mention anyone: Slack's three control characters are escaped.
    """
    body = _cut("\n".join(f"• {_plain(line)}" for line in lines), TEXT_CHARACTERS)
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(title, HEADER_CHARACTERS)}},
        *([{"type": "section", "text": {"type": "mrkdwn", "text": body}}] if body else []),
        {"type": "context", "elements": [{"type": "mrkdwn", "text": _cut(_plain(link), TEXT_CHARACTERS)}]},
    ]
    return {"text": _plain(title), "blocks": blocks}


def post(url: str, payload: Mapping[str, Any], pause: Callable[[float], None] = time.sleep) -> str | None:
    """Post, three times at most; None where it was taken, else why not, without the address."""
    # http or https alone, as `address` made sure
    request = urllib.request.Request(  # noqa: S310
        url,
        data=json.dumps(payload, ensure_ascii=True).encode("ascii"),
        headers={"Content-Type": "application/json; charset=utf-8", "User-Agent": "rewardsweep"},
        method="POST",
    )
    opener = urllib.request.build_opener(_NoRedirection)
    for wait in (*PAUSES, None):
        try:
            with opener.open(request, timeout=SECONDS):
                return None
        except urllib.error.HTTPError as error:
            problem = f"the receiver answered {error.code}"
            if error.code != 429 and error.code < 500:
                return problem
            wait = _asked_for(error.headers.get("Retry-After"), wait)  # noqa: PLW2901
        except Exception as error:  # whatever a receiver can do to a client: the report is in the store
            problem = f"the receiver cannot be reached ({_kind(error)})"
        if wait is not None:
            pause(wait)
    return f"{problem}, {len(PAUSES) + 1} times"


def _asked_for(header: str | None, wait: float | None) -> float | None:
    """The pause that a receiver asks for, within reason."""
    asked = header is not None and header.strip().isdigit()
    return min(float(header or 0), LONGEST_PAUSE) if wait is not None and asked else wait


def _kind(error: Exception) -> str:
    """What went wrong, by its type or the system's words: other messages may hold the address or a part of it."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return os.strerror(cause.errno) if isinstance(cause, ConnectionError) and cause.errno else type(cause).__name__


def _plain(text: str) -> str:
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
