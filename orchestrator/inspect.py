"""The verbs `status` and `verify`: what a store holds, and whether it can be trusted. Both need only the store."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator import cluster, live, records
from orchestrator.config import Settings
from orchestrator.cost import Gpu
from orchestrator.eventlog import sweep_of
from orchestrator.leaderboards import existing_store
from orchestrator.outlook import as_a_whole, compared
from orchestrator.plan import make_plan
from orchestrator.progress import say
from orchestrator.records import Run
from orchestrator.spent import Spent, spent
from orchestrator.stores import Store
from orchestrator.stores.parts import check_keys, read_part
from workers import plugins
from workers.errors import StoreError, SweepError
from workers.fetch import fetch, local
from workers.protocol import Measurement, ModelSpec, Request, digest

ALL = 10**9
"""Rows a shard, where nothing is to be scored."""
SAMPLE = 16
"""Rows a model whose tokens `verify` renders again."""


def status(settings: Settings) -> int:
    """Print the runs of a store, how the latest one stands, and what it still owes."""
    store = existing_store(settings)
    runs = records.load_runs(store)
    found = [_run_json(run) for run in runs]
    devices = cluster.priced(settings.dollars)
    seen = live.standing(store, runs[-1], time.time()) if runs else None
    latest = [run for run in runs if sweep_of(run.id) == sweep_of(runs[-1].id)]
    progress = [row for run in latest for row in _progress(store, run, devices)]
    models = list({(row["model"], row["fingerprint"]): row for row in progress}.values())
    against = compared(lambda name: store.held(name).provenance, runs[-1], devices) if runs else []
    if settings.output == "json":
        now = seen.to_json() if seen else None
        both = [one.to_json() for one in against]
        whole = {"store": store.uri, "runs": found, "now": now, "models": models, "prediction": both}
        print(json.dumps(whole, indent=1, ensure_ascii=False))
        return 0
    for run in found:
        account = run["account"]
        counts = ", ".join(f"{name} {count}" for name, count in account.items()) if account else f"asked {run['asked']}"
        print(f"run {run['id']}  {run['state']}  {'+'.join(run['benchmarks'])}  {counts}")
    if seen:
        print("\n".join(["", *seen.lines()]))
    print()
    for model in models:
        if model["wanted"] is None:
            print(f"{model['model']}: nothing was asked of it  failed: {model['failure']}")
            continue
        missing = model["wanted"] - model["present"]
        state = "complete" if not missing else f"{missing} missing"
        failure = f"  failed: {model['failure']}" if model["failure"] else ""
        took = f"  {model['took']}" if model["took"] else ""
        print(f"{model['model']}: {model['present']} of {model['wanted']} measurements, {state}{took}{failure}")
    whole_run = as_a_whole(runs[-1]) if runs else None
    for line in (*against, *([whole_run] if whole_run else ())):
        print(f"latest run: {line}")
    return 0


def _run_json(run: Run) -> dict[str, Any]:
    outcome = run.outcome
    return {
        "id": run.id,
        "started": run.started,
        "ended": outcome.ended if outcome else None,
        "state": outcome.state if outcome else "running or killed",
        "benchmarks": sorted(run.benchmarks),
        "models": [model.name for model in run.models],
        "asked": run.asked,
        "account": asdict(outcome.account) if outcome else None,
        "failures": [asdict(failure) for failure in outcome.failures] if outcome else [],
        "predicted": {name: dict(values) for name, values in run.predicted.items()},
        "costs": [asdict(cost) for cost in outcome.costs] if outcome else [],
    }


def _progress(store: Store, run: Run, devices: Mapping[str, Gpu]) -> list[dict[str, Any]]:
    """What the store has of everything that a run asked for, a record a stream, and what that took."""
    examples = {name: records.load_examples(store, name, rows) for name, rows in run.benchmarks.items()}
    held = store.held_of(spec.fingerprint for model in run.models for spec in model.streams)
    present = {fingerprint: one.requests for fingerprint, one in held.items()}
    plan = make_plan([model for model in run.models if model.streams], examples, present, {}, shard_rows=ALL)
    reasons = records.latest_failures([run])
    unpinned = [model.name for model in run.models if not model.streams]
    return [
        {"model": name, "fingerprint": None, "wanted": None, "present": 0, "failure": reasons.get(name)}
        for name in unpinned
    ] + [
        {
            "model": stream.spec.name,
            "fingerprint": fingerprint,
            "wanted": stream.total,
            "present": stream.reused,
            "failure": reasons.get(stream.spec.name) if stream.owed else None,
            **_measured(spent(held[fingerprint].provenance, devices)),
        }
        for fingerprint, stream in plan.streams.items()
    ]


def _measured(took: Spent) -> dict[str, Any]:
    return {
        "tokens": took.tokens,
        "seconds": round(took.seconds, 3),
        "gpu_hours": round(took.gpu_hours, 6),
        "cpu_hours": round(took.cpu_hours, 6),
        "dollars": None if took.dollars is None else round(took.dollars, 4),
        "mfu": took.mfu,
        "took": str(took),
    }


def verify(settings: Settings) -> int:
    """Check every part, name what is wrong, and return 1 if anything is."""
    store = existing_store(settings)
    problems: list[str] = []
    parts = rows = 0
    specs: dict[str, ModelSpec] = {}
    for path in (entry.path for entry in store.all_parts()):
        fingerprint = path.split("/")[1]
        content = store.load(path)
        if content is None:  # went into another part meanwhile, which the next `verify` has
            continue
        try:
            found, footer = read_part(content, path)
        except StoreError as error:
            problems.append(f"{error}; delete it, and `rewardsweep run` scores its rows again")
            continue
        parts, rows = parts + 1, rows + len(found)
        problems += [f"{path}: {problem}" for problem in _part_problems(found, footer, fingerprint)]
    problems += _conflicts(store)
    known = _known_requests(store, problems, specs)
    checked = 0
    for fingerprint in store.fingerprints():
        count, wrong = _token_problems(store, specs.get(fingerprint), known)
        checked, problems = checked + count, problems + wrong
    for problem in problems:
        say(f"problem: {problem}")
    summary = {"parts": parts, "rows": rows, "tokens_checked": checked, "problems": problems}
    if settings.output == "json":
        print(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        print(f"{parts} parts, {rows} rows, tokens of {checked} rows rendered again: {len(problems)} problems")
    return 1 if problems else 0


def _part_problems(rows: Sequence[Measurement], footer: Mapping[str, Any], fingerprint: str) -> Iterator[str]:
    if digest(footer["identity"]) != fingerprint:
        yield "its folder is not the fingerprint of the identity in its footer"
    wrong = check_keys(rows, fingerprint)
    if wrong:
        yield f"{wrong} of {len(rows)} rows carry a key that is not theirs"


def _conflicts(store: Store) -> list[str]:
    conflicts = {fingerprint: store.read(fingerprint).conflicts for fingerprint in store.fingerprints()}
    return [
        f"measurements/{name}: {count} rows scored twice with different values"
        for name, count in conflicts.items()
        if count
    ]


def _known_requests(store: Store, problems: list[str], specs: dict[str, ModelSpec]) -> dict[str, Request]:
    """Every request that the store's runs asked for, by digest; collects the specs on the way."""
    requests: dict[str, Request] = {}
    try:
        runs = records.load_runs(store)
    except StoreError as error:
        problems.append(str(error))
        return requests
    pairs = {(name, rows) for run in runs for name, rows in run.benchmarks.items()}
    for run in runs:
        specs.update({spec.fingerprint: spec for model in run.models for spec in model.streams})
    models = list({model.asks: model for run in runs for model in run.models if model.streams}.values())
    for name, rows in sorted(pairs):
        try:
            examples = records.load_examples(store, name, rows)
        except StoreError as error:
            problems.append(str(error))
            continue
        plan = make_plan(models, {name: examples}, {}, {}, shard_rows=ALL)
        requests.update({request.digest: request for stream in plan.streams.values() for request in stream.owed})
    return requests


def _token_problems(store: Store, spec: ModelSpec | None, known: Mapping[str, Request]) -> tuple[int, list[str]]:
    """Render a sample of a model's rows again and compare the hashes of the token ids."""
    if spec is None:
        return 0, []
    rows = [row for row in store.read(spec.fingerprint).rows.values() if row.request in known]
    sample = random.Random(spec.fingerprint).sample(rows, min(SAMPLE, len(rows)))
    try:
        engine = plugins.resolve("workers.engines", spec.engine)
        fetch(spec, weights=False)
        hashes = engine.token_hashes(local(spec), [known[row.request] for row in sample])
    except (SweepError, ImportError) as error:
        say(f"note: {spec.name}: its tokens cannot be rendered here, so they were not checked ({error})")
        return 0, []
    wrong = sum(row.token_hash != found for row, found in zip(sample, hashes, strict=True))
    problem = (
        f"model {spec.name}: {wrong} of {len(sample)} rows were computed from other tokens than its tokenizer gives now"
    )
    return len(sample), [problem] if wrong else []
