"""Pure: what is owed, why, and in which shards.

What is owed is a set difference, wanted minus present, so it needs no tokenizer. Resuming, adding a model and
a nightly run are the same operation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from typing import Any

from orchestrator.benchmarks import Example
from orchestrator.cost import Placement
from workers import plugins
from workers.plugins import FamilyModule
from workers.protocol import Message, Model, ModelSpec, Request, Shard

HASH = re.compile(r"\b[0-9a-f]{32,64}\b")
ENDPOINT_ROWS = 64
"""Requests a shard at most where each is paid for: a lost worker loses what it has not written."""

Asked = Mapping[str, tuple[Request, str]]
"""Requests by digest, each with the first place where it occurs, as `benchmark/subset`."""


@dataclass(frozen=True)
class Wanted:
    """What one example needs of one model: requests, each with the position of its stream."""

    example: Example
    requests: tuple[tuple[int, Request], ...]


@dataclass(frozen=True)
class StreamPlan:
    """One stream of measurements: all requests it is asked for, and those that are owed.

    `subsets` tells for each owed request where it occurs, as `benchmark/subset`. `placements` are the kinds of
    devices that can hold the model, the best first; none means any device as `spec.gpus` says, times unknown.
    """

    spec: ModelSpec
    total: int
    owed: tuple[Request, ...]
    subsets: tuple[str, ...]
    reason: str
    shards: tuple[Shard, ...]
    placements: tuple[Placement, ...] = ()

    @property
    def reused(self) -> int:
        """Measurements that the store already has."""
        return self.total - len(self.owed)


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do, by fingerprint of the stream."""

    streams: Mapping[str, StreamPlan]

    @property
    def total(self) -> int:
        """Measurements asked for."""
        return sum(stream.total for stream in self.streams.values())

    @property
    def owed(self) -> int:
        """Measurements to be made."""
        return sum(len(stream.owed) for stream in self.streams.values())


@cache
def family(name: str) -> FamilyModule:
    """The family's module, looked up once: it is asked for by every row; `InputError` lists what exists."""
    module: Any = plugins.resolve("workers.families", name)
    return module  # type: ignore[no-any-return]


def wanted(model: Model, examples: Iterable[Example]) -> list[Wanted]:
    """The requests of all examples for a model, in the order of the examples."""
    module = family(model.family)
    return [Wanted(row, tuple(module.wanted(model, row.prompt, row.responses))) for row in examples]


def needs_of(models: Iterable[Model], examples: Sequence[Example]) -> dict[str, list[Wanted]]:
    """What models want, by `Model.asks`: worked out once for all models that ask the same."""
    return {asks: wanted(model, examples) for asks, model in {model.asks: model for model in models}.items()}


def make_plan(
    models: Sequence[Model],
    benchmarks: Mapping[str, Sequence[Example]],
    present: Mapping[str, AbstractSet[str]],
    earlier: Mapping[str, Mapping[str, Any]],
    shard_rows: int,
) -> Plan:
    """The plan for all models over all benchmarks.

    `present` holds the digests of the requests that each fingerprint has, `earlier` the identity under which
    each stream's name was last seen. A text that occurs twice is owed once.
    """
    asked = {asks: _asked(model, benchmarks) for asks, model in {model.asks: model for model in models}.items()}
    specs: dict[str, ModelSpec] = {}
    needs: dict[str, Asked] = {}
    for model in models:
        for stream, spec in enumerate(model.streams):
            specs.setdefault(spec.fingerprint, spec)
            mine, known = asked[model.asks].get(stream, {}), needs.get(spec.fingerprint)
            needs[spec.fingerprint] = mine if known is None or known is mine else {**known, **mine}
    return Plan(
        {
            fingerprint: _stream_plan(
                spec, needs[fingerprint], present.get(fingerprint, frozenset()), earlier.get(spec.name), shard_rows
            )
            for fingerprint, spec in specs.items()
        }
    )


