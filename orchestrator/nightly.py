"""The verb `nightly`: score what is new, keep a dated snapshot, say what changed since the last one.

Nothing that cannot be resolved tonight is taken from an earlier night: it is named, and the night is incomplete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from orchestrator import data, evaluate, provenance, records, reports, webhook
from orchestrator.benchmarks import Benchmark, Example, Source, data_hash, find
from orchestrator.changes import Changes
from orchestrator.config import Settings
from orchestrator.evaluate import INTERRUPTED
from orchestrator.leaderboards import files_of
from orchestrator.lease import LeaseHeld, LeaseLost, hold
from orchestrator.moves import Tonight, changes_since, standings
from orchestrator.prepare import (
    Loaded,
    Prepared,
    benchmark_names,
    load_benchmark,
    plan_owed,
    require_models,
    resolved,
    uses_cuda,
)
from orchestrator.progress import say
from orchestrator.records import Account, Outcome
from orchestrator.reducer import reduce
from orchestrator.reports import Report
from orchestrator.snapshots import FOLDER, History, Snapshot, extended, load_snapshot, next_night, nights, save_night
from orchestrator.stores import Store, open_store
from workers import logs
from workers.errors import InputError
from workers.protocol import Measurement

HELD = 30
"""The exit code of a night that found another one at work, or was overtaken by it."""
LEASE = f"{FOLDER}/lease.json"
READ_AT_ONCE = 16


def nightly(settings: Settings) -> int:
    """The verb: 0 all is well, 10 a regression, 20 something is missing, 30 another night is at work."""
    return hold_night(settings, provenance.now()[:10])


def hold_night(settings: Settings, today: str) -> int:
    """One night, on a day in UTC; prints one line, or the report in the format that is asked for."""
    url = webhook.address(settings.webhook)
    require_models(settings)
    for name in benchmark_names(settings):
        find(name).rule(settings.rule)
    facts = provenance.capture(provenance.new_run_id())
    store = open_store(settings.store, facts)
    store.prepare()
    try:
        with logs.bound(run=facts["run"]), evaluate.sigterm_as_interrupt(), hold(store, LEASE) as lease:
            try:
                report = _night(settings, store, facts, today, lease.check)
            except KeyboardInterrupt:
                lease.check()  # it is also how a lost lease stops what is being scored
                raise
    except (LeaseHeld, LeaseLost) as error:
        print(f"nightly: {error}")
        return HELD
    except KeyboardInterrupt:
        print("nightly: interrupted, no snapshot written; run the same command again to resume")
        return INTERRUPTED
    if url is not None and (problem := webhook.post(url, reports.payload(report))) is not None:
        say(f"warning: webhook: {problem}; the report is in {report.place}")
    print(reports.printed(report, settings.output))
    return report.code


@dataclass(frozen=True)
class _Begun:
    """What a night knows before it scores: the benchmarks it has rows of, and why it has none of others, by name.

    `sources` are hub data sets with the revision that is used and, where the hub says it, the current one.
    """

    night: str
    last: Snapshot | None
    facts: Mapping[str, str]
    loaded: Loaded
    faults: Mapping[str, str]
    sources: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class _Scored:
    """What it knows when its models are scored."""

    prepared: Prepared
    cuda: bool
    outcome: Outcome


def _night(settings: Settings, store: Store, facts: Mapping[str, str], today: str, check: Callable[[], None]) -> Report:
    """Resolve, score, compare and write; `check` raises once the lease is lost."""
    taken, finished = nights(store)
    last = load_snapshot(store, finished[-1]) if finished else None
    night = next_night(today, taken)
    if not night.startswith(today):
        say(f"warning: the clock says {today}, which is before the last night; this one is called {night}")
    loaded, faults = _loaded(settings)
    sources, unknown = _sources(loaded, settings)
    begun = _Begun(night, last, facts, loaded, faults, sources)
    scored = _scored(settings, store, begun)
    check()
    boards = _boards(settings, store, begun, scored)
    changes = [changes_since(one, last, store) for one in boards]
    report = Report(
        snapshot=_snapshot(begun, scored, boards, changes),
        changes=tuple(changes),
        problems=(*faults.values(), *unknown, *_problems(scored, changes)),
        notes=_notes(begun),
        outcome=scored.outcome,
        store=store.uri,
    )
    files = {f"{one.board.benchmark}/{name}": data for one in boards for name, data in files_of(one.board).items()}
    check()
    save_night(store, report.snapshot, {**files, **reports.files_of(report)}, reports.front_page(report))
    return report


def _loaded(settings: Settings) -> tuple[Loaded, dict[str, str]]:
    """The benchmarks' rows, and why some of them cannot be had, by benchmark."""
    loaded: dict[str, tuple[Benchmark, list[Example]]] = {}
    faults: dict[str, str] = {}
    for name in benchmark_names(settings):
        try:
            loaded[name] = load_benchmark(settings, name)
        except InputError as error:
            say(f"error: benchmark '{name}' is given up: {error}")
            faults[name] = f"benchmark {name} has no rows tonight: {error}"
    return loaded, faults


