"""From a store to leaderboards: reads records and measurements, reduces, prints and keeps tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from typing import Any

from orchestrator import cluster, records, tables
from orchestrator.benchmarks import Benchmark, Example, Judged, data_hash, find
from orchestrator.bills import charge
from orchestrator.config import Settings
from orchestrator.cost import Gpu
from orchestrator.imports import load_imports
from orchestrator.plan import needs_of
from orchestrator.records import Run
from orchestrator.reducer import Imported, Leaderboard, Lookup, ScoredRow, judge, reduce, score_rows
from orchestrator.site import page
from orchestrator.spent import Spent, spent
from orchestrator.stores import Store, Stream, open_store
from orchestrator.stores.parquet import ParquetStore
from workers import plugins
from workers.errors import InputError
from workers.protocol import Measurement, Model


@dataclass(frozen=True)
class Scored:
    """A benchmark as a store knows it: its rows and the models that were run on it."""

    benchmark: Benchmark
    data_hash: str
    examples: Sequence[Example]
    models: Mapping[str, Model]
    failures: Mapping[str, str]
    imported: Mapping[str, Imported] = field(default_factory=dict)

    def judged(self, names: Sequence[str], read: Lookup) -> dict[str, list[Judged]]:
        """The scored rows of models, in the order of the names; a model without rows is left out."""
        models = [self.models[name] for name in names if name in self.models and self.models[name].streams]
        needs = needs_of(models, self.examples)
        rows = {model.name: judge(model, score_rows(model, needs[model.asks], read)) for model in models}
        for name in names:
            one = self.imported.get(name)
            if one is not None and one.rows is not None:
                rows[name] = judge(one.model, one.rows)
        return {name: rows[name] for name in names if name in rows}


def leaderboard(settings: Settings) -> int:
    """The verb: print the leaderboard of every selected benchmark."""
    store = existing_store(settings)
    names = selected_benchmarks(settings, records.load_runs(store))
    boards = [board(store, settings, name, list(settings.models)) for name in names]
    print(tables.boards(boards, settings.output))
    return 0


def scores(settings: Settings) -> int:
    """The verb: print one line a response."""
    store = existing_store(settings)
    names = selected_benchmarks(settings, records.load_runs(store))
    lines = chain.from_iterable(score_lines(store, settings, name) for name in names)
    tables.print_scores(lines, settings.output)
    return 0


def show_boards(store: Store, settings: Settings, benchmarks: Sequence[str], names: Sequence[str]) -> list[str]:
    """Keep the leaderboards of all models in the store, print those of some; the folders of tables and pages."""
    whole = [board(store, settings, benchmark, []) for benchmark in benchmarks]
    shown = [replace(made, entries=tuple(entry for entry in made.entries if entry.name in names)) for made in whole]
    print(tables.boards(shown, settings.output))
    return [save_board(store, made) for made in whole]


def save_board(store: Store, made: Leaderboard) -> str:
    """Write a leaderboard as tables and a page; the folder's path."""
    folder = f"leaderboards/{made.benchmark}/{made.rule}"
    for name, content in files_of(made).items():
        store.save(f"{folder}/{name}", content)
    return f"{store.uri}/{folder}"


def files_of(made: Leaderboard) -> dict[str, bytes]:
    """A leaderboard as tables and a page."""
    return {
        "leaderboard.json": tables.as_json([made]).encode(),
        "leaderboard.csv": tables.as_csv([made]).encode(),
        "leaderboard.md": tables.as_markdown(made).encode(),
        "leaderboard.parquet": tables.as_parquet(made),
        "index.html": page(made).encode(),
    }


def existing_store(settings: Settings) -> ParquetStore:
    """The store, which must exist."""
    store = open_store(settings.store)
    if not store.exists():
        raise InputError(f"store={settings.store}: no store there; run `rewardsweep run ... store=...` first")
    return store


def selected_benchmarks(settings: Settings, runs: Sequence[Run]) -> list[str]:
    """The configured benchmarks, else all that the store has runs of."""
    known = sorted({name for run in runs for name in run.benchmarks})
    for name in settings.benchmarks or ():
        if name not in known:
            raise InputError(f"store={settings.store}: {plugins.unknown(name, known, 'benchmark')}; run it first")
    if not known:
        raise InputError(f"store={settings.store}: holds no runs; run `rewardsweep run ...` first")
    return list(settings.benchmarks or known)


