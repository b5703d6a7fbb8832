"""Log lines that say which run, model and shard they are about, as JSON or as text. Standard library only.

What is bound with `bound` goes into every line of this thread, those of libraries too. No line holds a secret: values
of environment variables that are named like one, and passwords in addresses, are blotted out.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Form = Literal["text", "json"]

LOGGER = logging.getLogger("rewardsweep")
WORKER = logging.getLogger("rewardsweep.worker")
"""Quiet where worker and driver share a process."""
WORKER.setLevel(logging.WARNING)

SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
SECRET_LENGTH = 8
"""Shorter values are no secrets, and blotting them out would make holes into words."""
IN_ADDRESS = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")

_bound: ContextVar[Mapping[str, Any] | None] = ContextVar("bound", default=None)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Every line that is logged meanwhile carries these fields."""
    token = _bound.set({**(_bound.get() or {}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def redacted(text: str) -> str:
    """The text without the secrets of this process's environment."""
    for name, value in os.environ.items():
        if len(value) >= SECRET_LENGTH and value in text and SECRET_NAME.search(name) and not os.path.exists(value):
            text = text.replace(value, "***")
    return IN_ADDRESS.sub(r"\1***@", text)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What is bound, and what the record brings itself in `extra={"fields": ...}`; nothing that is empty."""
    fields = {**(_bound.get() or {}), **getattr(record, "fields", {})}
    return {name: value for name, value in fields.items() if value is not None}


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message, then run, model, shard and whatever else is known."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in fields_of(record).items() if name not in RESERVED},
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return redacted(json.dumps(entry, ensure_ascii=False, default=str))


class TextLines(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback below it where there is one."""
        about = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
        line = f"{when} {record.levelname.lower()} {record.name}{f' [{about}]' if about else ''}: {record.getMessage()}"
        return redacted(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


RESERVED = ("time", "level", "logger", "message")
FORMATS: Mapping[Form, type[logging.Formatter]] = {"json": JsonLines, "text": TextLines}


def to_stderr(form: Form) -> None:
    """All lines of this process go to standard error in one form: all of ours, warnings of libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[form]())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.handlers.clear()
    LOGGER.propagate = True


def dress(form: Form) -> None:
    """Libraries that brought a handler of their own to standard error write lines of our form, too."""
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    for logger in loggers:
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.setFormatter(FORMATS[form]())
