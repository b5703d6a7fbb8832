"""Plug-ins by file name: a module in the folder of a package is its own registration; what each has to offer."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, Protocol

from workers.errors import InputError
from workers.protocol import Finding, Kind, Measurement, Message, Model, ModelSpec, Output, Request, Unscored

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


class Engine(Protocol):
    """Executes requests. A half-ready engine does not exist: construction loads the weights."""

    def run(self, requests: Sequence[Request]) -> Sequence[Output | Unscored]:
        """One output a request, in order."""

    def details(self) -> dict[str, str]:
        """Facts for the provenance: device, kernel, dtype, and the work of the last `run`.

        `compile_seconds` are what of loading was compilation, `ooms` how often the last `run` was out of memory.
        """

    def close(self) -> None:
        """Give back all memory."""


class EngineModule(Protocol):
    """What a file in `workers/engines` offers.

    `PACKAGES` are the libraries whose versions are part of a score's identity; `NEEDS_WEIGHTS` tells whether a
    model must name a checkpoint; `KINDS` are the kinds of requests it can answer. One that calls a server offers
    `endpoint(name, entry)` too: its checked settings.
    """

    VERSION: str
    PACKAGES: tuple[str, ...]
    NEEDS_WEIGHTS: bool
    KINDS: tuple[Kind, ...]

    def load(self, spec: ModelSpec) -> Engine:
        """An engine with the weights in memory."""

    def lint(self, spec: ModelSpec, requests: Sequence[Request]) -> list[Finding]:
        """Findings on the rendered tokens, before any weights are loaded."""

    def token_hashes(self, spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
        """The `token_hash` that each request's measurement must carry."""

    def shown(self, spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
        """What the model sees of each request, for people: special tokens are visible."""


class FamilyModule(Protocol):
    """What a file in `workers/families` offers.

    `ENGINES` lists the engines that can serve it, best first; `KIND` is the kind of its requests; `TIES` says whether
    a tie is a loss or shared, as the reference does for judges; `SCORING` names the keys it takes in `Model.scoring`,
    each with its possible values, the default first.

    For the transformers engine a family may offer three functions more, which import torch inside:
    `config(spec)`, the checkpoint's configuration where `AutoConfig` does not know it; `render(renderer, request)`,
    token ids by rules of its own; `head(spec, config)`, a `workers.heads.Head` that reads the checkpoint's own head.
    Any family may offer `unreadable`, with the arguments of `values`: whether a text holds no answer, to be counted;
    and, for ensembles, `OF_A_MEMBER`: the keys of `SCORING` that each member chooses for itself.
    """

    VERSION: str
    ENGINES: tuple[str, ...]
    KIND: Kind
    TIES: Literal["lose", "share"]
    SCORING: Mapping[str, tuple[Any, ...]]

    def wanted(
        self, model: Model, prompt: tuple[Message, ...], responses: tuple[str, ...]
    ) -> list[tuple[int, Request]]:
        """The requests behind one score a response, each with the position of its stream in `Model.streams`."""

    def values(
        self, model: Model, measurements: Sequence[Measurement], prompt: tuple[Message, ...], responses: tuple[str, ...]
    ) -> list[float]:
        """One score a response, from the measurements of `wanted` in the same order and what `wanted` was given."""