def _asked(model: Model, benchmarks: Mapping[str, Sequence[Example]]) -> Mapping[int, Asked]:
    """What a model is asked for, by stream: worked out once for all models that ask the same."""
    found: dict[int, dict[str, tuple[Request, str]]] = {}
    for name, rows in benchmarks.items():
        for row in wanted(model, rows):
            for stream, request in row.requests:
                found.setdefault(stream, {}).setdefault(request.digest, (request, f"{name}/{row.example.subset}"))
    return found


def _stream_plan(
    spec: ModelSpec,
    asked: Asked,
    present: AbstractSet[str],
    earlier: Mapping[str, Any] | None,
    shard_rows: int,
) -> StreamPlan:
    """One stream's debt, cut into shards of prompts of like length."""
    prompts = _by_prompt(asked[name][0] for name in asked.keys() - present)
    owed = [request for prompt in prompts for request in prompt]
    shards = tuple(
        Shard(f"{spec.fingerprint[:12]}-{number:05d}", spec.fingerprint, requests)
        for number, requests in enumerate(
            _cut(prompts, min(shard_rows, ENDPOINT_ROWS) if spec.endpoint else shard_rows)
        )
    )
    places = tuple(asked[request.digest][1] for request in owed)
    return StreamPlan(spec, len(asked), tuple(owed), places, _reason(spec, len(asked), len(owed), earlier), shards)


def _by_prompt(requests: Iterable[Request]) -> list[list[Request]]:
    """Requests about one prompt together, for an engine computes what they share once; the longest ones first."""
    groups: dict[tuple[Message, ...], list[Request]] = {}
    for request in sorted(requests, key=_longest_first):
        groups.setdefault(request.prompt, []).append(request)
    return list(groups.values())


def _cut(prompts: Sequence[Sequence[Request]], shard_rows: int) -> list[tuple[Request, ...]]:
    """At most `shard_rows` requests in a shard; a prompt's are divided only where there are more of them."""
    shards: list[list[Request]] = []
    for prompt in prompts:
        if not shards or len(shards[-1]) + len(prompt) > shard_rows:
            shards.append([])
        for request in prompt:
            if len(shards[-1]) == shard_rows:
                shards.append([])
            shards[-1].append(request)
    return [tuple(shard) for shard in shards if shard]


def _longest_first(request: Request) -> tuple[int, str]:
    return (-request.characters, request.digest)


def _reason(spec: ModelSpec, total: int, owed: int, earlier: Mapping[str, Any] | None) -> str:
    """Why something is owed, in words."""
    if owed == 0:
        return "all in the store"
    if owed < total:
        return f"{total - owed} of {total} in the store"
    if earlier is None:
        return "new model"
    changed = changes(spec.identity, earlier)
    if not changed:
        return "new data"
    return "changed: " + ", ".join(f"{name} {words}" for name, words in changed.items())


def changes(identity: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, str]:
    """The fields in which an identity differs from an earlier one, each with both values in short; sorted."""
    changed = sorted(name for name, value in identity.items() if _plain(value) != _plain(earlier.get(name)))
    return {
        name: _libraries(identity[name], earlier.get(name) or ())
        if name == "environment"
        else f"{_short(earlier.get(name))} -> {_short(identity[name])}"
        for name in changed
    }


def _libraries(now: Iterable[Sequence[str]], earlier: Iterable[Sequence[str]]) -> str:
    """The libraries whose versions differ."""
    new, old = ({name: version for name, version in versions} for versions in (now, earlier))
    differing = [name for name in {**new, **old} if new.get(name) != old.get(name)]
    return ", ".join(f"{name} {old.get(name)} -> {new.get(name)}" for name in differing)


def _plain(value: Any) -> Any:
    """Tuples and lists alike, as JSON makes them."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    """A value as text: of commits and hashes the first characters."""
    text = HASH.sub(lambda found: found[0][:8], str(value))
    return text if len(text) <= 64 else f"{text[:61]}..."
