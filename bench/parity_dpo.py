"""Our implicit rewards against the real reference implementation, on tiny language models and real data.

    python -m bench.parity_dpo --shared ../shared --reference-venv .venv-reference [--architectures llama] [--step 5]

A reward is the difference of two sums over hundreds of tokens. The reference sums in float32, so it carries an error of
about 2^-24 of the larger sum; we sum in float64. The table gives differences beside the largest sum.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.parity import Scores, answered, arguments, difference, flips, load_rows, reference_scores
from orchestrator.pin import pin_model
from workers import tiny_zoo
from workers.engines import transformers as engine
from workers.families import dpo
from workers.protocol import Measurement, Message, measure

ARCHITECTURES = ("llama", "gpt-neox", "gpt2")


@dataclass(frozen=True)
class Rewards:
    """One reward a response, chosen and rejected in turn, and the largest sum of log-probabilities behind them."""

    values: Scores
    largest_sum: float


def our_rewards(
    policy: Path, reference: Path, rows: Sequence[dict[str, str]], protocol: str, numerics: str = "exact"
) -> Rewards:
    """Rewards under a protocol; each conversation alone if `numerics` is exact."""
    entry = {"path": str(policy), "reference": str(reference), "family": "dpo"}
    entry |= {"protocol": protocol, "numerics": numerics}
    model = pin_model("parity", entry, cuda=False)
    examples = [((Message("user", row["prompt"]),), (row["chosen"], row["rejected"])) for row in rows]
    wanted = [dpo.wanted(model, prompt, responses) for prompt, responses in examples]
    answers: list[list[Measurement]] = []
    for stream, spec in enumerate(model.streams):
        asked = [request for row in wanted for position, request in row if position == stream]
        outputs = engine.load(spec).run(asked)
        pairs = zip(asked, outputs, strict=True)
        answers.append([measure("parity", request, answered(output)) for request, output in pairs])
    values = [
        value
        for index in range(0, 2 * len(rows), 2)
        for value in dpo.values(model, [*answers[0][index : index + 2], *answers[1][index : index + 2]])
    ]
    return Rewards(values, max(abs(answer.value) for stream in answers for answer in stream))


COLUMNS = (
    "architecture",
    "pairs",
    "range of rewards",
    "largest sum",
    "ours in shared passes - ours alone",
    "ours under `protocol=reference` - reference at batch 1",
    "verdicts that differ",
    "verdicts that our own protocol changes",
)


def line(architecture: str, shared: Path, venv: Path, folder: Path, rows: Sequence[dict[str, str]]) -> str:
    """A row of the table."""
    policy, reference = (
        tiny_zoo.build(folder / f"{architecture}-{seed}", architecture, causal=True, seed=seed) for seed in (0, 1)
    )
    alone = our_rewards(policy, reference, rows, "reference")
    batched = our_rewards(policy, reference, rows, "reference", "fast")
    own = our_rewards(policy, reference, rows, "own")
    theirs = reference_scores(shared, venv, policy, rows, 1, reference)
    spread = max(alone.values) - min(alone.values)
    numbers = [difference(batched.values, alone.values), difference(alone.values, theirs)]
    counts = [flips(alone.values, theirs), flips(own.values, alone.values)]
    cells = [f"{spread:.0f}", f"{alone.largest_sum:.0f}", *(f"{number:.1e}" for number in numbers), *map(str, counts)]
    return f"| {architecture} | {len(rows)} | " + " | ".join(cells) + " |"


def main() -> None:
    """Build the checkpoints, compare, print the table."""
    options = arguments(argparse.ArgumentParser(description=__doc__), ARCHITECTURES)
    rows = load_rows(options.shared, options.step)
    print("| " + " | ".join(COLUMNS) + " |\n| --- " + "| ---: " * (len(COLUMNS) - 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.architectures:
            print(line(name, options.shared, options.reference_venv, Path(folder), rows), flush=True)


if __name__ == "__main__":
    main()
