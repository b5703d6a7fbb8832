"""Speed on one GPU: random 8B models in bfloat16 over real lengths, ours against the reference's way and plain batches.

    python -m bench.gpu [--out gpu.json] [--seconds 420]
    python -m bench.gpu --device cpu --tiny             # every step, in seconds, on any machine

Needs torch, transformers and numpy, no data, tokenizer or hub: lengths are in bench/lengths.json, weights are made on
the device. After each step the JSON so far is printed and written. A step measures as many of the pairs as fit its
share of the time, blocks of eight in an order drawn once, so that all see the same lengths; MFU counts the operations
of the tokens that had to be computed, by the formula of `workers.flops`, over the data sheet's peak. On a CPU all is
float32, the reference's way too.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import padded, random_reward
from bench.lengths import conversations
from bench.padded import Pair, Scores
from workers import flops, packing
from workers.engines import transformers as engine
from workers.protocol import Kind, Message, ModelSpec, Output, Request

BLOCK, WARM, FIRST = 8, 1, 4
"""Pairs of a block; blocks to warm up on, and to guess the speed from."""
SHARE = 0.8
"""Of a step's time, what the measured run may take by that guess."""


Run = Callable[[Sequence[Pair]], tuple[Scores, int]]
"""Scores, and the operations that they took."""


class Gpu:
    """The pairs, the clock and the results so far."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.shape = "tiny" if options.tiny else "8b"
        self.cuda = options.device == "cuda"
        self.dtype = "bfloat16" if self.cuda else "float32"
        self.device = torch.cuda.get_device_name() if self.cuda else "cpu"
        self.peak = flops.peak(self.device, "bfloat16")
        vocabulary = random_reward.SHAPES[self.shape]["vocab_size"]
        pairs = conversations(vocabulary, shrink=16 if options.tiny else 1)[: 6 * BLOCK if options.tiny else None]
        blocks = [pairs[start : start + BLOCK] for start in range(0, len(pairs), BLOCK)]
        random.Random(0).shuffle(blocks)
        self.blocks = blocks
        self.started = time.monotonic()
        self.scores: dict[str, Scores] = {}
        self.result: dict[str, Any] = {"device": self.device, "dtype": self.dtype, "shape": self.shape, "steps": {}}

    def step(self, name: str, run: Run, steps_left: int) -> None:
        """Measure a way of scoring, whatever becomes of it, and say what is known so far."""
        left = self.options.seconds - (time.monotonic() - self.started)
        if left <= 0:
            self._keep(name, {"error": "no time left"})
            return
        try:
            self._keep(name, self._measured(name, run, left / steps_left))
        except Exception as error:  # out of memory, a kernel or a library that is missing: the other steps go on
            self._keep(name, {"error": f"{type(error).__name__}: {error}"[:300]})
        self.tidy()

    def _measured(self, name: str, run: Run, seconds: float) -> dict[str, Any]:
        begun = time.monotonic()
        run(_joined(self.blocks[:WARM]))
        _, guessed, _ = self._timed(run, self.blocks[:FIRST])
        room = SHARE * (seconds - (time.monotonic() - begun))
        count = max(1, min(len(self.blocks), int(room / guessed * min(FIRST, len(self.blocks)))))
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        (found, work), took, pairs = self._timed(run, self.blocks[:count])
        self.scores[name] = found
        tokens = sum(len(row.ids) for pair in pairs for row in pair)
        return {
            "pairs": len(pairs),
            "seconds": took,
            "tokens_per_second": tokens / took,
            "flops": work,
            "mfu": work / took / self.peak if self.peak else None,
            "peak_bytes": torch.cuda.max_memory_allocated() if self.cuda else None,
        }

    def _timed(self, run: Run, blocks: Sequence[Sequence[Pair]]) -> tuple[tuple[Scores, int], float, list[Pair]]:
        pairs = _joined(blocks)
        if self.cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        found = run(pairs)
        if self.cuda:
            torch.cuda.synchronize()
        return found, time.perf_counter() - started, pairs

    def load(self, causal: bool, seed: int = 0) -> engine.TransformersEngine:
        """Our engine on a random model."""
        family = "bench.random_policy" if causal else "bench.random_reward"
        spec = ModelSpec("random", str(self.folder), "random", family, "1", "transformers", "1", (), dtype=self.dtype)
        options = {"shape": self.shape, "seed": seed}
        values = {**spec.to_json(), "options": options, "gpus": int(self.cuda)}
        return engine.load(ModelSpec.from_json(values))

    def model(self, causal: bool, seed: int = 0) -> Any:
        """The model behind an engine, as it was before the engine packed its passes."""
        model = random_reward.MODELS["AutoModelForCausalLM" if causal else "AutoModelForSequenceClassification", seed]
        model.set_attn_implementation("sdpa")
        model.base_model.__dict__.pop("forward", None)
        return model

    def ours(self, loaded: engine.TransformersEngine, causal: bool, pairs: Sequence[Pair]) -> tuple[Scores, int]:
        """Scores and the operations behind them."""
        rows = [row for pair in pairs for row in pair]
        kind: Kind = "logprob" if causal else "reward"
        asked = [Request(kind, (Message("user", str(row.prompt)),), (" ".join(map(str, row.ids)),)) for row in rows]
        found = [output for output in loaded.run(asked) if isinstance(output, Output)]
        if len(found) < len(rows):
            raise RuntimeError(f"{len(rows) - len(found)} conversations do not fit into memory")
        values = {(row.row, row.side): output.value for row, output in zip(rows, found, strict=True)}
        return values, int(loaded.details()["flops"])

    def difference(self, one: str, other: str) -> None:
        """The largest difference of the scores that both have, beside their range."""
        first, second = self.scores.get(one, {}), self.scores.get(other, {})
        both = sorted(first.keys() & second.keys())
        if not both:
            return
        values = [first[key] for key in both]
        largest = max(abs(first[key] - second[key]) for key in both)
        self.result.setdefault("differences", {})[f"{one} - {other}"] = {
            "largest": largest,
            "range": max(values) - min(values),
            "conversations": len(both),
        }

    def _keep(self, name: str, facts: dict[str, Any]) -> None:
        self.result["steps"][name] = facts
        self.report()

    def report(self) -> None:
        """Print what is known, and write it."""
        line = json.dumps(self.result)
        print(line, flush=True)
        if self.options.out:
            self.options.out.write_text(line + "\n", encoding="utf-8")

    def tidy(self) -> None:
        """Give free memory back."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()


