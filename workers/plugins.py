"""Plug-ins by file name: a module in the folder of a package is its own registration."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from types import ModuleType

from workers.errors import InputError

KINDS = {"workers.families": "family", "workers.engines": "engine", "orchestrator.benchmarks": "benchmark"}

LISTED = 30
"""Names that an error message lists at most."""


def available(package: str) -> list[str]:
    """The names of all plug-ins in a package's folder, sorted."""
    folder = importlib.import_module(package)
    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_"))


def resolve(package: str, name: str) -> ModuleType:
    """The module `<package>.<name>`, or the module of a dotted `name` from outside this repository.

    Raises `InputError` that lists what exists when there is no such module.
    """
    target = name if "." in name else f"{package}.{name}"
    if "." not in name and name not in available(package):
        raise InputError(unknown(name, available(package), KINDS.get(package, "plug-in")))
    try:
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name is not None and target.startswith(error.name):
            raise InputError(f"cannot import the plug-in {target!r}: no such module") from error
        raise


def unknown(name: str, known: list[str], kind: str) -> str:
    """The sentence for an unknown name: the closest match first, then what exists, shortened where it is much."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"unknown {kind} {name!r}: {hint}available: {', '.join(known[:LISTED]) or 'none'}{more}"


def is_name(text: str) -> bool:
    """Whether a model or run name is safe as a file name and on a page: no path, no control characters."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", text) is not None
