"""The verb `models`: the model files that can be named, filtered. Reads files only; nothing is downloaded."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator import tables
from orchestrator.config import OUTPUTS
from orchestrator.paths import CONF_DIR
from orchestrator.pin import check_entry
from orchestrator.progress import say
from workers import plugins
from workers.errors import InputError, first_line

FILTERS = ("name", "family", "engine", "suite", "max_size")


@dataclass(frozen=True)
class Listed:
    """A model's file: its name, what it says, and the suites that hold it."""

    name: str
    entry: Mapping[str, Any]
    suites: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The columns of the listing."""
        return {
            "model": self.name,
            "family": self.entry["family"],
            "engine": self.entry.get("engine", "auto"),
            "size": self.entry.get("size"),
            "gpus": self.entry.get("gpus"),
            "path": self.entry.get("path"),
            "reference": self.entry.get("reference"),
            "suites": " ".join(self.suites),
        }


def models(words: Sequence[str]) -> int:
    """List the model files that fit all `key=value` words; 1 if there is none."""
    options = _options(words)
    output = options.pop("output", "text")
    if output not in OUTPUTS:
        raise InputError(f"output={output}: must be one of {', '.join(OUTPUTS)}")
    found = [model for model in load(options.pop("--config-dir", None)) if _fits(model, options)]
    if not found:
        say("no model fits; `rewardsweep models` lists all")
        return 1
    print(tables.listing([model.record() for model in found], output, f"{len(found)} models"))
    return 0


def load(folder: str | None = None) -> list[Listed]:
    """All model files that ship, and those of a folder, sorted by name; a file of the folder wins.

    `InputError` names the file that is wrong.
    """
    roots = [CONF_DIR, *([_folder(folder)] if folder else [])]
    suites = {path.stem: _suite(path) for root in roots for path in sorted((root / "suite").glob("*.yaml"))}
    entries = {path.stem: _entry(path) for root in roots for path in (root / "model").glob("*.yaml")}
    named = sorted(entries, key=str.lower)
    return [Listed(name, entries[name], tuple(s for s in suites if name in suites[s])) for name in named]


def _folder(given: str) -> Path:
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise InputError(f"--config-dir {given}: no such folder; check the path")
    return folder


def _entry(path: Path) -> Mapping[str, Any]:
    """What a model's file says; the same check as before a run."""
    values = _yaml(path)
    if not isinstance(values, dict) or list(values) != [path.stem] or not isinstance(values[path.stem], dict):
        raise InputError(f"{path}: must hold one key, {path.stem}, with the model's keys below it")
    try:
        check_entry(path.stem, values[path.stem])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    entry: Mapping[str, Any] = values[path.stem]
    return entry


def _suite(path: Path) -> set[str]:
    """The models that a suite's file selects."""
    values = _yaml(path) or {}
    defaults = values.get("defaults", []) if isinstance(values, dict) else []
    chosen = [default.get("override /model", []) for default in defaults if isinstance(default, dict)]
    return {str(name) for names in chosen for name in ([names] if isinstance(names, str) else names)}


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({first_line(error)})") from error


def _options(words: Sequence[str]) -> dict[str, str]:
    """The words as a mapping: filters, `output`, `--config-dir`."""
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        key, equals, value = word.partition("=")
        key = "--config-dir" if key == "-cd" else key
        if key == "--config-dir" and not equals:
            value = next(rest, "")
        known = [*FILTERS, "output", "--config-dir"]
        if key not in known:
            raise InputError(f"{plugins.unknown(key, known, 'filter')}; write key=value")
        if not value:
            raise InputError(f"{key}: needs a value behind it")
        options[key] = value
    return options


def _fits(model: Listed, options: Mapping[str, str]) -> bool:
    """Whether a model passes every filter; `name` may hold * and ?."""
    if "max_size" in options and not _at_most(model.entry.get("size"), options["max_size"]):
        return False
    record = model.record()
    return all(
        (
            fnmatch.fnmatchcase(model.name.lower(), options.get("name", "*").lower()),
            options.get("family") in (None, record["family"]),
            options.get("engine") in (None, record["engine"]),
            "suite" not in options or options["suite"] in model.suites,
        )
    )


def _at_most(size: Any, limit: str) -> bool:
    """Whether a size in billions of parameters is known and not above the limit."""
    try:
        return size is not None and float(size) <= float(limit)
    except ValueError as error:
        raise InputError(f"max_size={limit}: must be a number: billions of parameters") from error