def scored(store: Store, settings: Settings, name: str) -> Scored:
    """What the store knows of a benchmark: the rows of `data.<name>` if given, else those of its latest run."""
    runs = records.load_runs(store)
    benchmark = find(name)
    if name in settings.data:
        examples = benchmark.load(settings.data[name])
        rows = data_hash(examples)
    else:
        rows = [run for run in runs if name in run.benchmarks][-1].benchmarks[name]
        examples = records.load_examples(store, name, rows)
    models = records.latest_models(runs, name)
    imported = {one.model.name: one for one in load_imports(store, name, examples)}
    return Scored(benchmark, rows, examples, models, records.latest_failures(runs), imported)


def board(store: Store, settings: Settings, name: str, models: Sequence[str]) -> Leaderboard:
    """The leaderboard of a benchmark; all models of the store unless some are named."""
    found = scored(store, settings, name)
    chosen = choose(settings, found, models)
    imported = [one for name, one in found.imported.items() if not models or name in models]
    rule = found.benchmark.rule(settings.rule)
    stream = cache(store.read)
    made = reduce(
        [*chosen, *imported], name, rule, found.data_hash, found.examples, lambda one: stream(one).rows, found.failures
    )
    devices = cluster.priced(settings.dollars)
    took = {model.name: _took(model, stream, devices) for model in chosen}
    entries = []
    for entry in made.entries:
        hours, dollars = took.get(entry.name, (None, None))
        entries.append(replace(entry, gpu_hours=hours, dollars=dollars))
    return replace(made, entries=tuple(entries))


def _took(
    model: Model, stream: Callable[[str], Stream], devices: Mapping[str, Gpu]
) -> tuple[float | None, float | None]:
    """Hours of GPUs and dollars behind all measurements of a model, on any benchmark; None where nothing is known."""
    total = sum((spent(stream(spec.fingerprint).provenance, devices) for spec in model.streams), Spent())
    paid = [charge(spec, stream(spec.fingerprint).rows.values()).dollars for spec in model.streams if spec.endpoint]
    if not total.on_devices and not paid:
        return None, None
    dollars = None if total.dollars is None or None in paid else total.dollars + sum(price or 0.0 for price in paid)
    return total.gpu_hours if total.on_devices else None, dollars


def choose(settings: Settings, known: Scored, names: Sequence[str]) -> list[Model]:
    """The named models that were run, all if none is named; `InputError` for one that is not there."""
    there = {*known.models, *known.imported}
    for name in names:
        if name not in there:
            raise InputError(f"store={settings.store}: {plugins.unknown(name, sorted(there), 'model')}; run it first")
    return [model for name, model in known.models.items() if not names or name in names]


def lookup(store: Store) -> Lookup:
    """Measurements by fingerprint, each read once."""

    @cache
    def rows(fingerprint: str) -> Mapping[str, Measurement]:
        return store.read(fingerprint).rows

    return rows


def score_lines(store: Store, settings: Settings, name: str) -> Iterator[dict[str, Any]]:
    """One record a response; the score is None where it is missing."""
    found = scored(store, settings, name)
    models = choose(settings, found, list(settings.models))
    models = [model for model in models if model.streams]
    needs = needs_of(models, found.examples)
    for model in models:
        for row in score_rows(model, needs[model.asks], lookup(store)):
            for response in range(len(row.example.responses)):
                yield _score_line(model, name, row, response)


def _score_line(model: Model, benchmark: str, row: ScoredRow, response: int) -> dict[str, Any]:
    """A response's own measurement, or the one that all responses share; `texts` are those that a judge wrote."""
    measurement = row.measurements[min(response, len(row.measurements) - 1)]
    behind = row.measurements[response :: len(row.example.responses)] or row.measurements[-1:]
    texts = [found.text for found in behind if found is not None and found.text is not None]
    return {
        "model": model.name,
        "benchmark": benchmark,
        "subset": row.example.subset,
        "id": row.example.id,
        "response": response,
        "kind": measurement.kind if measurement else None,
        "score": row.scores[response] if row.scores is not None else None,
        "tokens": measurement.num_tokens if measurement else None,
        "truncated": measurement.truncated if measurement else None,
        **({"texts": texts} if texts else {}),
    }