def _joined(blocks: Sequence[Sequence[Pair]]) -> list[Pair]:
    return [pair for block in blocks for pair in block]


def classifier(gpu: Gpu, left: int) -> None:
    """All ways to score with a classifier; `left` steps are to share the time."""
    gpu.step("classifier, ours", partial(gpu.ours, gpu.load(causal=False), False), left)
    model = gpu.model(causal=False)
    cost = flops.cost_of(model)

    def step(name: str, way: padded.Way, left: int, change: Callable[[Any], Any] = lambda model: model) -> None:
        gpu.step(f"classifier, {name}", lambda pairs: _plain([(change(model), cost)], way, False, pairs), left)

    step("sorted", padded.sorted_batches, left - 1)
    step("one by one", padded.alone, left - 2)
    step("reference", padded.reference_batches, left - 3, _half)
    if gpu.cuda and importlib.util.find_spec("bitsandbytes"):
        step("reference 8-bit", padded.reference_batches, left - 4, padded.quantised)
    for name in ("ours", "sorted", "reference", "reference 8-bit"):
        gpu.difference(f"classifier, {name}", "classifier, one by one")
    for name in ("sorted", "reference"):
        gpu.difference("classifier, ours", f"classifier, {name}")


def implicit(gpu: Gpu, left: int) -> None:
    """All ways to score with a policy and the model that it was tuned from."""
    policy, base = gpu.load(causal=True), gpu.load(causal=True, seed=1)
    gpu.step("dpo, ours", lambda pairs: _less(gpu.ours(policy, True, pairs), gpu.ours(base, True, pairs)), left)
    gpu.step("dpo, ours, second policy", partial(gpu.ours, policy, True), left - 1)
    models = [(model, flops.cost_of(model)) for model in (gpu.model(causal=True, seed=seed) for seed in (0, 1))]
    gpu.step("dpo, sorted", partial(_plain, models, padded.sorted_batches, True), left - 2)

    def reference(pairs: Sequence[Pair]) -> tuple[Scores, int]:
        return _plain([(_half(model), cost) for model, cost in models], padded.reference_batches, True, pairs)

    gpu.step("dpo, reference", reference, left - 3)
    for name in ("sorted", "reference"):
        gpu.difference("dpo, ours", f"dpo, {name}")


