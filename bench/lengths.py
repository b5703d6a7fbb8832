"""How long real conversations are and how much they share, for `bench.gpu`, which has neither data nor tokenizer.

    python -m bench.lengths --shared ../shared --checkpoint build/bench/checkpoints/llama > bench/lengths.json

A line of bench/lengths.json is a pair of the public half of RewardBench, in the order of the file: tokens of the
prompt, of the beginning that both conversations share, of the chosen conversation, of the rejected one. It holds no
text.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).resolve().with_suffix(".json")


@dataclass(frozen=True)
class Conversation:
    """Made-up token ids of a real conversation's length; log-probabilities are those of the ids after the prompt."""

    row: int
    side: int
    ids: tuple[int, ...]
    prompt: int


def conversations(vocabulary: int, shrink: int = 1, seed: int = 0) -> list[tuple[Conversation, Conversation]]:
    """Pairs of the real lengths, divided by `shrink`, that share as much as the real ones do; never the pad id 0."""
    draw, pairs = random.Random(seed), []
    for row, lengths in enumerate(json.loads(PATH.read_text(encoding="utf-8"))):
        prompt, shared, *whole = (max(2, length // shrink) for length in lengths)
        start = draw.choices(range(3, vocabulary), k=shared)
        first = draw.sample(range(3, vocabulary), k=2)
        sides = [
            (*start, own, *draw.choices(range(3, vocabulary), k=max(0, length - shared - 1)))
            for own, length in zip(first, whole, strict=True)
        ]
        chosen, rejected = (Conversation(row, side, ids, min(prompt, shared)) for side, ids in enumerate(sides))
        pairs.append((chosen, rejected))
    return pairs


def main() -> None:
    """Print the lengths."""
    from bench.parity import load_rows
    from orchestrator.pin import pin_model
    from workers.checkpoint import config_of, renderer_of
    from workers.packing import common
    from workers.protocol import Message, Request

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="the folder of data and reference")
    parser.add_argument("--checkpoint", type=Path, required=True, help="whose tokenizer counts")
    options = parser.parse_args()
    spec = pin_model("lengths", {"path": str(options.checkpoint), "family": "scalar"}, cuda=False).streams[0]
    renderer = renderer_of(spec, config_of(spec, "reward"))
    lines = []
    for row in load_rows(options.shared):
        prompt = (Message("user", row["prompt"]),)
        asked = [Request("logprob", prompt, (row[side],)) for side in ("chosen", "rejected")]
        chosen, rejected = renderer.render(asked)
        shared = common(chosen.ids, rejected.ids)
        lines.append([min(chosen.completion or 0, shared), shared, len(chosen.ids), len(rejected.ids)])
    print("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]")


if __name__ == "__main__":
    main()
