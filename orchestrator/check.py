"""The verb `check`: what a model's author runs first. Ten real rows, rendered and scored in every way there is.

A score must be the same alone, among others in a batch, and in every engine that serves the model. Nothing is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator import choose, tables
from orchestrator.benchmarks import Example, Judged, find
from orchestrator.config import Settings
from orchestrator.evaluate import FAILED, OK
from orchestrator.metrics import NOISE, credit
from orchestrator.pin import pin_model
from orchestrator.plan import family, wanted
from orchestrator.prepare import uses_cuda
from workers import plugins
from workers.errors import InputError, ModelError, ShardError, boundary
from workers.fetch import fetch, local
from workers.protocol import Finding, Measurement, Model, ModelSpec, Output, Request, Unscored, measure

ROWS = 10
BETWEEN_ENGINES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""By dtype, the largest difference that passes between engines; between batches it is `metrics.NOISE`."""
BATCH_TOKENS = 2**20
SHOWN = 240
"""Characters at either end of a long text."""

Scored = Mapping[int, Mapping[str, Measurement]]
"""Measurements by stream and request."""


@dataclass(frozen=True)
class Comparison:
    """Two ways of scoring the same rows. `flips` counts rows whose verdict differs."""

    what: str
    rows: int
    largest_difference: float
    tolerance: float
    flips: int

    @property
    def passed(self) -> bool:
        """Whether nothing moved by more than the tolerance, and no verdict turned."""
        return self.largest_difference <= self.tolerance and self.flips == 0


def check(settings: Settings) -> int:
    """Print the report; 1 where a comparison fails or the preflight finds an error."""
    if len(settings.models) != 1:
        raise InputError("check: give one model: model=[name], or +models.mine.path=DIR +models.mine.family=scalar")
    ((name, entry),) = settings.models.items()
    cuda, rows = uses_cuda(settings), _rows(settings)
    model = pin_model(name, entry, cuda)
    texts, findings = _rendered(model, rows)
    failed = any(finding.severity == "error" for finding in findings)
    compared = [] if failed else _comparisons(model, _in_other_engines(name, entry, model, cuda), rows)
    print(_report(model, texts, findings, compared, settings.output))
    return OK if not failed and all(comparison.passed for comparison in compared) else FAILED


