"""Pure: what is owed, why, and in which shards.

What is owed is a set difference, wanted minus present, so it needs no tokenizer. Resuming, adding a model and
a nightly run are the same operation.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from itertools import compress, groupby
from typing import Any

from orchestrator.benchmarks import Example
from orchestrator.cost import Placement
from workers import plugins
from workers.plugins import FamilyModule
from workers.protocol import Message, Model, ModelSpec, Request, Shard, digest

HASH = re.compile(r"\b[0-9a-f]{32,64}\b")
ENDPOINT_ROWS = 64
"""Requests a shard at most where each is paid for: a lost worker loses what it has not written."""


@dataclass(frozen=True)
class Asked:
    """What a stream is asked for, in the order of its shards; one object for all models that ask the same.

    `subsets` tells for each request the first place where it occurs, as `benchmark/subset`.
    """

    requests: tuple[Request, ...]
    subsets: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """What one example needs of one model: requests, each with the position of its stream."""

    example: Example
    requests: tuple[tuple[int, Request], ...]


@dataclass(frozen=True)
class StreamPlan:
    """One stream of measurements: all requests it is asked for, and those that are owed.

    `subsets` tells for each owed request where it occurs, as `benchmark/subset`. `placements` are all kinds of devices
    that can hold the model, the fastest first; empty where nothing is known of its size or of the devices.
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
    made: dict[tuple[Any, ...], list[Wanted]] = {}
    found: dict[str, list[Wanted]] = {}
    for model in models:
        question = _question(model)
        if question not in made:
            made[question] = wanted(model, examples)
        found[model.asks] = made[question]
    return found


def _question(model: Model) -> tuple[Any, ...]:
    """Models with equal questions want the same: their families share the function, and all that it may look at."""
    scoring = digest(dict(model.scoring))
    return family(model.family).wanted, len(model.streams), model.streams[0].protocol, scoring


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
    return plan_jobs([(models, benchmarks)], present, earlier, shard_rows)


def plan_jobs(
    jobs: Sequence[tuple[Sequence[Model], Mapping[str, Sequence[Example]]]],
    present: Mapping[str, AbstractSet[str]],
    earlier: Mapping[str, Mapping[str, Any]],
    shard_rows: int,
) -> Plan:
    """One plan for several jobs, each with models and benchmarks of its own; what two of them want is owed once."""
    specs: dict[str, ModelSpec] = {}
    needs: dict[str, Asked] = {}
    for models, benchmarks in jobs:
        asked: dict[tuple[Any, ...], Mapping[int, Asked]] = {}
        for model in models:
            question = _question(model)
            if question not in asked:
                asked[question] = _asked(model, benchmarks)
            for stream, spec in enumerate(model.streams):
                specs.setdefault(spec.fingerprint, spec)
                mine = asked[question].get(stream, Asked((), ()))
                known = needs.setdefault(spec.fingerprint, mine)
                if known is not mine:
                    needs[spec.fingerprint] = _merged(known, mine)
    shared = _Shared()
    streams: dict[str, StreamPlan] = {}
    for fingerprint, spec in specs.items():
        owed = shared.owed(needs[fingerprint], present.get(fingerprint, frozenset()))
        pieces = shared.cut(owed, min(shard_rows, ENDPOINT_ROWS) if spec.endpoint else shard_rows)
        streams[fingerprint] = _stream_plan(spec, needs[fingerprint], owed, pieces, earlier.get(spec.name))
    return Plan(streams)


def _asked(model: Model, benchmarks: Mapping[str, Sequence[Example]]) -> Mapping[int, Asked]:
    """What a model is asked for, by stream; streams that are asked the same share it."""
    found: dict[int, dict[str, tuple[Request, str]]] = {}
    for name, rows in benchmarks.items():
        for row in rows:
            place = sys.intern(f"{name}/{row.subset}")
            for stream, request in family(model.family).wanted(model, row.prompt, row.responses):
                found.setdefault(stream, {}).setdefault(request.digest, (request, place))
    made: dict[int, Asked] = {}
    for stream, requests in found.items():
        twin = next((other for other in made if found[other].keys() == requests.keys()), None)
        made[stream] = _ordered(requests) if twin is None else made[twin]
    return made


def _merged(one: Asked, other: Asked) -> Asked:
    """Both, each request once."""
    both = [*zip(other.requests, other.subsets, strict=True), *zip(one.requests, one.subsets, strict=True)]
    return _ordered({request.digest: (request, place) for request, place in both})


def _ordered(found: Mapping[str, tuple[Request, str]]) -> Asked:
    """Requests with one prompt beside each other, so that a shard's passes share it; the longest first."""
    groups: dict[tuple[Message, ...], list[str]] = {}
    for name, (request, _) in found.items():
        groups.setdefault(request.prompt, []).append(name)
    sizes = {
        prompt: (-max(found[name][0].characters for name in names), min(names)) for prompt, names in groups.items()
    }
    order = [
        name
        for prompt in sorted(groups, key=sizes.__getitem__)
        for name in sorted(groups[prompt], key=lambda name: found[name][0].responses)
    ]
    return Asked(tuple(found[name][0] for name in order), tuple(found[name][1] for name in order))


class _Shared:
    """What is left of the same questions, and its shards: one object for all streams that owe the same."""

    def __init__(self) -> None:
        self._left: dict[tuple[int, bytes], Asked] = {}
        self._pieces: dict[tuple[int, int], list[tuple[Request, ...]]] = {}

    def owed(self, asked: Asked, present: AbstractSet[str]) -> Asked:
        """What of a question is not present."""
        kept = bytes(request.digest not in present for request in asked.requests) if present else b""
        if all(kept):
            return asked
        if (id(asked), kept) not in self._left:
            self._left[id(asked), kept] = Asked(
                tuple(compress(asked.requests, kept)), tuple(compress(asked.subsets, kept))
            )
        return self._left[id(asked), kept]

    def cut(self, owed: Asked, rows: int) -> list[tuple[Request, ...]]:
        """Its requests in pieces of at most so many rows."""
        if (id(owed), rows) not in self._pieces:
            self._pieces[id(owed), rows] = _cut(owed.requests, rows)
        return self._pieces[id(owed), rows]


def _cut(owed: Sequence[Request], rows: int) -> list[tuple[Request, ...]]:
    """At most `rows` requests in a shard; a prompt's are divided only where there are more of them."""
    shards: list[list[Request]] = []
    for _, prompt in groupby(owed, key=lambda request: request.prompt):
        group = list(prompt)
        if not shards or len(shards[-1]) + len(group) > rows:
            shards.append([])
        for request in group:
            if len(shards[-1]) == rows:
                shards.append([])
            shards[-1].append(request)
    return [tuple(shard) for shard in shards if shard]


def _stream_plan(
    spec: ModelSpec,
    asked: Asked,
    owed: Asked,
    pieces: Sequence[tuple[Request, ...]],
    earlier: Mapping[str, Any] | None,
) -> StreamPlan:
    """One stream's debt in shards of its own, whose requests are those of everyone who owes them."""
    shards = tuple(
        Shard(f"{spec.fingerprint[:12]}-{number:05d}", spec.fingerprint, piece) for number, piece in enumerate(pieces)
    )
    total = len(asked.requests)
    reason = _reason(spec, total, len(owed.requests), earlier)
    return StreamPlan(spec, total, owed.requests, owed.subsets, reason, shards)


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
