"""The verbs `plan` and `run`: load, plan, schedule, execute, reduce."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace

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
from workers.errors import InputError
from workers.protocol import Model, Request

OK, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
REASON_CHARACTERS = 500


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before anything is computed. `refused` tells why some models could not be pinned."""

    models: tuple[Model, ...]
    refused: Mapping[str, str]
    benchmarks: Mapping[str, tuple[Benchmark, list[Example]]]
    plan: Plan


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
    run_id = provenance.new_run_id()
    facts = provenance.capture(run_id)
    store = open_store(settings.store, facts)
    prepared = _prepare(settings, store)
    for benchmark, _ in prepared.benchmarks.values():
        benchmark.rule(settings.rule)
    with _pool(settings, store, prepared.plan) as pool:  # before anything is written: a cluster may not answer
        store.prepare()
        hashes = {name: records.save_examples(store, name, rows) for name, (_, rows) in prepared.benchmarks.items()}
        todo = prepared.plan
        record = Run(run_id, provenance.now(), prepared.models, hashes, todo.total, todo.total - todo.owed, facts)
        records.save_run(store, record)
        outcome = _execute(todo, pool) if pool is not None else _nothing_owed(todo)
        refused = tuple(Failure(name, 0, reason[:REASON_CHARACTERS]) for name, reason in prepared.refused.items())
        outcome = replace(outcome, failures=(*outcome.failures, *refused), costs=_costs(store, todo))
        records.save_outcome(store, run_id, outcome)
    for fingerprint, stream in todo.streams.items():
        if stream.owed:
            store.index(fingerprint)
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
    names = settings.benchmarks or tuple(settings.data) or ("rewardbench",)
    benchmarks = {name: load_benchmark(settings, name) for name in names}
    models, refused = _pinned(settings)
    fingerprints = {spec.fingerprint for model in models for spec in model.streams}
    streams = {fingerprint: store.read(fingerprint) for fingerprint in fingerprints}
    _report_damage(streams.values())
    earlier = {
        spec.name: spec.identity for run in records.load_runs(store) for model in run.models for spec in model.streams
    }
    examples = {name: rows for name, (_, rows) in benchmarks.items()}
    present = {fingerprint: stream.rows.keys() for fingerprint, stream in streams.items()}
    todo = make_plan([model for model in models if model.streams], examples, present, earlier, settings.shard_rows)
    return Prepared(models, refused, benchmarks, todo)


def _pinned(settings: Settings) -> tuple[tuple[Model, ...], dict[str, str]]:
    """The models of the command; of several, one whose checkpoint cannot be pinned fails alone.

    A mistake in a model's file stops the command: it is the user's, and nothing has started.
    """
    for name, entry in settings.models.items():
        check_entry(name, entry)
    cuda = uses_cuda(settings)
    models: list[Model] = []
    refused: dict[str, str] = {}
    for name, entry in settings.models.items():
        try:
            models.append(pin_model(name, entry, cuda))
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
        for note in stream.notes:
            say(f"warning: {note}")
        if stream.conflicts:
            say(f"warning: {stream.conflicts} rows were scored twice with different values; run `rewardsweep verify`")


def _nothing_owed(todo: Plan) -> Outcome:
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
    with redirect_stdout(sys.stderr), _sigterm_as_interrupt():
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
        state = "aborted"
    return _outcome(state, todo, scheduler)


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
    account = Account(todo.total, scored, todo.total - todo.owed, failed, todo.owed - scored - failed)
    return Outcome(state, provenance.now(), account, tuple(failures))


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
def _sigterm_as_interrupt() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
