"""The verbs `plan` and `run`: load, plan, schedule, execute, reduce."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace

from orchestrator import bills, cluster, planned, provenance, records, watch
from orchestrator.config import Settings
from orchestrator.driver import Pool
from orchestrator.leaderboards import show_boards
from orchestrator.local_pool import LocalPool
from orchestrator.outlook import compared, outlook, told
from orchestrator.plan import Plan
from orchestrator.prepare import Prepared, prepare, uses_cuda
from orchestrator.progress import say
from orchestrator.records import Account, Failure, Outcome, Run
from orchestrator.scheduler import Scheduler
from orchestrator.stores import Store, open_store
from orchestrator.streams import StreamState
from workers import logs
from workers.errors import StoreError
from workers.protocol import Request

OK, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
REASON_CHARACTERS = 500


class Terminated(KeyboardInterrupt):
    """SIGTERM: the same clean stop as Ctrl-C."""


def plan(settings: Settings) -> int:
    """Print what `run` would do; nothing is written."""
    store = open_store(settings.store)
    prepared = prepare(settings, store)
    prediction = outlook(settings, store, prepared)
    print(planned.show(prediction, settings.output))
    impossible = settings.what_if is not None and prediction.forecast.impossible
    return FAILED if prepared.refused or impossible else OK


def run(settings: Settings) -> int:
    """Score what is owed, then print the leaderboard. The exit code tells whether everything was scored."""
    facts = provenance.capture(provenance.new_run_id())
    with logs.bound(run=facts["run"]):
        store = open_store(settings.store, facts)
        prepared = prepare(settings, store)
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
    run_id = facts["run"]
    prediction = outlook(settings, store, prepared)
    todo = prediction.plan
    with opened(settings, store, run_id, todo) as pool:  # before anything is written: it may not answer
        store.prepare()
        hashes = {name: records.save_examples(store, name, rows) for name, (_, rows) in prepared.benchmarks.items()}
        counts = (todo.total, todo.total - todo.owed)
        predicted = planned.record(prediction)
        record = Run(run_id, provenance.now(), prepared.models, hashes, *counts, facts, predicted)
        records.save_run(store, record)
        outcome = _execute(settings, store, run_id, prepared, todo, pool) if pool is not None else nothing_owed(todo)
        refused = tuple(Failure(name, 0, reason[:REASON_CHARACTERS]) for name, reason in prepared.refused.items())
        outcome = replace(outcome, failures=(*outcome.failures, *refused), costs=paid(store, todo))
        records.save_outcome(store, run_id, outcome)
        report_prediction(settings, store, replace(record, outcome=outcome))
    return outcome


def nothing_owed(todo: Plan) -> Outcome:
    """The outcome of a run that asks for nothing new, said aloud."""
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
    with redirect_stdout(sys.stderr), sigterm_as_interrupt():
        pool = _open_pool(settings, store, run_id, requests)
        try:
            yield pool
        finally:
            pool.close()
    try:
        for fingerprint in (name for name, owed in requests.items() if owed):
            store.index(fingerprint)
    except StoreError as error:  # it can always be made again; how the run ended counts
        say(f"warning: no index of new parts: {error}")


def _open_pool(settings: Settings, store: Store, run_id: str, requests: Mapping[str, Sequence[Request]]) -> Pool:
    if settings.pool == "local":
        return LocalPool(store.write, requests, gpus=int(uses_cuda(settings)))
    from orchestrator.ray_pool import RayPool

    log = {"form": settings.log, "run": run_id}
    return RayPool(store.write, requests, settings.ray_address, settings.workers, log)


def _execute(settings: Settings, store: Store, run_id: str, prepared: Prepared, todo: Plan, pool: Pool) -> Outcome:
    """Score what is owed; the account adds up whatever happens."""
    first = [model for model in prepared.models if model.name in settings.priority]
    priorities = {spec.fingerprint: 1 for model in first for spec in model.streams}
    state, scheduler = watch.drive(settings, store, run_id, todo, pool, priorities)
    outcome = _outcome(state, todo, scheduler)
    return outcome if scheduler.aborted is None else aborted(outcome, str(scheduler.aborted))


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
    asked = bills.owed_to_endpoints(todo)
    found = tuple(bills.bill(stream, store.read(stream.spec.fingerprint).rows) for stream in asked)
    for cost in found:
        say(f"cost: {cost}", model=cost.model)
    return found


def report_prediction(settings: Settings, store: Store, run: Run) -> None:
    """What the run's models took, against what its plan expected; nothing of one whose store answered no more."""
    if run.outcome is not None and run.outcome.state == "aborted":
        return
    for line in told(compared(lambda name: store.held(name).provenance, run, cluster.priced(settings.dollars)), run):
        say(line)


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
