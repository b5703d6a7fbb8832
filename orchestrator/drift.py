"""Pure: does an unchanged model still give the scores it gave under other versions of engine and libraries?

Versions are part of every key, so both sets of scores are in the store, and every request that both have is compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from orchestrator.benchmarks import Judged
from orchestrator.metrics import NOISE, credit
from orchestrator.plan import changes
from workers.protocol import Measurement, Model, ModelSpec

COMPUTES = {"engine", "engine_version", "environment", "family_version"}
"""Of an identity, what computes; all else is the model and how it is asked."""

Pairs = Sequence[tuple[Judged, Judged]]
"""The same row, judged by two sets of scores: before and now."""


@dataclass(frozen=True)
class Drift:
    """An unchanged model under other versions: `requests` that both have, and how their values differ.

    `largest` and `median` are of the absolute differences; `beyond` counts those larger than numerical noise explains,
    `retokenised` requests whose tokens are not the same, `texts` those for which a judge wrote another text; `turned`
    counts the rows, of `rows`, whose verdict is another.
    """

    model: str
    since: str
    versions: tuple[str, ...]
    requests: int
    largest: float
    median: float
    beyond: int
    retokenised: int
    texts: int
    turned: int
    rows: int

    @property
    def alarm(self) -> bool:
        """Whether the scores no longer mean what they did."""
        return bool(self.beyond or self.retokenised or self.turned)


def causes(before: Model, now: Model, fingerprints: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """What differs between two forms of a model, in words, and whether it is only what computes.

    `fingerprints` are those of the earlier streams as they were then: where an identity has got further fields since,
    they are not what they would be now.
    """
    if (before.family, len(before.streams), dict(before.scoring)) != (now.family, len(now.streams), dict(now.scoring)):
        return ("family or scoring",), False
    found: dict[str, None] = {}
    only_versions = True
    for old, new, fingerprint in zip(before.streams, now.streams, fingerprints, strict=True):
        changed = changes(new.identity, old.identity)
        only_versions &= changed.keys() <= COMPUTES
        found |= dict.fromkeys(words if name == "environment" else f"{name} {words}" for name, words in changed.items())
        if fingerprint != old.fingerprint:
            found["what rewardsweep counts as a model's identity"] = None
    return tuple(found), only_versions and bool(found)


def drift(
    now: Model,
    versions: tuple[str, ...],
    streams: Iterable[tuple[Mapping[str, Measurement], Mapping[str, Measurement]]],
    pairs: Pairs,
    since: str,
) -> Drift:
    """How far an unchanged model moved; `streams` hold what was and what is, by request, for each of its streams."""
    gaps: list[float] = []
    beyond = retokenised = texts = 0
    for spec, (old, new) in zip(now.streams, streams, strict=True):
        for request in old.keys() & new.keys():
            gap = _gap(old[request], new[request])
            gaps.append(gap)
            beyond += gap > _tolerance(spec, new[request])
            retokenised += old[request].token_hash != new[request].token_hash
            texts += old[request].text != new[request].text
    return Drift(
        model=now.name,
        since=since,
        versions=versions,
        requests=len(gaps),
        largest=max(gaps, default=0.0),
        median=median(gaps) if gaps else 0.0,
        beyond=beyond,
        retokenised=retokenised,
        texts=texts,
        turned=sum(credit(old) != credit(new) for old, new in pairs),
        rows=len(pairs),
    )


def _gap(one: Measurement, other: Measurement) -> float:
    """The absolute difference; 0 of two that are alike, finite or not, and infinite where one of them is NaN."""
    if one.value == other.value or (math.isnan(one.value) and math.isnan(other.value)):
        return 0.0
    gap = abs(one.value - other.value)
    return math.inf if math.isnan(gap) else gap


def _tolerance(spec: ModelSpec, row: Measurement) -> float:
    """What `check` lets pass: of a log-probability a token, of any other value as it is."""
    return NOISE[spec.dtype] * (row.num_tokens if row.kind == "logprob" else 1)
