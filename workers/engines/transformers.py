"""Sequence classifiers and log-probabilities on torch and transformers.

The truth is the score of one conversation alone, unpadded. On a CPU that is how each one is scored: padding costs
more there than a batch saves, and a score is bit-equal whatever its neighbours. On a GPU batches are padded on the
right with the model's own pad id and an attention mask, so that a causal model's earlier positions cannot see the
padding and transformers' read-out (the right-most token that is not the pad id) lands where it lands alone. Scores
are taken in float32.

The pad id follows the reference (rewardbench 0.1.4): a tokenizer without one gets EOS, a model without one gets
the tokenizer's. A pad id that is EOS moves the read-out before a trailing EOS; the lint says so.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

from workers import lint as preflight
from workers import plugins
from workers.batching import batches, halves
from workers.checkpoint import config_of, hook, pad_id_of, renderer_of, text_config
from workers.errors import ModelError, OutOfMemory
from workers.heads import HEADS, Answer, Head
from workers.protocol import Finding, Kind, ModelSpec, Output, Request
from workers.render import Rendered

VERSION = "1"
PACKAGES = ("torch", "transformers", "tokenizers")
NEEDS_WEIGHTS = True
KINDS: tuple[Kind, ...] = ("reward", "preference", "logprob", "generate")

GPU_TOKENS, ALONE = 8192, 1
"""Padded tokens in a forward pass: a budget of one token gives every conversation a pass of its own."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class TransformersEngine:
    """A checkpoint in memory, on the GPU where there is one and `gpus` is not 0."""

    def __init__(self, spec: ModelSpec) -> None:
        import torch

        kind = kind_of(spec)
        config = config_of(spec, kind)
        self._spec = spec
        self._renderer = renderer_of(spec, config)
        self._device = torch.device("cuda" if spec.gpus and torch.cuda.is_available() else "cpu")
        self._head: Head = _head(spec, config, kind)
        self._head.model.to(self._device)
        self._pad = pad_id_of(config, self._renderer.tokenizer)
        text_config(self._head.model.config).pad_token_id = self._pad
        self._budget = spec.token_budget or (ALONE if self._device.type == "cpu" or kind == "generate" else GPU_TOKENS)

    def run(self, requests: Sequence[Request]) -> list[Output]:
        """One output a request, in order; `OutOfMemory` where a single conversation does not fit."""
        rendered = self._renderer.render(requests)
        values: dict[int, Answer] = {}
        todo = batches([len(row.ids) for row in rendered], self._budget)
        while todo:
            batch = todo.pop(0)
            found = self._forward([rendered[position] for position in batch])
            if found is not None:
                values.update(zip(batch, found, strict=True))
            elif len(batch) > 1:
                todo[:0] = halves(batch)
                self._budget = max(1, self._budget // 2)
            else:
                size = len(rendered[batch[0]].ids)
                raise OutOfMemory(
                    f"model {self._spec.name!r}: one conversation of {size} tokens does not fit in memory"
                )
        return [self._output(row, values[position]) for position, row in enumerate(rendered)]

    def _forward(self, rows: Sequence[Rendered]) -> list[Answer] | None:
        """The values of one batch, None when it does not fit into memory."""
        import torch

        try:
            with torch.inference_mode():
                return self._head.read(rows, self._inputs(rows))
        except RuntimeError as error:
            if not any(phrase in str(error).lower() for phrase in OUT_OF_MEMORY):
                raise
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _inputs(self, rows: Sequence[Rendered]) -> dict[str, Any]:
        """Tensors of shape [rows, longest]; a row that needs no padding goes without a mask."""
        import torch

        longest = max(len(row.ids) for row in rows)
        padding = [longest - len(row.ids) for row in rows]
        columns: dict[str, list[list[int]]] = {
            "input_ids": [[*row.ids, *[self._pad] * pad] for row, pad in zip(rows, padding, strict=True)]
        }
        if any(padding):
            columns["attention_mask"] = [[1] * len(row.ids) + [0] * pad for row, pad in zip(rows, padding, strict=True)]
        if rows[0].type_ids is not None:
            columns["token_type_ids"] = [
                [*(row.type_ids or ()), *[0] * pad] for row, pad in zip(rows, padding, strict=True)
            ]
        return {name: torch.tensor(values, device=self._device) for name, values in columns.items()}

    def _output(self, row: Rendered, answer: Answer) -> Output:
        """Of generated tokens the special ones are left out."""
        written = answer.written
        text = None if written is None else self._renderer.tokenizer.decode(written, skip_special_tokens=True)
        return Output(answer.value, len(row.ids), row.truncated, row.hash, text, answer.extra)

    def details(self) -> dict[str, str]:
        """Device, kernel, dtype and read-out of this engine."""
        import torch

        model = self._head.model
        device = torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu"
        return {
            "device": device,
            "attention": str(getattr(model.config, "_attn_implementation", "unknown")),
            "dtype": str(model.dtype).removeprefix("torch."),
            "architecture": type(model).__name__,
            "parameters": str(model.num_parameters()),
        }

    def close(self) -> None:
        """Drop the weights."""
        import torch

        self._head.model = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def load(spec: ModelSpec) -> TransformersEngine:
    """An engine, or `ModelError` for a checkpoint that is not what the model's family needs."""
    return TransformersEngine(spec)


def lint(spec: ModelSpec, requests: Sequence[Request]) -> list[Finding]:
    """Findings on the rendered tokens; needs the tokenizer and the configuration, no weights."""
    kind = kind_of(spec)
    config = config_of(spec, kind)
    renderer = renderer_of(spec, config)
    findings = preflight.lint(renderer, requests, getattr(text_config(config), "vocab_size", None))
    if (
        kind == "reward"
        and hook(spec, "head") is None
        and pad_id_of(config, renderer.tokenizer) == renderer.tokenizer.eos_token_id
    ):
        message = (
            "the pad token is EOS, so the score is read before a trailing EOS (as transformers and the reference do)"
        )
        findings.append(Finding("pad-is-eos", "warning", message))
    return findings


def shown(spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
    """The token ids as text, special tokens included."""
    renderer = renderer_of(spec, config_of(spec, kind_of(spec)))
    return [str(renderer.tokenizer.decode(list(row.ids))) for row in renderer.render(requests)]


def token_hashes(spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
    """The token hash of each request, from the tokenizer alone."""
    return [row.hash for row in renderer_of(spec, config_of(spec, kind_of(spec))).render(requests)]


def kind_of(spec: ModelSpec) -> Kind:
    """The kind of request that the model's family asks."""
    kind: Kind = plugins.resolve("workers.families", spec.family).KIND
    return kind


def _head(spec: ModelSpec, config: Any, kind: Kind) -> Head:
    """The family's own head, or the general one for its kind of request."""
    make = hook(spec, "head") or HEADS.get(kind)
    if make is None:
        raise ModelError(f"model {spec.name!r}: family {spec.family!r} brings no head for {kind!r} requests")
    head: Head = make(spec, config)
    return head