def _sources(loaded: Loaded, settings: Settings) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Where each benchmark's rows are from, with the revision that the hub has now; what could not be asked."""
    sources: dict[str, dict[str, str]] = {}
    unknown: list[str] = []
    for name, (benchmark, _) in loaded.items():
        source = benchmark.source
        if name in settings.data or not isinstance(source, Source):
            continue
        sources[name] = {"repository": source.repository, "used": source.revision}
        try:
            sources[name]["current"] = data.hub_revision(name, source.repository)
        except InputError as error:
            say(f"error: {error}")
            unknown.append(str(error))
    return sources, unknown


def _scored(settings: Settings, store: Store, begun: _Begun) -> _Scored:
    """Resolve the models and score what is owed; where nothing is, no worker, and no cluster, is asked for anything.

    Whether models go on GPUs is part of what their scores are. A cluster tells, but only when it is needed: until then
    it is as it was the last time.
    """
    remote = settings.device == "auto" and settings.pool == "ray" and bool(settings.ray_address)
    cuda = begun.last.cuda if begun.last and remote else uses_cuda(settings)
    prepared = _prepared(settings, store, begun, cuda)
    if prepared.plan.owed and begun.last and remote:
        with suppress(InputError):  # no answer: said when workers are asked for
            found = uses_cuda(settings)
            if found != cuda:
                cuda, prepared = found, _prepared(settings, store, begun, found)
    outcome = _outcome(settings, store, prepared, begun.facts)
    if outcome.state == "interrupted":
        raise KeyboardInterrupt
    return _Scored(prepared, cuda, outcome)


def _prepared(settings: Settings, store: Store, begun: _Begun, cuda: bool) -> Prepared:
    models, refused = resolved(settings, cuda, {})
    for name, reason in refused.items():
        say(f"error: model '{name}' is given up: {reason}")
    return plan_owed(settings, store, models, refused, begun.loaded, cuda)


def _outcome(settings: Settings, store: Store, prepared: Prepared, facts: Mapping[str, str]) -> Outcome:
    """Score what is owed. A run that asks for what an earlier one asked for already leaves no record of its own."""
    todo = prepared.plan
    if not todo.owed and (not prepared.benchmarks or _recorded(prepared)):
        return evaluate.nothing_owed(todo)
    try:
        return evaluate.sweep(settings, store, prepared, facts)
    except InputError as error:  # no worker can be had
        say(f"error: {error}")
        account = Account(todo.total, 0, todo.total - todo.owed, 0, todo.owed)
        return evaluate.aborted(Outcome("aborted", provenance.now(), account, ()), str(error))


