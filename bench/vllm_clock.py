"""vLLM's offline `classify` under a clock; runs in vLLM's own environment, prints one line of JSON.

    python -m bench.vllm_clock --checkpoint DIR --rows FILE [--batched-tokens N] [--no-prefix-caching] [--eager]

All prompts go into one call as token ids, so making them is not in vLLM's seconds (it is in ours).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from bench.parity import requests
from orchestrator.pin import pin_model
from workers.checkpoint import config_of, renderer_of

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "4",
    "VLLM_CPU_OMP_THREADS_BIND": "0-1",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
}
"""Environment of vLLM, unless it is set: gigabytes of keys and values; both cores compute, none is kept back."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Load, warm up on other prompts, classify all rows once."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import torch
    import vllm

    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    spec = pin_model("bench", {"path": str(options.checkpoint), "family": "scalar"}, cuda=False).streams[0]
    renderer = renderer_of(spec, config_of(spec, "reward"))
    prompts: list[Any] = [{"prompt_token_ids": list(row.ids)} for row in renderer.render(requests(rows))]
    longest = max(len(prompt["prompt_token_ids"]) for prompt in prompts)
    started = time.perf_counter()
    model = vllm.LLM(
        model=str(options.checkpoint),
        runner="pooling",
        dtype="float32",
        max_model_len=longest,
        max_num_batched_tokens=max(longest, options.batched_tokens),
        enable_prefix_caching=not options.no_prefix_caching,
        enforce_eager=options.eager,
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    pooling = vllm.PoolingParams(use_activation=False)
    warm: list[Any] = [{"prompt_token_ids": prompt["prompt_token_ids"][::-1]} for prompt in prompts[:4]]
    model.classify(warm, pooling_params=pooling, use_tqdm=False)
    load = time.perf_counter() - started
    started = time.perf_counter()
    found = model.classify(prompts, pooling_params=pooling, use_tqdm=False)
    return {
        "scoring": time.perf_counter() - started,
        "load": load,
        "threads": torch.get_num_threads(),
        "vllm": vllm.__version__,
        "tokens": sum(len(prompt["prompt_token_ids"]) for prompt in prompts),
        "scores": [float(output.outputs.probs[0]) for output in found],
    }


def main() -> None:
    """Print the line; whatever else writes to standard output goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines with prompt, chosen, rejected")
    parser.add_argument("--batched-tokens", type=int, default=4096, help="tokens in a step of vLLM's scheduler")
    parser.add_argument("--no-prefix-caching", action="store_true")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    options = parser.parse_args()
    with redirect_stdout(sys.stderr):
        facts = measure(options)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
