"""Pure: where each stream of a plan can run and how long it takes there, and the forecast of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from orchestrator.architecture import Architecture
from orchestrator.cost import CPU, WRITTEN_TOKENS, Gpu, Job, Offer, Placement, placement
from orchestrator.forecast import Forecast, Share, forecast
from orchestrator.plan import Plan, StreamPlan, family
from orchestrator.rates import Rates, source_of
from orchestrator.work import NOTHING, Work, work_of
from workers import plugins
from workers.protocol import ModelSpec, Request

ROW_SECONDS = 2e-5
"""Of a null baseline, which loads nothing."""
ANSWER_SECONDS = 3.0
"""Of an endpoint, from the question to the whole answer; `endpoint.concurrency` of them at a time."""


@dataclass(frozen=True)
class Here:
    """What is known of the world: devices by name, how many there are, rates, architectures by fingerprint.

    `cached` are the fingerprints of hub models whose weights lie on the disk already.
    """

    gpus: Mapping[str, Gpu]
    offers: tuple[Offer, ...]
    rates: Rates
    architectures: Mapping[str, Architecture]
    cached: AbstractSet[str] = frozenset()


@dataclass(frozen=True)
class Predicted:
    """What a stream is expected to take. `device_hours` are of GPUs, or of CPU slots where `gpus` is 0.

    `why_not` says why it has no placement.
    """

    rows: int
    tokens: int
    shares: tuple[Share, ...]
    dollars: float
    rates: str
    why_not: str = ""

    @property
    def gpu_hours(self) -> float:
        """With loading, of all workers."""
        return sum(share.device_hours for share in self.shares if share.placement.gpus)

    @property
    def seconds(self) -> float:
        """Of all workers together, with loading; on a fraction of a GPU a worker takes its whole time."""
        return sum((share.end - share.start) / min(1.0, share.placement.gpus or 1) for share in self.shares)

    @property
    def placement(self) -> str:
        """In words: the workers of each kind of placement."""
        counts: dict[str, int] = {}
        for share in self.shares:
            counts[str(share.placement)] = counts.get(str(share.placement), 0) + 1
        return " + ".join(name if count == 1 else f"{count} x ({name})" for name, count in counts.items())


@dataclass(frozen=True)
class Prediction:
    """A plan with the placements of its streams, what each of them takes, and the sweep as a whole."""

    plan: Plan
    streams: Mapping[str, Predicted]
    forecast: Forecast

    @property
    def gpu_hours(self) -> float:
        """Of all streams."""
        return sum(stream.gpu_hours for stream in self.streams.values())

    @property
    def dollars(self) -> float:
        """Of all devices, and of endpoints whose prices are known."""
        return sum(stream.dollars for stream in self.streams.values())


def predict(plan: Plan, here: Here) -> Prediction:
    """The prediction for what a plan owes."""
    works = _Works(here.rates.tokens.value)
    placed: dict[str, tuple[Placement, ...]] = {}
    refused: dict[str, str] = {}
    for name, stream in plan.streams.items():
        if stream.owed:
            placed[name], refused[name] = _placements(stream, here, works)
    made = forecast({name: _divisible(plan.streams[name], found) for name, found in placed.items()}, here.offers)
    streams = {
        name: replace(stream, placements=tuple(sorted(placed.get(name, ()), key=lambda one: one.seconds)))
        for name, stream in plan.streams.items()
    }
    found = {
        name: _predicted(stream, made.shares.get(name, ()), here, works, refused.get(name, ""))
        for name, stream in plan.streams.items()
    }
    return Prediction(Plan(streams), found, made)


def _divisible(stream: StreamPlan, placements: Sequence[Placement]) -> list[Placement]:
    """An endpoint has one worker, whatever it owes: to the forecast its work is one piece."""
    if not stream.spec.endpoint:
        return list(placements)
    return [replace(one, shard_seconds=(sum(one.shard_seconds),)) for one in placements]


class _Works:
    """The work of requests, worked out once for all shards that hold the very same ones."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._known: dict[tuple[int, int | None], tuple[tuple[Request, ...], Work]] = {}

    def of(self, requests: tuple[Request, ...], limit: int | None) -> Work:
        key = (id(requests), limit)
        if key not in self._known:
            self._known[key] = requests, work_of(requests, limit, self._scale)  # holding them keeps their id theirs
        return self._known[key][1]

    def shards(self, stream: StreamPlan) -> tuple[Work, ...]:
        """Of each shard of a stream."""
        return tuple(self.of(shard.requests, stream.spec.max_length) for shard in stream.shards)


