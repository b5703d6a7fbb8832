"""`rewardsweep run -m`: all jobs of a Hydra multirun as one sweep.

Hydra composes a configuration a job; here they become one plan over the union of their models and benchmarks, on one
pool, so that they run at the same time and what they have in common is scored once. A job is a run of its own in the
store, `<run>.<number>`; a table that compares their models is the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator import evaluate, planned, provenance, records, variants, watch
from orchestrator.architecture import Architecture
from orchestrator.benchmarks import Benchmark, Example
from orchestrator.config import Settings
from orchestrator.leaderboards import board, save_board
from orchestrator.outlook import architectures, outlook_of
from orchestrator.plan import Plan, plan_jobs
from orchestrator.prepare import (
    Present,
    benchmark_names,
    earlier,
    held_of,
    load_benchmark,
    pinned,
    require_models,
    uses_cuda,
)
from orchestrator.progress import say
from orchestrator.records import Account, Failure, Outcome, Run
from orchestrator.scheduler import Scheduler
from orchestrator.stores import Store, open_store
from workers import logs
from workers.errors import InputError
from workers.protocol import Model

COMMON = ("store", "pool", "ray_address", "workers", "device", "shard_rows", "output", "log")
"""Settings of the sweep, not of a job."""
QUARANTINED = "quarantined: "
KEYS = {"ray_address": "ray.address"}
Predictions = Mapping[str, Mapping[str, float]]
"""See `Run.predicted`."""


@dataclass(frozen=True)
class Job:
    """One combination of the swept values; `overrides` are those that not all jobs share."""

    number: int
    overrides: tuple[str, ...]
    settings: Settings

    def __str__(self) -> str:
        return title(self.number, self.overrides)


@dataclass(frozen=True)
class Prepared:
    """A job with its models under the names they have in this sweep, its benchmarks, and what could not be pinned."""

    job: Job
    models: tuple[Model, ...]
    refused: Mapping[str, str]
    benchmarks: Mapping[str, tuple[Benchmark, list[Example]]]
    known: Mapping[str, Architecture]

    @property
    def examples(self) -> dict[str, list[Example]]:
        """The rows of each benchmark."""
        return {name: rows for name, (_, rows) in self.benchmarks.items()}


def title(number: int, overrides: Sequence[str]) -> str:
    """A job in words."""
    said = ", ".join(override.lstrip("+") for override in overrides)
    return f"job {number} ({said})" if said else f"job {number}"


def swept(said: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """What each job overrides that not all of them do."""
    common = set.intersection(*map(set, said)) if said else set()
    return [tuple(word for word in words if word not in common) for words in said]


def run(jobs: Sequence[Job]) -> int:
    """Score what all jobs owe, then compare their models. The exit code tells whether everything was scored."""
    run_id = provenance.new_run_id()
    with logs.bound(run=run_id):
        _check_common(jobs)
        first = jobs[0].settings
        facts = provenance.capture(run_id)
        store = open_store(first.store, facts)
        prepared = _prepare(jobs)
        held = held_of(store, [model for one in prepared for model in one.models])
        present = {fingerprint: one.requests for fingerprint, one in held.items()}
        known = {name: shape for one in prepared for name, shape in one.known.items()}
        asked = _plan(prepared, store, present, first.shard_rows)
        prediction = outlook_of(first, store, asked, held, known, uses_cuda(first))
        todo, predicted = prediction.plan, planned.record(prediction)
        with evaluate.opened(first, store, run_id, todo) as pool:  # before anything is written: it may not answer
            store.prepare()
            width = len(str(len(jobs)))  # so that names sort
            runs = [
                _save_run(store, f"{run_id}.{one.job.number:0{width}}", one, present, facts, predicted)
                for one in prepared
            ]
            if pool is None:
                evaluate.say_nothing_owed(todo)
                state, failed = "done", {}
            else:
                state, scheduler = watch.drive(first, store, run_id, todo, pool)
                failed = _failed(scheduler)
            outcomes = list(_outcomes(store, state, prepared, present, failed))
            paid = evaluate.paid(store, todo)
            for record, one, outcome in zip(runs, prepared, outcomes, strict=True):
                names = {spec.name for model in one.models for spec in model.streams}
                mine = tuple(cost for cost in paid if cost.model in names)
                records.save_outcome(store, record.id, replace(outcome, costs=mine))
        if state != "done":
            say(f"{state}: run the same command again to resume")
            return evaluate.INTERRUPTED if state == "interrupted" else evaluate.FAILED
        evaluate.report_prediction(first, store, _whole(run_id, runs, outcomes, predicted))
        _show(store, prepared, runs, outcomes)
        return evaluate.FAILED if any(outcome.failures for outcome in outcomes) else evaluate.OK


@contextmanager
def _named(job: Job) -> Iterator[None]:
    """A user's mistake says whose it is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{job}: {error}") from error


