"""The reference's command under a clock; runs in its own environment, beside `run_reference.py`.

    python reference_clock.py RUN_REFERENCE.PY CLOCK.json THE REFERENCE'S OWN FLAGS

Its arithmetic stays as it is: a clock is read before and after the calls of its scoring loop, and the tokens that it
hands to its models are counted. Scoring lasts from the beginning of the first call to the end of the last one, so what
its loop does between them belongs to it: tokens of classifiers are made there, those of DPO before.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Clock:
    """Seconds of the scoring loop, and the tokens it computed, padding included."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last = 0.0
        self.tokens = 0
        self._counted: set[int] = set()

    def around(self, call: Callable[..., Any], models: tuple[str, ...]) -> Callable[..., Any]:
        """`call`, timed; `models` are the attributes of its object that hold the models it runs."""

        def timed(owner: Any, *arguments: Any, **options: Any) -> Any:
            for name in models:
                self._count(getattr(owner, name, None))
            self.first = time.perf_counter() if self.first is None else self.first
            try:
                return call(owner, *arguments, **options)
            finally:
                self.last = time.perf_counter()

        return timed

    def _count(self, model: Any) -> None:
        if model is not None and id(model) not in self._counted:
            self._counted.add(id(model))
            model.register_forward_pre_hook(self._add, with_kwargs=True)

    def _add(self, _: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.tokens += (arguments[0] if arguments else options["input_ids"]).numel()


def main() -> None:
    """Run the reference, then write what the clock saw."""
    runner, clock_file = map(Path, sys.argv[1:3])
    sys.path.insert(0, str(runner.parent))
    sys.argv = [str(runner), *sys.argv[3:]]

    import torch
    import transformers
    from rewardbench.dpo import DPOInference  # type: ignore[import-not-found]
    from rewardbench.models.pipeline import RewardBenchPipeline  # type: ignore[import-not-found]

    clock = Clock()
    RewardBenchPipeline.__call__ = clock.around(RewardBenchPipeline.__call__, ("model",))
    DPOInference.inference_step = clock.around(DPOInference.inference_step, ("model", "ref_model"))
    importlib.import_module(runner.stem).run_inside()
    if clock.first is None:
        raise SystemExit("the reference scored nothing")
    facts = {
        "scoring": clock.last - clock.first,
        "computed_tokens": clock.tokens,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    clock_file.write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
