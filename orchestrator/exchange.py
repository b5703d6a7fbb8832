"""The verbs `import` and `export`: results as rewardbench 0.1.4 writes them, and metadata for model cards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator import metrics, provenance, records
from orchestrator.benchmarks import OVERALL, Example, Judged, data_hash, find
from orchestrator.config import Settings, named_folder
from orchestrator.imports import files, load_imports, matched, read, save_import
from orchestrator.insights import type_of
from orchestrator.leaderboards import Scored, board, existing_store, lookup, scored, selected_benchmarks
from orchestrator.paths import slug
from orchestrator.progress import say
from orchestrator.records import Account, Outcome, Run
from orchestrator.reducer import Entry
from orchestrator.stores import Store, open_store
from workers.errors import InputError, first_line

DEFAULT = "rewardbench"
TYPES = {"classifier": "Seq. Classifier", "pairwise": "Custom Classifier", "DPO": "DPO", "judge": "Generative RM"}
"""Our types as the reference names them."""


def import_results(settings: Settings) -> int:
    """The verb: read every file before anything is kept."""
    if not settings.names:
        raise InputError("import: name a file or a folder of results: rewardsweep import FILE store=...")
    benchmark = (settings.benchmarks or (DEFAULT,))[0]
    if settings.benchmarks and len(settings.benchmarks) > 1:
        raise InputError("import: name one benchmark, that of the results")
    results = [read(file) for path in settings.names for file in files(path)]
    with_rows = {result.name for result in results if result.rows is not None}
    kept = [result for result in results if result.rows is not None or result.name not in with_rows]
    store = open_store(settings.store)
    examples = _examples(store, settings, benchmark)
    store.prepare()
    for result in kept:
        save_import(store, benchmark, result)
    _save_run(store, benchmark, examples)
    names = {result.name for result in kept}
    for one in load_imports(store, benchmark, examples):
        if one.model.name in names:
            rows = f"{matched(one)} of {len(examples)} rows" if one.rows is not None else "accuracies of subsets only"
            say(f"{one.model.name}: {rows}")
    return 0


def _examples(store: Store, settings: Settings, benchmark: str) -> Sequence[Example]:
    """The benchmark's rows: of the file given, else of the store's latest run, else its own."""
    if benchmark not in settings.data and store.exists():
        runs = [run for run in records.load_runs(store) if benchmark in run.benchmarks]
        if runs:
            return records.load_examples(store, benchmark, runs[-1].benchmarks[benchmark])
    return find(benchmark).load(settings.data.get(benchmark))


def _save_run(store: Store, benchmark: str, examples: Sequence[Example]) -> None:
    """A run that scored nothing makes the benchmark known; there is none to save where another one did."""
    rows = data_hash(examples)
    if any(run.benchmarks.get(benchmark) == rows for run in records.load_runs(store)):
        return
    records.save_examples(store, benchmark, examples)
    run = Run(
        provenance.new_run_id(), provenance.now(), (), {benchmark: rows}, 0, 0, {"commit": provenance.code_commit()}
    )
    records.save_run(store, run)
    records.save_outcome(store, run.id, Outcome("done", provenance.now(), Account(0, 0, 0, 0, 0), ()))


def export_results(settings: Settings) -> int:
    """The verb: three files a complete model and benchmark."""
    folder = named_folder(settings)
    store = existing_store(settings)
    written = 0
    for name in selected_benchmarks(settings, records.load_runs(store)):
        known, made = scored(store, settings, name), board(store, settings, name, [])
        judged = known.judged([entry.name for entry in made.entries if entry.complete], lookup(store))
        for entry in made.entries:
            if entry.name in judged:
                _write(folder / name, known, entry, judged[entry.name], made.rule)
                written += 1
    say(f"{written} models: {folder}")
    if settings.push is not None:
        _push(folder, settings.push)
    return 0


def _push(folder: Path, repository: str) -> None:
    """Upload the folder to a data set of the hub, which is made where it is not there, private."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        found = api.upload_folder(
            repo_id=repository, repo_type="dataset", folder_path=folder, commit_message="rewardsweep export"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(
            f"push={repository}: the hub does not take it ({first_line(error)}); check the name and HF_TOKEN"
        ) from error
    say(f"pushed: {found.commit_url}")


def _write(folder: Path, known: Scored, entry: Entry, rows: Sequence[Judged], rule: str) -> None:
    template = _template(known, entry.name)
    about = {
        "model": entry.name,
        "model_type": TYPES.get(type_of(entry.family), entry.family),
        "chat_template": template,
    }
    accuracies = {name: cell.accuracy for name, cell in entry.subsets.items()}
    files = {
        f"eval-set/{slug(entry.name)}.json": _json({**about, **accuracies}),
        f"eval-set-scores/{slug(entry.name)}.json": _json({**about, **columns(rows)}),
        f"model-cards/{slug(entry.name)}.md": card(known, entry, rule),
    }
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")


def _template(known: Scored, name: str) -> str:
    """The template's name; `tokenizer` for the tokenizer's own, as the reference says it."""
    model = known.models.get(name)
    return (model.streams[0].chat_template if model and model.streams else None) or "tokenizer"


def _json(value: Mapping[str, Any]) -> str:
    """As the reference writes it: a score that is not a number is NaN, which its readers take."""
    return json.dumps(value, indent=4, sort_keys=True, ensure_ascii=False)


def columns(rows: Sequence[Judged]) -> dict[str, list[Any]]:
    """Rows as columns: pairs as `run_rm.py`, several responses as `run_v2.py` has them."""
    shared: dict[str, list[Any]] = {
        "subset": [row.example.subset for row in rows],
        "id": [_id(row.example.id) for row in rows],
        "results": [metrics.best(row) if len(row.scores) > 2 else metrics.credit(row) for row in rows],
    }
    if all(len(row.scores) == 2 for row in rows):
        texts = {f"text_{side}": [_conversation(row.example, at) for row in rows] for at, side in enumerate(SIDES)}
        return {
            **shared,
            **texts,
            **{f"scores_{side}": [row.scores[at] for row in rows] for at, side in enumerate(SIDES)},
        }
    return {
        **shared,
        "text": [[_conversation(row.example, at) for at in range(len(row.scores))] for row in rows],
        "scores": [[[score] for score in row.scores] for row in rows],
        "num_correct": [row.example.num_chosen for row in rows],
    }


SIDES = ("chosen", "rejected")


def _conversation(example: Example, response: int) -> list[dict[str, str]]:
    turns = [{"role": turn.role, "content": turn.content} for turn in example.prompt]
    return [*turns, {"role": "assistant", "content": example.responses[response]}]


def _id(name: str) -> int | str:
    """A number where the id is one, as in the reference's data."""
    return int(name) if name.isdecimal() and str(int(name)) == name else name


def card(known: Scored, entry: Entry, rule: str) -> str:
    """The `model-index` of a model card on the Hugging Face hub, with the rule and the data's hash."""
    cells = {OVERALL: entry.overall, **entry.sections}
    metrics_found = [
        {"type": "accuracy", "name": name, "value": round(value, 6)}
        for name, value in cells.items()
        if value is not None
    ]
    data = {"type": known.benchmark.name, "name": known.benchmark.name, "revision": known.data_hash}
    results = [
        {
            "task": {"type": "text-classification", "name": "preference"},
            "dataset": data,
            "metrics": metrics_found,
            "source": {"name": f"rewardsweep, rule {rule}"},
        }
    ]
    index = {"model-index": [{"name": entry.name, "results": results}]}
    return f"---\n{yaml.safe_dump(index, sort_keys=False, allow_unicode=True)}---\n"