def _placements(stream: StreamPlan, here: Here, works: _Works) -> tuple[tuple[Placement, ...], str]:
    """All placements of a stream, and why there is none."""
    spec, seconds = stream.spec, _without_weights(stream)
    if seconds is not None:
        return (Placement(CPU, 0, 1, 0.0, tuple(seconds * len(shard.requests) for shard in stream.shards)),), ""
    architecture = here.architectures.get(spec.fingerprint)
    if architecture is None:
        return (), f"unknown size: set models.{spec.name.partition('.')[0]}.size to its billions of parameters"
    job = job_of(spec, architecture, _source(spec, here), works.shards(stream))
    offers = [offer for offer in here.offers if (offer.kind == CPU) == (spec.gpus == 0) and offer.count]
    found = _everywhere(job, offers, here)
    placed = tuple(dict.fromkeys(one for one in found if isinstance(one, Placement)))
    if placed:
        return placed, ""
    if not found:
        return (), f"no {'GPU' if spec.gpus else 'CPU slot'} is offered"
    return (), "; ".join([*dict.fromkeys(map(str, found)), *_remedy(spec, job, offers, here)])


def _everywhere(job: Job, offers: Sequence[Offer], here: Here) -> list[Placement | str]:
    return [placement(job, here.gpus[offer.kind], min(offer.node, offer.count), here.rates) for offer in offers]


def _remedy(spec: ModelSpec, job: Job, offers: Sequence[Offer], here: Here) -> list[str]:
    """What could be done about a model that fits no single device."""
    if not spec.gpus or job.spreads:
        return []
    if "vllm" not in family(spec.family).ENGINES:
        return [f"only vLLM spreads a model over GPUs, and it does not serve family {spec.family}"]
    spread = [one for one in _everywhere(replace(job, engine="vllm"), offers, here) if isinstance(one, Placement)]
    fewest = min((one.gpus for one in spread), default=0)
    return [f"set models.{spec.name.partition('.')[0]}.gpus={fewest:g}, and vLLM spreads it"] if spread else []


def _source(spec: ModelSpec, here: Here) -> str:
    return "disk" if spec.fingerprint in here.cached else source_of(spec.path)


def job_of(spec: ModelSpec, architecture: Architecture, source: str, shards: tuple[Work, ...]) -> Job:
    """What a stream asks of a device; passes are packed and share beginnings where the engine may do so."""
    shares = spec.engine == "transformers" and spec.numerics == "fast" and spec.attention is None
    return Job(architecture, family(spec.family).KIND, spec.engine, spec.dtype, source, shards, shares)


def _without_weights(stream: StreamPlan) -> float | None:
    """Seconds a row of a stream that loads nothing; None for all others."""
    if stream.spec.endpoint:
        return ANSWER_SECONDS / int(stream.spec.endpoint.get("concurrency", 1))
    return None if plugins.resolve("workers.engines", stream.spec.engine).NEEDS_WEIGHTS else ROW_SECONDS


def _predicted(stream: StreamPlan, shares: tuple[Share, ...], here: Here, works: _Works, why_not: str) -> Predicted:
    work = sum(works.shards(stream), NOTHING)
    prices = [here.gpus[share.placement.kind].dollars * share.device_hours for share in shares]
    if stream.spec.endpoint:
        prices = [_endpoint_dollars(stream, work)]
    if stream.owed and not shares:
        why_not = why_not or "the cluster is too small for one worker of it"
    return Predicted(work.rows, work.tokens, shares, sum(prices), _sources(stream, shares, here), why_not)


def _endpoint_dollars(stream: StreamPlan, work: Work) -> float:
    """At the prices of the model's file; 0 where it has none."""
    asked, written = (float(stream.spec.endpoint.get(name) or 0) for name in ("input_price", "output_price"))
    return (asked * work.tokens + written * WRITTEN_TOKENS * work.rows) / 1e6


def _sources(stream: StreamPlan, shares: Sequence[Share], here: Here) -> str:
    """What the prediction rests on, in words."""
    architecture = here.architectures.get(stream.spec.fingerprint)
    if architecture is None or not shares:
        return ""
    kinds = dict.fromkeys(share.placement.kind for share in shares)
    source, said = _source(stream.spec, here), []
    for kind in kinds:
        speed = here.rates.mfu(kind, architecture)
        load = here.rates.load_seconds(kind, source, stream.spec.engine, architecture, stream.spec.dtype)
        said.append(f"{kind}: {speed.value:.0%} of its peak ({speed.source}), loading from {source} ({load.source})")
    return f"{', '.join(said)}; shape: {architecture.source}"