def _half(model: Any) -> Any:
    """In float16 on a GPU."""
    return model.half() if model.device.type == "cuda" else model


def _plain(
    models: Sequence[tuple[Any, flops.Cost]], way: padded.Way, causal: bool, pairs: Sequence[Pair]
) -> tuple[Scores, int]:
    """Scores in padded batches, of two models their difference; the operations without those of padding."""
    lengths = [len(row.ids) for pair in pairs for row in pair]
    logits = sum(len(row.ids) - row.prompt for pair in pairs for row in pair) if causal else 0
    attended = sum(map(packing.ends, lengths))
    made = [
        (padded.scores(model, pairs, way, causal), cost.of(sum(lengths), attended, logits)) for model, cost in models
    ]
    return _less(*made) if len(made) == 2 else made[0]


def _less(one: tuple[Scores, int], other: tuple[Scores, int]) -> tuple[Scores, int]:
    """Rewards of a policy, and the operations of both models."""
    return {key: value - other[0][key] for key, value in one[0].items()}, one[1] + other[1]


def summarise(result: dict[str, Any]) -> None:
    """The figures of docs/performance.md, each None where one of its steps failed."""
    steps = result["steps"]

    def times(one: str, other: str) -> float | None:
        above, below = (steps.get(name, {}).get("tokens_per_second") for name in (one, other))
        return above / below if above and below else None

    result["mfu"] = steps["classifier, ours"].get("mfu")
    for figure, kind, name in (
        ("against_reference", "classifier", "reference"),
        ("against_reference_8bit", "classifier", "reference 8-bit"),
        ("against_sorted", "classifier", "sorted"),
        ("dpo_against_reference", "dpo", "reference"),
        ("dpo_against_sorted", "dpo", "sorted"),
    ):
        result[figure] = times(f"{kind}, ours", f"{kind}, {name}")
    result["dpo_second_against_reference"] = times("dpo, ours, second policy", "dpo, reference")


def tokenizer(folder: Path) -> None:
    """A tokenizer of three tokens: the engine wants one, and nothing is tokenised."""
    from tokenizers import Tokenizer, models

    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = {token: number for number, token in enumerate(special.values())}
    Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")).save(str(folder / "tokenizer.json"))  # noqa: S106
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def main() -> int:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keeps the JSON that is printed")
    parser.add_argument("--seconds", type=float, default=420.0, help="for all steps together")
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=here, help="cuda where there is a GPU")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and a few short pairs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer(Path(folder))
        gpu = Gpu(options, Path(folder))
        for steps, left in ((classifier, 9), (implicit, 4)):
            try:
                steps(gpu, left)
            except Exception as error:  # a model that does not fit at all: what was measured stays
                gpu.result.setdefault("errors", []).append(f"{steps.__name__}: {type(error).__name__}: {error}"[:300])
            random_reward.MODELS.clear()
            gpu.tidy()
        summarise(gpu.result)
        gpu.report()
    return 0 if all("error" not in step for step in gpu.result["steps"].values()) and "errors" not in gpu.result else 1


if __name__ == "__main__":
    sys.exit(main())