def _rows(settings: Settings) -> list[Example]:
    """Ten rows, evenly over the benchmark: the same at every call."""
    benchmark = (settings.benchmarks or tuple(settings.data) or ("demo",))[0]
    rows = find(benchmark).load(settings.data.get(benchmark))
    if not rows:
        raise InputError(f"benchmark {benchmark}: has no rows; give another file: data.{benchmark}=FILE")
    count = min(ROWS, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def _rendered(model: Model, rows: Sequence[Example]) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The text of every request of the first stream, special tokens visible, and the preflight of all streams."""
    asked = _asked(model, rows)
    engine, first = plugins.resolve("workers.engines", model.streams[0].engine), model.streams[0]
    with boundary(ModelError, f"model {first.name!r}: cannot be rendered"):
        for spec in model.streams:
            fetch(spec, weights=False)
        texts = engine.shown(local(first), asked[0])
        findings = [
            finding
            for stream, spec in enumerate(model.streams)
            for finding in plugins.resolve("workers.engines", spec.engine).lint(local(spec), asked[stream])
        ]
    shown = dict(zip((request.digest for request in asked[0]), texts, strict=True))
    return [
        {
            "subset": need.example.subset,
            "id": need.example.id,
            "texts": [shown[r.digest] for s, r in need.requests if not s],
        }
        for need in wanted(model, rows)
    ], list(dict.fromkeys(findings))


def _asked(model: Model, rows: Sequence[Example]) -> list[list[Request]]:
    """The requests of each stream, each once."""
    needs = wanted(model, rows)
    return [
        list({request.digest: request for need in needs for at, request in need.requests if at == stream}.values())
        for stream in range(len(model.streams))
    ]


def _in_other_engines(name: str, entry: Mapping[str, Any], model: Model, cuda: bool) -> list[Model]:
    """The same model in each further engine of its family that has weights and is installed here."""
    chosen = model.streams[0].engine
    others = [
        engine
        for engine in family(model.family).ENGINES
        if engine != chosen
        and engine in plugins.available("workers.engines")
        and plugins.resolve("workers.engines", engine).NEEDS_WEIGHTS
        and choose.is_installed(engine)
    ]
    if not plugins.resolve("workers.engines", chosen).NEEDS_WEIGHTS:
        return []
    return [pin_model(name, {**entry, "engine": engine}, cuda) for engine in others]


def _comparisons(model: Model, others: Sequence[Model], rows: Sequence[Example]) -> list[Comparison]:
    """Alone against one batch of all, in the model's own engine; then against each other engine."""
    dtype = model.streams[0].dtype
    close, far = NOISE[dtype], BETWEEN_ENGINES[dtype]
    alone = _scored(model, rows, _one_by_one)
    own = model.streams[0].engine
    together = _compare(model, rows, alone, _scored(model, rows, _together))
    found = [Comparison(f"{own}: alone and in one batch", len(rows), *together[:1], close, *together[1:])]
    for other in others:
        difference, flips = _compare(model, rows, alone, _scored(other, rows, _together))
        found.append(Comparison(f"{own} and {other.streams[0].engine}", len(rows), difference, far, flips))
    return found


def _one_by_one(spec: ModelSpec, requests: Sequence[Request]) -> list[Measurement]:
    """Every request in a call of its own, unpadded."""
    return _run(replace(spec, numerics="exact"), [[request] for request in requests])


def _together(spec: ModelSpec, requests: Sequence[Request]) -> list[Measurement]:
    """All requests in one call, and in one batch where the engine has batches: packed, or padded."""
    return _run(replace(spec, token_budget=BATCH_TOKENS), [requests])


def _run(spec: ModelSpec, calls: Sequence[Sequence[Request]]) -> list[Measurement]:
    """Load the engine, make the calls, close it."""
    module = plugins.resolve("workers.engines", spec.engine)
    with boundary(ModelError, f"model {spec.name!r}: cannot be loaded"):
        fetch(spec)
        engine = module.load(local(spec))
    try:
        with boundary(ShardError, f"model {spec.name!r}"):
            return [
                measure(spec.fingerprint, request, _scored_or_raise(spec, output))
                for requests in calls
                for request, output in zip(requests, engine.run(requests), strict=True)
            ]
    finally:
        engine.close()


def _scored_or_raise(spec: ModelSpec, output: Output | Unscored) -> Output:
    if isinstance(output, Unscored):
        raise ShardError(f"model {spec.name!r}: {output.reason}")
    return output


def _scored(
    model: Model, rows: Sequence[Example], run: Callable[[ModelSpec, Sequence[Request]], list[Measurement]]
) -> Scored:
    """One stream after the other: never two models in memory."""
    asked = _asked(model, rows)
    return {stream: {row.request: row for row in run(spec, asked[stream])} for stream, spec in enumerate(model.streams)}


def _compare(model: Model, rows: Sequence[Example], one: Scored, other: Scored) -> tuple[float, int]:
    """The largest difference of two measurements of one request, and the number of verdicts that differ."""
    differences = [
        _difference(row, other[stream][request]) for stream, found in one.items() for request, row in found.items()
    ]
    module = family(model.family)
    flips = 0
    for need in wanted(model, rows):
        row, shared = need.example, module.TIES == "share"
        found = [[scored[stream][request.digest] for stream, request in need.requests] for scored in (one, other)]
        made = [Judged(row, tuple(module.values(model, each, row.prompt, row.responses)), shared) for each in found]
        flips += credit(made[0]) != credit(made[1])
    return max(differences), flips


def _difference(one: Measurement, other: Measurement) -> float:
    """Of log-probabilities a token, of texts 0 or 1, else of the values."""
    if one.text is not None:
        return float(one.text != other.text)
    return abs(one.value - other.value) / max(1.0, one.extra.get("tokens", 1.0))


def _report(
    model: Model,
    rows: Sequence[Mapping[str, Any]],
    findings: Sequence[Finding],
    compared: Sequence[Comparison],
    output: str,
) -> str:
    """Texts, preflight and comparisons."""
    table = [{**asdict(comparison), "passed": comparison.passed} for comparison in compared]
    if output == "json":
        found = [{"check": f.check, "severity": f.severity, "message": f.message} for f in findings]
        report = {"model": model.name, "rows": rows, "findings": found, "comparisons": table}
        return json.dumps(report, indent=1, ensure_ascii=False)
    lines = [f"{model.name}: family {model.family}, engine {model.streams[0].engine}, {len(rows)} rows", ""]
    for row in rows:
        lines += [
            f"--- {row['subset']} {row['id']}, the first text of {len(row['texts'])}",
            _shortened(row["texts"][0]),
            "",
        ]
    lines += [f"{finding.severity}: {finding.check}: {finding.message}" for finding in findings]
    lines += [] if findings else ["preflight: nothing to report"]
    if table:
        readable = [{**row, "largest_difference": f"{row['largest_difference']:.1e}"} for row in table]
        lines += ["", tables.listing(readable, output, "the same scores in every way?")]
    return "\n".join(lines).rstrip("\n")


def _shortened(text: str) -> str:
    """The two ends of a long text."""
    if len(text) <= 2 * SHOWN:
        return text
    return f"{text[:SHOWN]} [... {len(text) - 2 * SHOWN} characters ...] {text[-SHOWN:]}"
