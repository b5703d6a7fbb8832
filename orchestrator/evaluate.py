"""The verbs `plan` and `run`: load, plan, schedule, execute, reduce."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

from orchestrator import bills, cluster, planned, provenance, records, watch
from orchestrator.benchmarks import Benchmark, Example, find
from orchestrator.config import Settings
from orchestrator.cost import CPU
from orchestrator.driver import Pool
from orchestrator.leaderboards import show_boards
from orchestrator.local_pool import LocalPool
from orchestrator.outlook import as_a_whole, compared, outlook
from orchestrator.paths import CONF_DIR
from orchestrator.pin import check_entry, cuda_here, pin_model
from orchestrator.placing import Prediction
from orchestrator.plan import Plan, make_plan
from orchestrator.progress import say
from orchestrator.records import Account, Failure, Outcome, Run
from orchestrator.scheduler import Scheduler
from orchestrator.stores import Held, Store, open_store
from orchestrator.streams import StreamState
from workers import logs
from workers.errors import InputError
from workers.protocol import Model, Request

OK, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
REASON_CHARACTERS = 500
Present = Mapping[str, AbstractSet[str]]
"""Digests of the requests whose answers the store has, by fingerprint."""


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before anything is computed. `refused` tells why some models could not be pinned."""

    models: tuple[Model, ...]
    refused: Mapping[str, str]
    benchmarks: Mapping[str, tuple[Benchmark, list[Example]]]
    prediction: Prediction

    @property
    def plan(self) -> Plan:
        """What is to do, every stream with its placements."""
        return self.prediction.plan


class Terminated(KeyboardInterrupt):
    """SIGTERM: the same clean stop as Ctrl-C."""


def plan(settings: Settings) -> int:
    """Print what `run` would do; nothing is written."""
    store = open_store(settings.store)
    prepared = _prepare(settings, store)
    print(planned.show(prepared.prediction, settings.output))
    impossible = settings.what_if is not None and prepared.prediction.forecast.impossible
    return FAILED if prepared.refused or impossible else OK


def run(settings: Settings) -> int:
    """Score what is owed, then print the leaderboard. The exit code tells whether everything was scored."""
    run_id = provenance.new_run_id()
    with logs.bound(run=run_id):
        return _run(settings, run_id)


def _run(settings: Settings, run_id: str) -> int:
    facts = provenance.capture(run_id)
    store = open_store(settings.store, facts)
    prepared = _prepare(settings, store)
    for benchmark, _ in prepared.benchmarks.values():
        benchmark.rule(settings.rule)
    with opened(settings, store, run_id, prepared.plan) as pool:  # before anything is written: it may not answer
        store.prepare()
        hashes = {name: records.save_examples(store, name, rows) for name, (_, rows) in prepared.benchmarks.items()}
        todo = prepared.plan
        counts = (todo.total, todo.total - todo.owed)
        record = Run(
            run_id, provenance.now(), prepared.models, hashes, *counts, facts, planned.record(prepared.prediction)
        )
        records.save_run(store, record)
        outcome = _execute(settings, store, run_id, prepared, pool) if pool is not None else _nothing_owed(todo)
        refused = tuple(Failure(name, 0, reason[:REASON_CHARACTERS]) for name, reason in prepared.refused.items())
        outcome = replace(outcome, failures=(*outcome.failures, *refused), costs=paid(store, todo))
        records.save_outcome(store, run_id, outcome)
        _report_prediction(settings, store, replace(record, outcome=outcome))
    if outcome.state != "done":
        return _stopped(settings, outcome)
    folders = show_boards(store, settings, list(hashes), [model.name for model in prepared.models])
    say(f"measurements: {settings.store}/measurements; tables and page: {', '.join(folders)}")
    return FAILED if outcome.failures else OK


