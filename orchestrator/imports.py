"""Results of the reference as rows of a leaderboard, kept in the store beside our own and marked as what they are.

Formats: `eval-set`, `eval-set-scores` and the command line's files of rewardbench 0.1.4 (`scripts/run_rm.py`,
`scripts/run_generative.py`, `rewardbench/rewardbench.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.benchmarks import Example
from orchestrator.metrics import means
from orchestrator.paths import slug
from orchestrator.reducer import Imported, ScoredRow
from orchestrator.stores import Store
from workers.errors import InputError, StoreError
from workers.protocol import Model

MARK = "+imported"
FAMILIES = {"generative": "judge", "dpo": "dpo"}
"""How a `model_type` begins, and the family whose policy for ties holds; all others are classifiers."""
SUFFIXES = ("_outputs.jsonl", ".json")


@dataclass(frozen=True)
class Result:
    """What one file says of one model: accuracies of subsets, or scores of rows as (subset, id, scores)."""

    model: str
    type: str
    source: str
    accuracies: Mapping[str, float]
    rows: tuple[tuple[str, str, tuple[float, ...]], ...] | None = None

    @property
    def name(self) -> str:
        """What the model is called in tables: no name of ours ends so."""
        return re.sub(r"[^A-Za-z0-9._+-]+", "-", self.model).strip("-.")[:100] + MARK


def files(path: str) -> list[Path]:
    """The result files at a path, or below it."""
    given = Path(path).expanduser()
    below = (file for file in given.rglob("*") if file.name.endswith(SUFFIXES))
    found = sorted(below) if given.is_dir() else [given]
    if not found:
        raise InputError(f"{path}: holds no {' or '.join(SUFFIXES)} file")
    return found


def read(file: Path) -> Result:
    """One file of the reference; `InputError` says what is wrong with it."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.name.endswith(".jsonl"):
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
            return _of_columns(file, _columns(file, lines))
        found = json.loads(text)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{file}: not a JSON file of rewardbench ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: not a result of rewardbench: one object is expected")
    return _of_columns(file, found) if isinstance(found.get("results"), list) else _of_accuracies(file, found)


def _columns(file: Path, lines: Sequence[Any]) -> dict[str, Any]:
    """Rows to columns, and the name of the model: the summary beside the file has it, else its place tells."""
    if not lines or not all(isinstance(line, dict) and "results" in line for line in lines):
        raise InputError(f"{file}: not an output of rewardbench: every line needs `results`")
    stem = file.name.removesuffix(SUFFIXES[0]).removesuffix(".jsonl")
    beside = file.with_name(f"{stem}.json")
    summary = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    shared = {name for name in lines[0] if all(name in line for line in lines)}
    return {"model": summary.get("model") or stem, **{name: [line[name] for line in lines] for name in shared}}


def _of_accuracies(file: Path, found: Mapping[str, Any]) -> Result:
    """`eval-set`, or the command line's summary, whose subsets are in `extra_results`."""
    given = found["extra_results"] if isinstance(found.get("extra_results"), dict) else found
    numbers = {name: value for name, value in given.items() if isinstance(value, int | float) and 0 <= value <= 1}
    if given is found and "num_prompts" in found:
        numbers = {"all": numbers["accuracy"]} if "accuracy" in numbers else {}
    if not numbers:
        raise InputError(f"{file}: not a result of rewardbench: no accuracies of subsets")
    return Result(str(found.get("model") or file.stem), str(found.get("model_type") or ""), file.name, numbers)


def _of_columns(file: Path, found: Mapping[str, Any]) -> Result:
    count = len(found["results"])
    columns = {name: value for name, value in found.items() if isinstance(value, list) and len(value) == count}
    if "subset" not in columns:
        raise InputError(f"{file}: not a result of rewardbench: `subset` and `results` must be lists of one length")
    subsets = [str(subset) for subset in columns["subset"]]
    about = (str(found.get("model") or file.stem), str(found.get("model_type") or ""), file.name)
    try:
        results = [_number(value) for value in columns["results"]]
        scores = list(_scores(columns, results))
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{file}: a score is not a number ({error})") from error
    if "id" not in columns:
        return Result(*about, means(subsets, results))
    keys = zip(subsets, map(str, columns["id"]), scores, strict=True)
    return Result(*about, {}, tuple(keys))


def _scores(columns: Mapping[str, Sequence[Any]], results: Sequence[float]) -> Iterator[tuple[float, ...]]:
    """One score a response; of a judge, whose scores are not kept, the result and what it leaves."""
    if "scores_chosen" in columns and "scores_rejected" in columns:
        yield from zip(map(_number, columns["scores_chosen"]), map(_number, columns["scores_rejected"]), strict=True)
    elif "scores" in columns:
        yield from (tuple(map(_number, scores)) for scores in columns["scores"])
    else:
        yield from ((result, 1 - result) for result in results)


def _number(value: Any) -> float:
    """A number, also in a list of its own, as [B, 1] models leave it."""
    return float(value[0] if isinstance(value, list) else value)


def save_import(store: Store, benchmark: str, result: Result) -> None:
    """Keep a result; another one of the same model takes its place."""
    content = json.dumps(asdict(result), sort_keys=True, ensure_ascii=False).encode()
    store.save(f"imports/{benchmark}/{slug(result.name)}.json", content)


def load_imports(store: Store, benchmark: str, examples: Sequence[Example]) -> list[Imported]:
    """The imported models of a benchmark, their rows joined with its own."""
    paths = [path for path in store.list(f"imports/{benchmark}") if path.endswith(".json")]
    return [_joined(_load(store, path), examples) for path in sorted(paths)]


def _load(store: Store, path: str) -> Result:
    try:
        found = json.loads(store.load(path) or b"")
        rows = found.pop("rows")
        kept = None if rows is None else tuple((subset, name, tuple(scores)) for subset, name, scores in rows)
        return Result(**found, rows=kept)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"store={store.uri}: {path} is damaged; import it again") from error


def _joined(result: Result, examples: Sequence[Example]) -> Imported:
    kind = next((family for start, family in FAMILIES.items() if result.type.lower().startswith(start)), "scalar")
    model = Model(result.name, kind, ())
    if result.rows is None:
        return Imported(model, None, result.accuracies)
    scores: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for subset, name, values in result.rows:
        scores.setdefault((subset, name), []).append(values)
    rows = []
    for row in examples:
        found = scores.get((row.subset, row.id), [])
        own = found[row.position] if row.position < len(found) else ()
        rows.append(ScoredRow(row, (), own if len(own) == len(row.responses) else None))
    return Imported(model, tuple(rows))


def matched(one: Imported) -> int:
    """How many rows of the benchmark have scores."""
    return sum(row.scores is not None for row in one.rows or ())