def _recorded(prepared: Prepared) -> bool:
    """Whether the store's runs name these models and these rows as the newest of each benchmark."""
    if prepared.refused:
        return False
    for name, (_, rows) in prepared.benchmarks.items():
        hashes = [run.benchmarks[name] for run in prepared.runs if name in run.benchmarks]
        known = records.latest_models(prepared.runs, name)
        if hashes[-1:] != [data_hash(rows)] or any(known.get(model.name) != model for model in prepared.models):
            return False
    return True


def _boards(settings: Settings, store: Store, begun: _Begun, scored: _Scored) -> list[Tonight]:
    """The leaderboards of tonight's models on tonight's rows."""
    prepared, outcome = scored.prepared, scored.outcome
    whole = next((failure.reason for failure in outcome.failures if not failure.model), None)
    if outcome.state == "deadline":
        whole = "the run's deadline came before it"
    owed = {stream.spec.name: whole for stream in prepared.plan.streams.values() if stream.owed and whole is not None}
    failures = {**owed, **{failure.model: failure.reason for failure in outcome.failures}, **prepared.refused}

    @cache
    def read(fingerprint: str) -> Mapping[str, Measurement]:
        return store.read(fingerprint).rows

    with ThreadPoolExecutor(READ_AT_ONCE) as threads:  # in a bucket each waits for its answer
        list(threads.map(read, prepared.plan.streams))
    found = []
    for name, (benchmark, rows) in prepared.benchmarks.items():
        rule = benchmark.rule(settings.rule)
        board = reduce(prepared.models, name, rule, data_hash(rows), rows, read, failures)
        models = {model.name: model for model in prepared.models}
        found.append(Tonight(begun.night, board, rule, rows, models, read))
    return found


def _snapshot(begun: _Begun, scored: _Scored, boards: Sequence[Tonight], changes: Sequence[Changes]) -> Snapshot:
    """Tonight's boards; of a benchmark that has no rows tonight, the last night's with what stands behind it."""
    night, last = begun.night, begun.last
    kept = [name for name in begun.faults if last and name in last.boards]
    made = {one.board.benchmark: one.board for one in boards}
    overalls = {
        name: {entry.name: entry.overall for entry in board.entries if entry.complete} for name, board in made.items()
    }
    causes = {(one.benchmark, moved.model): ", ".join(moved.causes) for one in changes for moved in one.moved}
    return Snapshot(
        night=night,
        previous=last.night if last else None,
        made=provenance.now(),
        cuda=scored.cuda,
        facts=begun.facts,
        sources=begun.sources,
        boards={name: {"as_of": night, **board.to_json()} for name, board in made.items()}
        | {name: last.boards[name] for name in kept if last},
        standings={one.board.benchmark: standings(one, last) for one in boards}
        | {name: last.standings.get(name, {}) for name in kept if last},
        history=extended(last.history if last else History(), night, overalls, causes),
    )


def _problems(scored: _Scored, changes: Sequence[Changes]) -> list[str]:
    """Why the night is incomplete, a line each: models that cannot be resolved, then results that are not whole."""
    refused = scored.prepared.refused
    found = [f"{name} cannot be resolved: {reason}" for name, reason in refused.items()]
    for one in changes:
        for gap in one.missing:
            if gap.model not in refused:
                found.append(
                    f"{gap.model} has no whole result on {one.benchmark}, {gap.rows_missing} rows missing: {gap.reason}"
                )
    return found


def _notes(begun: _Begun) -> tuple[str, ...]:
    """Data sets that have a newer revision than the one that is pinned, told once for each."""
    known = begun.last.sources if begun.last else {}
    return tuple(
        f"{source['repository']} is at {source['current'][:12]} now; {name} stays at {source['used'][:12]}, "
        f"the revision that its rules are checked with (data.{name}=FILE scores another copy)"
        for name, source in begun.sources.items()
        if source.get("current") not in (None, source["used"], known.get(name, {}).get("current"))
    )