def _prepare(settings: Settings, store: Store) -> Prepared:
    """Load the data, pin the models, see what the store has."""
    if not settings.models:
        suites = ", ".join(sorted(file.stem for file in (CONF_DIR / "suite").glob("*.yaml")))
        raise InputError(
            f"no model: give model=[name,...] (a file of conf/model, for example longest), suite=NAME ({suites}) "
            "or +models.mine.path=DIR +models.mine.family=scalar"
        )
    benchmarks = {name: load_benchmark(settings, name) for name in benchmark_names(settings)}
    models, refused = pinned(settings, {})
    held = held_of(store, models)
    present = {fingerprint: one.requests for fingerprint, one in held.items()}
    examples = {name: rows for name, (_, rows) in benchmarks.items()}
    asked = [model for model in models if model.streams]
    todo = make_plan(asked, examples, present, earlier(store), settings.shard_rows)
    return Prepared(models, refused, benchmarks, outlook(settings, store, todo, models, held, uses_cuda(settings)))


def benchmark_names(settings: Settings) -> tuple[str, ...]:
    """The benchmarks of the command: those named, else those with a file, else RewardBench."""
    return settings.benchmarks or tuple(settings.data) or ("rewardbench",)


def held_of(store: Store, models: Iterable[Model]) -> dict[str, Held]:
    """What the store has of each of the models' streams; damage is said aloud."""
    held = store.held_of(spec.fingerprint for model in models for spec in model.streams)
    for one in held.values():
        absent = [f"{problem}; its rows count as absent and are scored again" for problem in one.damaged]
        for warning in (*absent, *one.notes):
            say(f"warning: {warning}")
        if one.conflicts:
            say(f"warning: {one.conflicts} rows were scored twice with different values; run `rewardsweep verify`")
    return held


def earlier(store: Store) -> dict[str, Mapping[str, Any]]:
    """The identity under which each stream's name was last seen."""
    runs = records.load_runs(store)
    return {spec.name: spec.identity for run in runs for model in run.models for spec in model.streams}


def pinned(settings: Settings, known: dict[str, Model]) -> tuple[tuple[Model, ...], dict[str, str]]:
    """The models of the command; of several, one whose checkpoint cannot be pinned fails alone.

    A plan for a cluster that is described does not ask the hub. A mistake in a model's file stops the command: it is
    the user's, and nothing has started. What was pinned already is in `known`, by name and entry; what is pinned here
    is added.
    """
    for name, entry in settings.models.items():
        check_entry(name, entry)
    cuda = uses_cuda(settings)
    models: list[Model] = []
    refused: dict[str, str] = {}
    for name, entry in settings.models.items():
        key = json.dumps([name, entry], sort_keys=True, default=str)
        try:
            known[key] = known.get(key) or pin_model(name, entry, cuda, hub=settings.what_if is None)
            models.append(known[key])
        except InputError as error:
            if len(settings.models) == len(refused) + 1:
                raise
            say(f"error: model '{name}' is given up: {error}")
            refused[name] = str(error)
            models.append(Model(name, entry["family"], ()))
    return tuple(models), refused


def load_benchmark(settings: Settings, name: str) -> tuple[Benchmark, list[Example]]:
    """A benchmark and its examples, from `data.<name>` or its pinned source."""
    benchmark = find(name)
    return benchmark, benchmark.load(settings.data.get(name))


def uses_cuda(settings: Settings) -> bool:
    """Whether models go on GPUs: as configured, else whether the cluster, or this machine, has some."""
    if settings.what_if is not None:
        return any(offer.kind != CPU for offer in settings.what_if)
    if settings.device != "auto":
        return settings.device == "cuda"
    if settings.pool == "ray" and settings.ray_address:
        from orchestrator.ray_cluster import cluster_gpus

        return cluster_gpus(settings.ray_address) > 0
    return cuda_here()


def _nothing_owed(todo: Plan) -> Outcome:
    say_nothing_owed(todo)
    return Outcome("done", provenance.now(), Account(todo.total, 0, todo.total, 0, 0), ())


def say_nothing_owed(todo: Plan) -> None:
    """What a run says that has nothing to do."""
    say(f"nothing to score: all {todo.total} measurements are in the store")


