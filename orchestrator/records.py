"""What a run leaves in the store beside its measurements: specs, examples, what was asked for, how it ended.

`leaderboard`, `scores`, `status` and `verify` need nothing else, on any machine.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.benchmarks import Example, data_hash
from orchestrator.bills import Bill
from orchestrator.stores import Store
from workers.errors import StoreError
from workers.protocol import Message, Model, ModelSpec


@dataclass(frozen=True)
class Failure:
    """Something that was given up: a model, or rows of it; no model's name where it was the whole run."""

    model: str
    rows: int
    reason: str


@dataclass(frozen=True)
class Account:
    """Where every measurement that a run asked for went; the parts add up to `asked`.

    `left` is what a run did not come to that was interrupted or met its deadline; `quarantined` are rows that ended
    every worker they met. Records of earlier versions have none.
    """

    asked: int
    scored: int
    reused: int
    failed: int
    left: int
    quarantined: int = 0


@dataclass(frozen=True)
class Run:
    """What a run was asked for. `benchmarks` maps names to data hashes; `outcome` is None until it ends.

    `predicted` holds what the plan expected of each fingerprint that owed something: `tokens`, `seconds` of all its
    workers, `gpu_hours` and `dollars`; of the sweep, under an empty name, `makespan` and `bound`.
    """

    id: str
    started: str
    models: tuple[Model, ...]
    benchmarks: Mapping[str, str]
    asked: int
    reused: int
    facts: Mapping[str, str]
    predicted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `done`, `interrupted`, `aborted` or `deadline`; what it paid to endpoints."""

    state: str
    ended: str
    account: Account
    failures: tuple[Failure, ...]
    costs: tuple[Bill, ...] = ()


def save_run(store: Store, run: Run) -> None:
    """Write the specs behind a run, then the run."""
    for model in run.models:
        for spec in model.streams:
            store.save(f"models/{spec.fingerprint}.json", _json(spec.to_json()))
    models = [
        {
            "name": model.name,
            "family": model.family,
            "streams": [spec.fingerprint for spec in model.streams],
            "scoring": dict(model.scoring),
        }
        for model in run.models
    ]
    record = {
        "id": run.id,
        "started": run.started,
        "models": models,
        "benchmarks": dict(run.benchmarks),
        "asked": run.asked,
        "reused": run.reused,
        "facts": dict(run.facts),
        "predicted": {name: dict(values) for name, values in run.predicted.items()},
    }
    store.save(f"runs/{run.id}/run.json", _json(record))


def save_outcome(store: Store, run_id: str, outcome: Outcome) -> None:
    """Write how a run ended."""
    store.save(f"runs/{run_id}/outcome.json", _json(asdict(outcome)))


def load_runs(store: Store) -> list[Run]:
    """All runs, oldest first."""
    specs: dict[str, ModelSpec] = {}
    names = sorted({path.split("/")[1] for path in store.list("runs") if path.endswith("/run.json")})
    runs = (_load_run(store, name, specs) for name in names)
    return [run for run in runs if run is not None]


def load_spec(store: Store, fingerprint: str) -> ModelSpec:
    """The spec that a run left behind a fingerprint."""
    return ModelSpec.from_json(_loads(store, f"models/{fingerprint}.json"))


def _load_run(store: Store, name: str, specs: dict[str, ModelSpec]) -> Run | None:
    """None where the run was removed meanwhile, as `rewardsweep gc` may."""
    try:
        return _parse_run(store, name, specs)
    except StoreError:
        if store.load(f"runs/{name}/run.json") is None:
            return None
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"store={store.uri}: runs/{name} is damaged or of another version ({error}); remove that folder"
        ) from error


def _parse_run(store: Store, name: str, specs: dict[str, ModelSpec]) -> Run:
    record = _loads(store, f"runs/{name}/run.json")
    for model in record["models"]:
        for fingerprint in model["streams"]:
            if fingerprint not in specs:
                specs[fingerprint] = load_spec(store, fingerprint)
    models = tuple(
        Model(
            model["name"],
            model["family"],
            tuple(specs[fingerprint] for fingerprint in model["streams"]),
            model["scoring"],
        )
        for model in record["models"]
    )
    ended = store.load(f"runs/{name}/outcome.json")
    outcome = _outcome(json.loads(ended)) if ended is not None else None
    return Run(**{**record, "models": models, "outcome": outcome})


def _outcome(values: Mapping[str, Any]) -> Outcome:
    failures = tuple(Failure(**failure) for failure in values["failures"])
    costs = tuple(Bill(**cost) for cost in values.get("costs", ()))
    return Outcome(values["state"], values["ended"], Account(**values["account"]), failures, costs)


def latest_models(runs: Sequence[Run], benchmark: str) -> dict[str, Model]:
    """Each model's newest pinned form among the runs of a benchmark, by name; without streams if it has none."""
    models = [model for run in runs if benchmark in run.benchmarks for model in run.models]
    return {model.name: model for model in sorted(models, key=lambda model: bool(model.streams))}


def latest_failures(runs: Sequence[Run]) -> dict[str, str]:
    """The reason why each model failed the last time it ran, where it did."""
    reasons: dict[str, str] = {}
    for run in runs:
        for model in run.models:
            reasons.pop(model.name, None)
        if run.outcome is not None:
            reasons.update({failure.model: failure.reason for failure in run.outcome.failures})
    return reasons


def save_examples(store: Store, benchmark: str, examples: Sequence[Example]) -> str:
    """Keep a benchmark's rows under the hash of their content; the hash. A damaged file is replaced."""
    name = data_hash(examples)
    try:
        load_examples(store, benchmark, name)
    except StoreError:  # not there yet, or damaged
        _write_examples(store, f"benchmarks/{benchmark}/{name}.parquet", examples)
    return name


def _write_examples(store: Store, path: str, examples: Sequence[Example]) -> None:
    rows = [{**asdict(example), "prompt": [asdict(turn) for turn in example.prompt]} for example in examples]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="zstd")
    store.save(path, buffer.getvalue())


def load_examples(store: Store, benchmark: str, name: str) -> list[Example]:
    """The rows that `save_examples` kept; `StoreError` when they are gone or changed."""
    path = f"benchmarks/{benchmark}/{name}.parquet"
    content = store.load(path)
    if content is None:
        raise StoreError(f"store={store.uri}: {path} is missing; give the data again: data.{benchmark}=FILE")
    try:
        rows = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False).to_pylist()
        examples = [_example(row) for row in rows]
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise StoreError(f"store={store.uri}: {path} is damaged; give the data again: data.{benchmark}=FILE") from error
    if data_hash(examples) != name:
        raise StoreError(
            f"store={store.uri}: {path} does not match its name; give the data again: data.{benchmark}=FILE"
        )
    return examples


def _example(row: Mapping[str, Any]) -> Example:
    prompt = tuple(Message(turn["role"], turn["content"]) for turn in row["prompt"])
    return Example(**{**row, "prompt": prompt, "responses": tuple(row["responses"])})


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _loads(store: Store, path: str) -> Any:
    content = store.load(path)
    if content is None:
        raise StoreError(f"store={store.uri}: {path} is missing, though a run refers to it; remove that run's folder")
    try:
        return json.loads(content)
    except ValueError as error:
        raise StoreError(f"store={store.uri}: {path} is damaged ({error}); remove it or that run's folder") from error
