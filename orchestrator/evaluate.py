"""The verbs `plan` and `run`: load, plan, schedule, execute, reduce."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

from orchestrator import costs, driver, provenance, records, tables
from orchestrator.benchmarks import Benchmark, Example, find
from orchestrator.config import Settings
from orchestrator.driver import Pool
from orchestrator.leaderboards import show_boards
from orchestrator.local_pool import LocalPool
from orchestrator.paths import CONF_DIR
from orchestrator.pin import check_entry, cuda_here, pin_model
from orchestrator.plan import Plan, make_plan
from orchestrator.progress import Progress, say
from orchestrator.records import Account, Failure, Outcome, Run
from orchestrator.scheduler import Scheduler
from orchestrator.stores import Store, Stream, open_store
from orchestrator.streams import StreamState
from workers.errors import InputError
from workers.protocol import Model, Request

OK, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
REASON_CHARACTERS = 500
PINNED_AT_ONCE = 16


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before anything is computed. `refused` tells why some models could not be pinned.

    `streams` are what the store holds, by fingerprint, and `runs` its earlier runs.
    """

    models: tuple[Model, ...]
    refused: Mapping[str, str]
    benchmarks: Mapping[str, tuple[Benchmark, list[Example]]]
    plan: Plan
    streams: Mapping[str, Stream]
    runs: Sequence[Run]


class Terminated(KeyboardInterrupt):
    """SIGTERM: the same clean stop as Ctrl-C."""


def plan(settings: Settings) -> int:
    """Print what `run` would do; nothing is written."""
    store = open_store(settings.store)
    prepared = _prepare(settings, store)
    print(tables.plan(prepared.plan, settings.output))
    return FAILED if prepared.refused else OK


def run(settings: Settings) -> int:
    """Score what is owed, then print the leaderboard. The exit code tells whether everything was scored."""
    facts = provenance.capture(provenance.new_run_id())
    store = open_store(settings.store, facts)
    prepared = _prepare(settings, store)
    for benchmark, _ in prepared.benchmarks.values():
        benchmark.rule(settings.rule)
    outcome = sweep(settings, store, prepared, facts)
    if outcome.state != "done":
        return _stopped(settings, outcome)
    folders = show_boards(store, settings, list(prepared.benchmarks), [model.name for model in prepared.models])
    say(f"measurements: {settings.store}/measurements; tables and page: {', '.join(folders)}")
    return FAILED if outcome.failures else OK


def sweep(settings: Settings, store: Store, prepared: Prepared, facts: Mapping[str, str]) -> Outcome:
    """Score what is owed and leave a record of the run; nothing is written where no worker can be had."""
    todo, run_id = prepared.plan, facts["run"]
    with _pool(settings, store, todo) as pool:  # before anything is written: a cluster may not answer
        store.prepare()
        hashes = {name: records.save_examples(store, name, rows) for name, (_, rows) in prepared.benchmarks.items()}
        record = Run(run_id, provenance.now(), prepared.models, hashes, todo.total, todo.total - todo.owed, facts)
        records.save_run(store, record)
        outcome = _execute(todo, pool) if pool is not None else nothing_owed(todo)
        refused = tuple(Failure(name, 0, reason[:REASON_CHARACTERS]) for name, reason in prepared.refused.items())
        outcome = replace(outcome, failures=(*outcome.failures, *refused), costs=_costs(store, todo))
        records.save_outcome(store, run_id, outcome)
    return outcome


def _prepare(settings: Settings, store: Store) -> Prepared:
    """Load the data, pin the models, see what the store has."""
    require_models(settings)
    benchmarks = {name: load_benchmark(settings, name) for name in benchmarks_of(settings)}
    models, refused = pinned(settings, uses_cuda(settings))
    said = list(refused.items())
    last = said.pop() if len(refused) == len(models) else None
    for name, reason in said:
        say(f"error: model '{name}' is given up: {reason}")
    if last is not None:  # nothing is left to be scored: a mistake of the command
        raise InputError(last[1])
    return planned(settings, store, models, refused, benchmarks)


def require_models(settings: Settings) -> None:
    """`InputError` unless there is a model, and nothing wrong in any model's file."""
    if not settings.models:
        suites = ", ".join(sorted(file.stem for file in (CONF_DIR / "suite").glob("*.yaml")))
        raise InputError(
            f"no model: give model=[name,...] (a file of conf/model, for example longest), suite=NAME ({suites}) "
            "or +models.mine.path=DIR +models.mine.family=scalar"
        )
    for name, entry in settings.models.items():
        check_entry(name, entry)


def benchmarks_of(settings: Settings) -> tuple[str, ...]:
    """The benchmarks that a command scores."""
    return settings.benchmarks or tuple(settings.data) or ("rewardbench",)


def planned(
    settings: Settings,
    store: Store,
    models: tuple[Model, ...],
    refused: Mapping[str, str],
    benchmarks: Mapping[str, tuple[Benchmark, list[Example]]],
) -> Prepared:
    """What is owed of pinned models over loaded benchmarks, by what the store has."""
    fingerprints = {spec.fingerprint for model in models for spec in model.streams}
    streams = {fingerprint: store.read(fingerprint) for fingerprint in fingerprints}
    _report_damage(streams.values())
    runs = records.load_runs(store)
    earlier = {spec.name: spec.identity for run in runs for model in run.models for spec in model.streams}
    examples = {name: rows for name, (_, rows) in benchmarks.items()}
    present = {fingerprint: stream.rows.keys() for fingerprint, stream in streams.items()}
    todo = make_plan([model for model in models if model.streams], examples, present, earlier, settings.shard_rows)
    return Prepared(models, refused, benchmarks, todo, streams, runs)