@contextmanager
def opened(settings: Settings, store: Store, run_id: str, todo: Plan) -> Iterator[Pool | None]:
    """The pool that scores what is owed, None where nothing is; closed at the end, whatever happens. Indexes follow.

    Meanwhile SIGTERM stops the sweep as Ctrl-C does, and what Ray prints goes to standard error.
    """
    if not todo.owed:
        yield None
        return
    requests = {name: stream.owed for name, stream in todo.streams.items()}
    with redirect_stdout(sys.stderr), _sigterm_as_interrupt():
        pool = _open_pool(settings, store, run_id, requests)
        try:
            yield pool
        finally:
            pool.close()
    for fingerprint in (name for name, owed in requests.items() if owed):
        store.index(fingerprint)


def _open_pool(settings: Settings, store: Store, run_id: str, requests: Mapping[str, Sequence[Request]]) -> Pool:
    if settings.pool == "local":
        return LocalPool(store.write, requests, gpus=int(uses_cuda(settings)))
    from orchestrator.ray_pool import RayPool

    log = {"form": settings.log, "run": run_id}
    return RayPool(store.write, requests, settings.ray_address, settings.workers, log)


def _execute(settings: Settings, store: Store, run_id: str, prepared: Prepared, pool: Pool) -> Outcome:
    """Score what is owed; the account adds up whatever happens."""
    first = [model for model in prepared.models if model.name in settings.priority]
    priorities = {spec.fingerprint: 1 for model in first for spec in model.streams}
    state, scheduler = watch.drive(settings, store, run_id, prepared.plan, pool, priorities)
    return _outcome(state, prepared.plan, scheduler)


def _outcome(state: str, todo: Plan, scheduler: Scheduler) -> Outcome:
    streams = list(scheduler.streams.values())
    scored = sum(stream.done for stream in streams)
    failures = [
        Failure(
            stream.spec.name,
            sum(len(shard.requests) for shard, why in stream.failures if why == reason),
            reason[:REASON_CHARACTERS],
        )
        for stream in streams
        for reason in dict.fromkeys(why for _, why in stream.failures)
    ]
    failed = sum(failure.rows for failure in failures)
    quarantined = sum(len(stream.quarantined) for stream in streams)
    left = todo.owed - scored - failed - quarantined
    account = Account(todo.total, scored, todo.total - todo.owed, failed, left, quarantined)
    return Outcome(state, provenance.now(), account, (*failures, *_quarantines(todo, streams)))


def _quarantines(todo: Plan, streams: Iterable[StreamState]) -> Iterator[Failure]:
    """Rows that ended every worker they met: each by the digest of its request and a place where it occurs."""
    for stream in streams:
        plan = todo.streams[stream.spec.fingerprint]
        for request, reason in stream.quarantined:
            where = f"quarantined: request {request.digest} of {plan.subsets[plan.owed.index(request)]}"
            yield Failure(stream.spec.name, 1, f"{where}: {reason}"[:REASON_CHARACTERS])


def paid(store: Store, todo: Plan) -> tuple[bills.Bill, ...]:
    """What endpoints were asked for in this run, said aloud."""
    found = tuple(
        bills.bill(stream, store.read(stream.spec.fingerprint).rows) for stream in bills.owed_to_endpoints(todo)
    )
    for cost in found:
        say(f"cost: {cost}", model=cost.model)
    return found


def _report_prediction(settings: Settings, store: Store, run: Run) -> None:
    """What the run's models took, against what its plan expected."""
    for line in compared(lambda name: store.held(name).provenance, run, cluster.priced(settings.dollars)):
        say(str(line))
    if whole := as_a_whole(run):
        say(whole)


def _stopped(settings: Settings, outcome: Outcome) -> int:
    account = outcome.account
    say(
        f"{outcome.state}: {account.scored + account.reused} of {account.asked} measurements are in {settings.store}; "
        "run the same command again to resume"
    )
    return INTERRUPTED if outcome.state == "interrupted" else FAILED


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
