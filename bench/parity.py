"""Our scores against the real reference implementation, on tiny checkpoints and real data, in float32 on the CPU.

    python -m bench.parity --shared ../shared --reference-venv .venv-reference [--architectures llama bert] [--step 5]

For every architecture: our scores where conversations share passes (`numerics: fast`; packed, or padded where the code
does not bear it), our score of each conversation alone and unpadded (`numerics: exact`), and the reference at batch
size 1 and 8 (its default). Prints the table of docs/parity.md;
`tests/test_parity.py` asserts on the same numbers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.pin import pin_model
from workers import tiny_zoo
from workers.engines import transformers as engine
from workers.protocol import Message, Output, Request, Unscored

Scores = list[float]
"""Chosen and rejected in turn: positions 2i and 2i + 1 belong to row i."""


@dataclass(frozen=True)
class Parity:
    """One row of the table. Differences are maxima over all responses; verdicts are counted over pairs."""

    architecture: str
    batching: str
    pairs: int
    spread: float
    batched: float
    reference: float
    wrong_verdicts: int
    reference_batch: float
    reference_flips: int


def load_rows(shared: Path, step: int = 1) -> list[dict[str, str]]:
    """The public half of RewardBench in the order of the file, or every so many-th of its rows."""
    with gzip.open(shared / "data" / "rewardbench_filtered.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][::step]


def requests(rows: Sequence[dict[str, str]]) -> list[Request]:
    """One request a response, chosen before rejected."""
    return [
        Request("reward", (Message("user", row["prompt"]),), (row[side],))
        for row in rows
        for side in ("chosen", "rejected")
    ]


def our_scores(checkpoint: Path, asked: Sequence[Request]) -> tuple[Scores, Scores, str]:
    """Scores in shared passes and scores alone; how passes are shared."""
    spec = pin_model("parity", {"path": str(checkpoint), "family": "scalar"}, cuda=False).streams[0]
    shared, alone = (
        engine.load(replace(spec, token_budget=engine.GPU_TOKENS)),
        engine.load(replace(spec, numerics="exact")),
    )
    return values(shared, asked), values(alone, asked), shared.details()["batching"].split()[0]


def values(loaded: engine.TransformersEngine, asked: Sequence[Request]) -> Scores:
    """One score a request, all of which can be answered."""
    return [answered(output).value for output in loaded.run(asked)]


def answered(output: Output | Unscored) -> Output:
    """An output that is one."""
    if isinstance(output, Unscored):
        raise RuntimeError(output.reason)
    return output


def reference_scores(
    shared: Path,
    venv: Path,
    checkpoint: Path,
    rows: Sequence[dict[str, str]],
    batch: int,
    tuned_from: Path | None = None,
) -> Scores:
    """The reference's scores at a batch size, from its own command line; implicit rewards given `tuned_from`."""
    with tempfile.TemporaryDirectory() as folder:
        flags = reference_flags(Path(folder), checkpoint, rows, batch, tuned_from)
        script = (shared / "reference" / "run_reference.py").resolve()
        command = [sys.executable, str(script), "--venv", str(venv.resolve()), "--", *flags]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the reference failed: {done.stderr[-2000:]}")
        return scores_written(Path(folder))


def reference_flags(
    folder: Path, checkpoint: Path, rows: Sequence[dict[str, str]], batch: int, tuned_from: Path | None = None
) -> list[str]:
    """The flags of the reference's command, whose working directory is `folder`; rows and models are put there."""
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(_conversations(row)) + "\n" for row in rows), encoding="utf-8")
    (folder / "zoo").mkdir()
    (folder / "zoo" / "model").symlink_to(checkpoint.resolve())
    flags = ["--model", "zoo/model", "--dataset", str(data), "--load_json", "--output_dir", f"{folder}/out/"]
    flags += ["--batch_size", str(batch)]
    if tuned_from is not None:
        (folder / "zoo" / "reference").symlink_to(tuned_from.resolve())
        flags += ["--ref_model", "zoo/reference"]
    return flags


def scores_written(folder: Path) -> Scores:
    """The scores of a run of the reference in that folder."""
    lines = (folder / "out" / "zoo" / "model_outputs.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [_number(row[side]) for row in found for side in ("scores_chosen", "scores_rejected")]


def _conversations(row: dict[str, str]) -> dict[str, object]:
    turn = {"role": "user", "content": row["prompt"]}
    sides = {side: [turn, {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {"prompt": row["prompt"], **sides}


def _number(value: float | list[float]) -> float:
    return value[0] if isinstance(value, list) else value


def difference(one: Scores, other: Scores) -> float:
    """The largest absolute difference."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def verdicts(scores: Scores) -> list[bool]:
    """Whether the chosen response scores strictly higher, a row each."""
    return [chosen > rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)]


def flips(one: Scores, other: Scores) -> int:
    """Rows whose verdict differs."""
    return sum(a != b for a, b in zip(verdicts(one), verdicts(other), strict=True))


def compare(shared: Path, venv: Path, checkpoint: Path, architecture: str, rows: Sequence[dict[str, str]]) -> Parity:
    """All numbers of one architecture."""
    batched, alone, batching = our_scores(checkpoint, requests(rows))
    single = reference_scores(shared, venv, checkpoint, rows, 1)
    default = reference_scores(shared, venv, checkpoint, rows, 8)
    return Parity(
        architecture=architecture,
        batching=batching,
        pairs=len(rows),
        spread=max(alone) - min(alone),
        batched=difference(batched, alone),
        reference=difference(alone, single),
        wrong_verdicts=flips(alone, single),
        reference_batch=difference(default, single),
        reference_flips=flips(default, single),
    )


COLUMNS = (
    "architecture",
    "shared passes",
    "pairs",
    "range of scores",
    "ours in shared passes - ours alone",
    "ours - reference at batch 1",
    "verdicts that differ",
    "reference at batch 8 - at batch 1",
    "its verdicts that flip",
)


def line(row: Parity) -> str:
    """A row of the table."""
    numbers = [row.batched, row.reference, row.wrong_verdicts, row.reference_batch, row.reference_flips]
    cells = [f"{value:.1e}" if isinstance(value, float) else str(value) for value in numbers]
    return f"| {row.architecture} | {row.batching} | {row.pairs} | {row.spread:.2f} | " + " | ".join(cells) + " |"


def arguments(parser: argparse.ArgumentParser, architectures: Sequence[str]) -> argparse.Namespace:
    """What both comparisons are asked for on the command line."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="the folder of data and reference")
    parser.add_argument("--reference-venv", type=Path, default=Path(".venv-reference"), help="built when missing")
    parser.add_argument("--architectures", nargs="+", default=list(architectures))
    parser.add_argument("--step", type=int, default=1, help="5: only every fifth row")
    return parser.parse_args()


def main() -> None:
    """Build the checkpoints, compare, print the table."""
    options = arguments(argparse.ArgumentParser(description=__doc__), list(tiny_zoo.ARCHITECTURES))
    rows = load_rows(options.shared, options.step)
    print("| " + " | ".join(COLUMNS) + " |\n| --- " + "| ---: " * (len(COLUMNS) - 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.architectures:
            checkpoint = tiny_zoo.build(Path(folder) / name, name)
            print(line(compare(options.shared, options.reference_venv, checkpoint, name, rows)), flush=True)


if __name__ == "__main__":
    main()