def _check_common(jobs: Sequence[Job]) -> None:
    if jobs[0].settings.output == "latex":
        raise InputError("output=latex: a multirun's table comes as text, json, csv or markdown")
    for job in jobs:
        for name in COMMON:
            if getattr(job.settings, name) != getattr(jobs[0].settings, name):
                key = KEYS.get(name, name)
                raise InputError(f"{job}: all jobs of a multirun share one {key}; run the others by themselves")


def _prepare(jobs: Sequence[Job]) -> list[Prepared]:
    """Everything that can be wrong with any job, before anything starts; what jobs have in common is read once."""
    known: dict[tuple[str, str | None], tuple[Benchmark, list[Example]]] = {}
    already: dict[str, Model] = {}
    found = []
    for job in jobs:
        with _named(job):
            require_models(job.settings)
            mine = {}
            for name in benchmark_names(job.settings):
                key = (name, job.settings.data.get(name))
                known[key] = mine[name] = known.get(key) or load_benchmark(job.settings, name)
                mine[name][0].rule(job.settings.rule)
            models, refused = pinned(job.settings, uses_cuda(job.settings), already)
        found.append(Prepared(job, models, refused, mine, architectures(job.settings, models)))
    names = variants.names([one.models for one in found], [one.job.overrides for one in found])
    return [
        replace(one, models=tuple(variants.renamed(model, name) for model, name in zip(one.models, mine, strict=True)))
        for one, mine in zip(found, names, strict=True)
    ]


def _plan(prepared: Sequence[Prepared], store: Store, present: Present, shard_rows: int) -> Plan:
    jobs = [([model for model in one.models if model.streams], one.examples) for one in prepared]
    return plan_jobs(jobs, present, earlier(records.load_runs(store)), shard_rows)


def _asked(one: Prepared) -> dict[str, set[str]]:
    """Digests of all requests of a job, by stream."""
    models = [model for model in one.models if model.streams]
    plan = plan_jobs([(models, one.examples)], {}, {}, shard_rows=1)
    return {name: {request.digest for request in stream.owed} for name, stream in plan.streams.items()}


def _save_run(
    store: Store, name: str, one: Prepared, present: Present, facts: Mapping[str, str], predicted: Predictions
) -> Run:
    """The record of a job, as that of any run; the prediction for a stream is that of all jobs that ask it."""
    hashes = {benchmark: records.save_examples(store, benchmark, rows) for benchmark, rows in one.examples.items()}
    asked = _asked(one)
    reused = sum(len(digests & set(present.get(stream, ()))) for stream, digests in asked.items())
    total = sum(map(len, asked.values()))
    mine = {stream: values for stream, values in predicted.items() if stream in asked or stream == planned.SWEEP}
    record = Run(name, provenance.now(), one.models, hashes, total, reused, {**facts, "run": name}, mine)
    records.save_run(store, record)
    return record


def _whole(run_id: str, runs: Sequence[Run], outcomes: Sequence[Outcome], predicted: Predictions) -> Run:
    """All jobs as the one run that was predicted."""
    models = tuple(model for run in runs for model in run.models)
    failures = tuple(failure for outcome in outcomes for failure in outcome.failures)
    outcome = replace(outcomes[0], failures=failures)
    return replace(runs[0], id=run_id, models=models, predicted=predicted, outcome=outcome)