def pinned(settings: Settings, cuda: bool) -> tuple[tuple[Model, ...], dict[str, str]]:
    """The models of the command, and why some of them, without streams, cannot be pinned now.

    Many at a time: of a model on the hub it is a question over the network. Mistakes in a model's file are for
    `require_models`.
    """
    with ThreadPoolExecutor(PINNED_AT_ONCE) as threads:
        found = list(threads.map(lambda item: _pinned(item[0], item[1], cuda), settings.models.items()))
    return tuple(model for model, _ in found), {model.name: reason for model, reason in found if reason is not None}


def _pinned(name: str, entry: Mapping[str, Any], cuda: bool) -> tuple[Model, str | None]:
    try:
        return pin_model(name, entry, cuda), None
    except InputError as error:
        return Model(name, entry["family"], ()), str(error)


def load_benchmark(settings: Settings, name: str) -> tuple[Benchmark, list[Example]]:
    """A benchmark and its examples, from `data.<name>` or its pinned source."""
    benchmark = find(name)
    return benchmark, benchmark.load(settings.data.get(name))


def uses_cuda(settings: Settings) -> bool:
    """Whether models go on GPUs: as configured, else whether the cluster, or this machine, has some."""
    if settings.device != "auto":
        return settings.device == "cuda"
    if settings.pool == "ray" and settings.ray_address:
        from orchestrator.ray_pool import cluster_gpus

        return cluster_gpus(settings.ray_address) > 0
    return cuda_here()


def _report_damage(streams: Iterable[Stream]) -> None:
    for stream in streams:
        for problem in stream.damaged:
            say(f"warning: {problem}; its rows count as absent and are scored again")
        if stream.conflicts:
            say(f"warning: {stream.conflicts} rows were scored twice with different values; run `rewardsweep verify`")


def nothing_owed(todo: Plan) -> Outcome:
    """The outcome of a run that asks for nothing new, said aloud."""
    say(f"nothing to score: all {todo.total} measurements are in the store")
    return Outcome("done", provenance.now(), Account(todo.total, 0, todo.total, 0, 0), ())


@contextmanager
def _pool(settings: Settings, store: Store, todo: Plan) -> Iterator[Pool | None]:
    """The pool that scores what is owed, None where nothing is; closed at the end, whatever happens.

    Meanwhile SIGTERM stops the sweep as Ctrl-C does, and what Ray prints goes to standard error.
    """
    if not todo.owed:
        yield None
        return
    requests = {name: stream.owed for name, stream in todo.streams.items()}
    with redirect_stdout(sys.stderr), sigterm_as_interrupt():
        pool = _open_pool(settings, store, requests)
        try:
            yield pool
        finally:
            pool.close()


def _open_pool(settings: Settings, store: Store, requests: Mapping[str, Sequence[Request]]) -> Pool:
    if settings.pool == "local":
        return LocalPool(store.write, requests, gpus=int(uses_cuda(settings)))
    from orchestrator.ray_pool import RayPool

    return RayPool(store.write, requests, settings.ray_address, settings.workers)


def _execute(todo: Plan, pool: Pool) -> Outcome:
    """Drive the pool until nothing is owed, or the user stops it; the account adds up in either case."""
    state = "done"
    scheduler = Scheduler(todo.streams.values(), pool.capacity())
    with Progress(todo, scheduler) as progress:
        try:
            driver.run(scheduler, pool, progress.observe)
        except KeyboardInterrupt:
            state = "interrupted"
    if scheduler.aborted is not None:
        say(f"error: {scheduler.aborted}")
        return aborted(_outcome("aborted", todo, scheduler), str(scheduler.aborted))
    if state == "done" and scheduler.over and any(stream.left_rows for stream in scheduler.streams.values()):
        state = "deadline"
    return _outcome(state, todo, scheduler)


def aborted(outcome: Outcome, reason: str) -> Outcome:
    """The outcome of a run that could not go on, with what it did not come to under the reason."""
    failure = Failure("", outcome.account.left, reason[:REASON_CHARACTERS])
    return replace(outcome, state="aborted", failures=(*outcome.failures, failure))


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
    return Outcome(state, provenance.now(), account, (*failures, *_quarantines(streams)))


def _quarantines(streams: Iterable[StreamState]) -> Iterator[Failure]:
    """What is known of rows that ended every worker they met, each by the digest of its request."""
    for stream in streams:
        for request, reason in stream.quarantined:
            yield Failure(stream.spec.name, 1, f"quarantined: request {request.digest}: {reason}"[:REASON_CHARACTERS])


def _costs(store: Store, todo: Plan) -> tuple[costs.Cost, ...]:
    """What endpoints were asked for in this run, said aloud."""
    paid = tuple(
        costs.cost(stream, store.read(stream.spec.fingerprint).rows) for stream in costs.owed_to_endpoints(todo)
    )
    for cost in paid:
        say(f"cost: {cost}")
    return paid


def _stopped(settings: Settings, outcome: Outcome) -> int:
    account = outcome.account
    say(
        f"{outcome.state}: {account.scored + account.reused} of {account.asked} measurements are in {settings.store}; "
        "run the same command again to resume"
    )
    return INTERRUPTED if outcome.state == "interrupted" else FAILED


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM stops what is inside as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
