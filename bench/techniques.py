"""The engine in this process, with one technique switched off: seconds, work, scores, memory as one line of JSON.

    python -m bench.techniques --checkpoint DIR --family scalar --rows FILE --off packing

A process for each variant, so that none sees what another left behind. `bench.throughput` starts them in turn.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator.pin import pin_model
from workers import packed, packing, readout
from workers.engines import transformers as engine
from workers.families import dpo, scalar
from workers.protocol import Message, Output, Request
from workers.vocabulary import Vocabulary

MATMUL_REPEATS = 5
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def no_sharing(entry: dict[str, Any]) -> None:
    """Every conversation computes its own beginning."""
    _replace(packing, "MIN_SHARED", sys.maxsize)


def no_packing(entry: dict[str, Any]) -> None:
    """Padded batches of like lengths, as many tokens in each as a packed pass may have."""
    _replace(packed, "pack_body", lambda *_: (None, "switched off"))
    entry["token_budget"] = engine.CPU_TOKENS


def alone(entry: dict[str, Any]) -> None:
    """Each conversation in a pass of its own."""
    entry["numerics"] = "exact"


def whole_layer(entry: dict[str, Any]) -> None:
    """The last layer for every token, read or not."""
    _replace(readout, "narrow", lambda *_: (None, "switched off"))


def all_logits(entry: dict[str, Any]) -> None:
    """The full vocabulary for every token, of the prompt too, and for a conversation at once."""
    own = Vocabulary.logprobs

    def logprobs(self: Any, hidden: Any, ids: Any, index: Any, places: Any) -> Any:
        for row in range(len(hidden)):
            self.logits(hidden[row, : places[index == row].max()]).float().log_softmax(-1)
        return own(self, hidden, ids, index, places)

    _replace(Vocabulary, "logprobs", logprobs)


def no_logits(entry: dict[str, Any]) -> None:
    """Hidden states only, no log-probabilities: the memory of weights and activations."""
    _replace(Vocabulary, "logprobs", lambda *given: torch.zeros(len(given[-1]), dtype=torch.float64))


SWITCHES: dict[str, Callable[[dict[str, Any]], None]] = {
    "nothing": lambda entry: None,
    "sharing": no_sharing,
    "packing": no_packing,
    "last layer": whole_layer,
    "batching": alone,
    "completion-only logits": all_logits,
    "logits": no_logits,
}
"""By what they switch off: each changes the engine's modules in this process, or the model's entry."""


def _replace(owner: Any, name: str, value: Any) -> None:
    getattr(owner, name)  # what is no longer there must not be switched off in silence
    setattr(owner, name, value)


@dataclass
class Rates:
    """FLOP/s of large float32 matrices by library: the best of several tries and sizes, and of all tries together.

    The best is what the processor can do undisturbed; all together are, as scoring is, whatever the machine's other
    users left.
    """

    best: dict[str, float]
    together: dict[str, float]


def matmul_rates(sizes: Sequence[int]) -> Rates:
    """Those of `torch.mm` (MKL in the builds for x86, not the fastest on every processor) and of torch's oneDNN."""
    ways: dict[str, Callable[[Any, Any], Any]] = {"torch.mm": torch.mm}
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        ways["oneDNN"] = lambda one, other: torch.ops.mkldnn._linear_pointwise(one, other, None, "none", [], "")
    took: dict[str, list[tuple[int, float]]] = {name: [] for name in ways}
    with torch.inference_mode():
        for size in sizes:
            one, other = torch.rand(size, size), torch.rand(size, size)
            for name in [*ways] * MATMUL_REPEATS:
                started = time.perf_counter()
                ways[name](one, other)
                took[name].append((2 * size**3, time.perf_counter() - started))
    best = {name: max(work / seconds for work, seconds in tries) for name, tries in took.items()}
    sums = {name: [sum(column) for column in zip(*tries, strict=True)] for name, tries in took.items()}
    return Rates(best, {name: work / seconds for name, (work, seconds) in sums.items()})


def asked(family: str, rows: list[dict[str, Any]], model: Any) -> list[Request]:
    """What the family asks of its first stream: two requests a row, chosen before rejected."""
    wanted = (scalar if family == "scalar" else dpo).wanted
    pairs = [wanted(model, (Message("user", row["prompt"]),), (row["chosen"], row["rejected"])) for row in rows]
    return [request for pair in pairs for stream, request in pair if stream == 0]


def resident(name: str) -> int:
    """`VmRSS` or `VmHWM`, the highest of it, in bytes."""
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Load, warm up on the first pair, score all rows once; bytes are those above a process that has only imported."""
    with options.rows.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    entry: dict[str, Any] = {"path": str(options.checkpoint), "family": options.family, "protocol": options.protocol}
    if options.family == "dpo":
        entry["scoring"] = {"reference_free": "sum"}
    SWITCHES[options.off](entry)
    model = pin_model("bench", entry, cuda=False)
    before = matmul_rates(options.matmul)
    imported, started = resident("VmRSS"), time.perf_counter()
    loaded = engine.load(model.streams[0])
    load = time.perf_counter() - started
    requests = asked(options.family, rows, model)
    loaded.run(requests[:2])
    gc.collect()
    CLEAR.write_text("5", encoding="ascii")
    started = time.perf_counter()
    outputs = loaded.run(requests)
    seconds = time.perf_counter() - started
    peak = resident("VmHWM") - imported
    rates = [before, matmul_rates(options.matmul)]
    if unscored := [output for output in outputs if not isinstance(output, Output)]:
        raise RuntimeError(f"{len(unscored)} conversations were not scored: {unscored[0]}")
    return {
        "scoring": seconds,
        "load": load,
        "matmul": [rate.best for rate in rates],
        "matmul_together": [rate.together for rate in rates],
        "peak_bytes": peak,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "tokens": sum(output.num_tokens for output in outputs if isinstance(output, Output)),
        "details": loaded.details(),
        "scores": [output.value for output in outputs if isinstance(output, Output)],
    }


def main() -> None:
    """Print the line; whatever else writes to standard output goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--family", choices=("scalar", "dpo"), default="scalar")
    parser.add_argument("--protocol", choices=("own", "reference"), default="own")
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines with prompt, chosen, rejected")
    parser.add_argument("--off", choices=sorted(SWITCHES), default="nothing")
    parser.add_argument(
        "--matmul", type=int, nargs="+", default=[2048, 4096], help="sizes of the matrices to compare with"
    )
    options = parser.parse_args()
    with redirect_stdout(sys.stderr):
        facts = measure(options)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