def _failed(scheduler: Scheduler) -> dict[str, dict[str, str]]:
    """Why requests have no answer, by stream and digest."""
    return {
        name: {asked.digest: reason for shard, reason in stream.failures for asked in shard.requests}
        | {asked.digest: f"{QUARANTINED}request {asked.digest}: {reason}" for asked, reason in stream.quarantined}
        for name, stream in scheduler.streams.items()
    }


def _outcomes(
    store: Store,
    state: str,
    prepared: Sequence[Prepared],
    present: Present,
    failed: Mapping[str, Mapping[str, str]],
) -> Iterator[Outcome]:
    """Each job's own account. A row that two jobs ask for is scored by the first of them and reused by the second."""
    streams = {spec.fingerprint for one in prepared for model in one.models for spec in model.streams}
    now = {name: store.read(name).rows.keys() for name in streams}
    taken: dict[str, set[str]] = {name: set() for name in streams}
    for one in prepared:
        names = {spec.fingerprint: spec.name for model in one.models for spec in model.streams}
        counts = dict.fromkeys(("scored", "reused", "failed", "left", "quarantined"), 0)
        lost: dict[tuple[str, str], int] = {}
        asked = _asked(one)
        for stream, digests in asked.items():
            for digest in digests:
                if digest in now[stream]:
                    old = digest in present.get(stream, ()) or digest in taken[stream]
                    counts["reused" if old else "scored"] += 1
                elif (reason := failed.get(stream, {}).get(digest)) is not None:
                    counts["quarantined" if reason.startswith(QUARANTINED) else "failed"] += 1
                    key = (names[stream], reason[: evaluate.REASON_CHARACTERS])
                    lost[key] = lost.get(key, 0) + 1
                else:
                    counts["left"] += 1
            taken[stream] |= digests
        failures = [Failure(name, rows, reason) for (name, reason), rows in lost.items()]
        failures += [Failure(name, 0, why[: evaluate.REASON_CHARACTERS]) for name, why in one.refused.items()]
        account = Account(sum(map(len, asked.values())), **counts)
        yield Outcome(state, provenance.now(), account, tuple(failures))


def _told(outcome: Outcome) -> dict[str, Any]:
    failures = [asdict(failure) for failure in outcome.failures]
    return {"state": outcome.state, "account": asdict(outcome.account), "failures": failures}


def _tables(store: Store, prepared: Sequence[Prepared]) -> Iterator[variants.Table]:
    """One for each benchmark and rule, with the models of all jobs that have them."""
    groups: dict[tuple[str, str | None, str], list[Prepared]] = {}
    for one in prepared:
        settings = one.job.settings
        for name, (benchmark, _) in one.benchmarks.items():
            groups.setdefault((name, settings.data.get(name), benchmark.rule(settings.rule).name), []).append(one)
    for (name, _, _), group in groups.items():
        jobs: dict[str, list[int]] = {}
        for one in group:
            for model in one.models:
                jobs.setdefault(model.name, []).append(one.job.number)
        yield variants.compared(store, group[0].job.settings, name, jobs)


def _show(store: Store, prepared: Sequence[Prepared], runs: Sequence[Run], outcomes: Sequence[Outcome]) -> None:
    """Keep the leaderboards, print the comparison; what became of each job goes to standard error."""
    first = prepared[0].job.settings
    for one, record, outcome in zip(prepared, runs, outcomes, strict=True):
        account = outcome.account
        lost = account.failed + account.quarantined
        counts = f"{account.scored} scored, {account.reused} reused, {lost} failed"
        say(f"{one.job}: run {record.id}: {counts}", job=one.job.number)
    tables = list(_tables(store, prepared))
    for one in prepared:
        for name in one.benchmarks:
            save_board(store, board(store, one.job.settings, name, []))
    if first.output == "json":
        jobs = [
            {"job": one.job.number, "overrides": list(one.job.overrides), "run": record.id, **_told(outcome)}
            for one, record, outcome in zip(prepared, runs, outcomes, strict=True)
        ]
        print(json.dumps({"jobs": jobs, "comparisons": [asdict(made) for made in tables]}, indent=1))
        return
    print("\n".join(made.shown(first.output) for made in tables))
