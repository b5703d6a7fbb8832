"""What runs on a GPU: lint a model's tokens, load its weights, score its shards.

A plain class. The pool turns it into a Ray actor or calls it in its own process; results go to a *sink*, a
callable given by the pool, so that this side knows neither Ray nor Parquet.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from typing import Protocol

from workers import flops, logs, plugins
from workers.errors import EngineError, ModelError, boundary
from workers.fetch import fetch, local
from workers.plugins import Engine
from workers.protocol import Finding, Measurement, ModelSpec, Output, Request, Shard, ShardReport, Unscored, measure


class Sink(Protocol):
    """Keeps a shard's measurements, whole or not at all; raises `StoreError` where it cannot."""

    def __call__(self, spec: ModelSpec, rows: Sequence[Measurement], provenance: Mapping[str, str]) -> None:
        """Write the rows with their provenance."""


def environment(packages: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The installed versions of libraries that compute, without local build tags.

    `a|b` stands for two distributions of one library: the one that is installed counts, under its own name.
    """
    return tuple(_installed(package.split("|")) for package in packages)


def _installed(names: Sequence[str]) -> tuple[str, str]:
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            return name, metadata.version(name).partition("+")[0]
    raise ModelError(f"{names[0]} is not installed; install rewardsweep with the extra that brings it")


class Worker:
    """One process, one model: `lint`, then `load`, then `score` for every shard.

    `log` is given where the process is the worker's own: its lines go to standard error, in the form `log["form"]`,
    with the other fields and the model.
    """

    def __init__(self, spec: ModelSpec, sink: Sink, log: Mapping[str, str] | None = None) -> None:
        self._spec = spec
        self._sink = sink
        self._engine: Engine | None = None
        self._provenance: dict[str, str] = {}
        self._log = dict(log or {})
        self._form: logs.Form | None = "json" if self._log.pop("form", None) == "json" else "text" if log else None
        if self._form is not None:
            logs.to_stderr(self._form)
            logs.WORKER.setLevel(logging.INFO)

    def lint(self, requests: Sequence[Request]) -> list[Finding]:
        """Findings on the rendered tokens; no weights are loaded."""
        engine = plugins.resolve("workers.engines", self._spec.engine)
        self._check_environment(engine.PACKAGES)
        with self._saying(), boundary(ModelError, f"model {self._spec.name!r}: preflight failed"):
            fetch(self._spec, weights=False)
            findings: list[Finding] = engine.lint(local(self._spec), requests)
        return findings

    def load(self) -> float:
        """Fetch the files that are not here yet and load the weights; the seconds of both.

        Fetching, loading and compiling stand apart in the provenance of every part.
        """
        engine = plugins.resolve("workers.engines", self._spec.engine)
        self._check_environment(engine.PACKAGES)
        with self._saying():
            fetched = fetch(self._spec)
            started = time.perf_counter()
            with boundary(ModelError, f"model {self._spec.name!r}: cannot be loaded"):
                self._engine = loaded = engine.load(local(self._spec))
            seconds = time.perf_counter() - started
            logs.WORKER.info("weights loaded in %.1f s, fetched in %.1f s", seconds, fetched)
        compiled = float(loaded.details().get("compile_seconds", 0.0))
        parts = {"fetch_seconds": fetched, "load_seconds": seconds - compiled, "compile_seconds": compiled}
        self._provenance = {name: f"{took:.3f}" for name, took in parts.items()}
        return fetched + seconds

    def score(self, shard: Shard) -> ShardReport:
        """Score a shard and hand its measurements to the sink; only counts travel back."""
        if self._engine is None:
            raise EngineError(f"model {self._spec.name!r}: asked to score before its weights were loaded")
        with self._saying(shard=shard.id):
            report = self._scored(self._engine, shard)
            logs.WORKER.info("%d rows, %d tokens in %.2f s", report.rows, report.tokens, report.seconds)
        return report

    def _scored(self, engine: Engine, shard: Shard) -> ShardReport:
        started = time.perf_counter()
        with boundary(EngineError, f"model {self._spec.name!r}, shard {shard.id}"):
            outputs = engine.run(shard.requests)
        seconds = time.perf_counter() - started
        pairs = list(zip(shard.requests, outputs, strict=True))
        rows = [measure(self._spec.fingerprint, asked, output) for asked, output in pairs if isinstance(output, Output)]
        unscored = tuple((asked, output.reason) for asked, output in pairs if isinstance(output, Unscored))
        tokens = sum(row.num_tokens for row in rows)
        facts = self._facts(shard, tokens, seconds)
        if rows:
            self._sink(self._spec, rows, {**self._provenance, **facts})
        return ShardReport(
            len(rows),
            tokens,
            seconds,
            sum(row.truncated for row in rows),
            unscored,
            ooms=int(facts.get("ooms", 0)),
            flops=int(facts.get("flops", 0)),
            peak=flops.peak(facts.get("device", ""), self._spec.dtype) or 0.0,
            written=int(sum(row.extra.get("completion_tokens", 0.0) for row in rows)),
        )

    @contextmanager
    def _saying(self, **fields: str) -> Iterator[None]:
        """What is logged meanwhile says what it is about; libraries that are imported meanwhile learn our form."""
        with logs.bound(**self._log, model=self._spec.name, **fields):
            try:
                yield
            finally:
                if self._form is not None and not fields:
                    logs.dress(self._form)

    def _facts(self, shard: Shard, tokens: int, seconds: float) -> dict[str, str]:
        """What the engine says of itself and its last run, and what that run took."""
        details = self._engine.details() if self._engine is not None else {}
        reached = flops.mfu(details, seconds, self._spec.gpus)
        return {
            **details,
            "shard": shard.id,
            "tokens": str(tokens),
            "characters": str(shard.characters),
            "utf8": str(sum(request.utf8 for request in shard.requests)),
            "compute_seconds": f"{seconds:.3f}",
            "gpus": str(self._spec.gpus),
            **({} if reached is None else {"mfu": f"{reached:.4f}"}),
        }

    def close(self) -> None:
        """Give back the weights."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _check_environment(self, packages: Sequence[str]) -> None:
        """A score named after other library versions than those that compute it would be a false name."""
        here = environment(packages)
        if here != self._spec.environment:
            raise ModelError(
                f"model {self._spec.name!r}: this worker has {dict(here)}, the driver planned for "
                f"{dict(self._spec.environment)}; install the same versions on both"
            )
