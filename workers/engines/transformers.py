"""Sequence classifiers on torch and transformers.

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
from collections.abc import Mapping, Sequence
from typing import Any

from workers import lint as preflight
from workers.batching import batches, halves
from workers.errors import ModelError, OutOfMemory, boundary
from workers.protocol import Finding, ModelSpec, Output, Request
from workers.render import Rendered, Renderer

VERSION = "1"
PACKAGES = ("torch", "transformers", "tokenizers")
NEEDS_WEIGHTS = True

GPU_TOKENS, ALONE = 8192, 1
"""Padded tokens in a forward pass: a budget of one token gives every conversation a pass of its own."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class TransformersEngine:
    """A checkpoint in memory, on the GPU where there is one and `gpus` is not 0."""

    def __init__(self, spec: ModelSpec) -> None:
        import torch

        self._spec = spec
        self._config = _config(spec)
        self._renderer = _renderer(spec, self._config)
        self._device = torch.device("cuda" if spec.gpus and torch.cuda.is_available() else "cpu")
        self._model: Any = _classifier(spec, self._config).to(self._device)
        self._pad = _pad_id(self._config, self._renderer.tokenizer)
        _text_config(self._model.config).pad_token_id = self._pad
        self._label = _label(spec, self._model.config.num_labels)
        self._budget = spec.token_budget or (GPU_TOKENS if self._device.type == "cuda" else ALONE)

    def run(self, requests: Sequence[Request]) -> list[Output]:
        """One output a request, in order; `OutOfMemory` where a single conversation does not fit."""
        rendered = self._renderer.render(requests)
        scores: dict[int, float] = {}
        todo = batches([len(row.ids) for row in rendered], self._budget)
        while todo:
            batch = todo.pop(0)
            values = self._forward([rendered[position] for position in batch])
            if values is not None:
                scores.update(zip(batch, values, strict=True))
            elif len(batch) > 1:
                todo[:0] = halves(batch)
                self._budget = max(1, self._budget // 2)
            else:
                size = len(rendered[batch[0]].ids)
                raise OutOfMemory(
                    f"model {self._spec.name!r}: one conversation of {size} tokens does not fit in memory"
                )
        return [_output(row, scores[position]) for position, row in enumerate(rendered)]

    def _forward(self, rows: Sequence[Rendered]) -> list[float] | None:
        """The scores of one batch, None when it does not fit into memory."""
        import torch

        try:
            with torch.inference_mode():
                logits = self._model(**self._inputs(rows)).logits
                scores: list[float] = logits[:, self._label].float().cpu().tolist()
                return scores
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

    def details(self) -> dict[str, str]:
        """Device, kernel, dtype and read-out of this engine."""
        import torch

        device = torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu"
        return {
            "device": device,
            "attention": str(getattr(self._model.config, "_attn_implementation", "unknown")),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "architecture": type(self._model).__name__,
            "parameters": str(self._model.num_parameters()),
        }

    def close(self) -> None:
        """Drop the weights."""
        import torch

        self._model = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def load(spec: ModelSpec) -> TransformersEngine:
    """An engine, or `ModelError` for a checkpoint that is no sequence classifier."""
    return TransformersEngine(spec)


def lint(spec: ModelSpec, requests: Sequence[Request]) -> list[Finding]:
    """Findings on the rendered tokens; needs the tokenizer and the configuration, no weights."""
    config = _config(spec)
    renderer = _renderer(spec, config)
    findings = preflight.lint(renderer, requests, getattr(_text_config(config), "vocab_size", None))
    if _pad_id(config, renderer.tokenizer) == renderer.tokenizer.eos_token_id:
        message = (
            "the pad token is EOS, so the score is read before a trailing EOS (as transformers and the reference do)"
        )
        findings.append(Finding("pad-is-eos", "warning", message))
    return findings


def token_hashes(spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
    """The token hash of each request, from the tokenizer alone."""
    return [row.hash for row in _renderer(spec, _config(spec)).render(requests)]


def _output(row: Rendered, score: float) -> Output:
    return Output(score, len(row.ids), row.truncated, row.hash)


def _config(spec: ModelSpec) -> Any:
    """The checkpoint's configuration, checked to be a sequence classifier's."""
    from transformers import AutoConfig

    with boundary(ModelError, f"model {spec.name!r}: cannot read the configuration of {spec.path}"):
        config = AutoConfig.from_pretrained(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    architectures = config.architectures or []
    if architectures and not any("Classification" in name or "Reward" in name for name in architectures):
        raise ModelError(
            f"model {spec.name!r}: {spec.path} is a {architectures[0]}, not a reward model (sequence classifier); "
            f"set models.{spec.name}.family to what it is"
        )
    return config


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _renderer(spec: ModelSpec, config: Any) -> Renderer:
    """The renderer, limited to the positions that the model can tell apart."""
    text = _text_config(config)
    context = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if context and getattr(text, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
        context -= text.pad_token_id + 1  # their first position is pad_token_id + 1
    return Renderer(spec, context)


def _pad_id(config: Any, tokenizer: Any) -> int:
    """The pad id of the model, else the tokenizer's, else EOS."""
    candidates = (
        (tokenizer.eos_token_id, None)
        if tokenizer.pad_token_id is None
        else (
            _text_config(config).pad_token_id,
            tokenizer.pad_token_id,
        )
    )
    pad = next((candidate for candidate in candidates if candidate is not None), None)
    if pad is None:
        raise ModelError("the tokenizer has neither a pad token nor EOS; add a pad token to tokenizer_config.json")
    return int(pad)


def _classifier(spec: ModelSpec, config: Any) -> Any:
    """The weights in `spec.dtype`; a head that the checkpoint lacks is an error, not a random start."""
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    arguments: Mapping[str, Any] = {"attn_implementation": spec.attention} if spec.attention else {}
    with boundary(ModelError, f"model {spec.name!r}: cannot load {spec.path}"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            spec.path,
            revision=spec.revision,
            config=config,
            dtype=getattr(torch, spec.dtype),
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=None if spec.allow_pickle else True,
            output_loading_info=True,
            **arguments,
        )
    missing = sorted([*info["missing_keys"], *(str(key) for key in info.get("mismatched_keys", []))])
    if missing:
        raise ModelError(
            f"model {spec.name!r}: {spec.path} is not a reward model: it has no weights for {', '.join(missing[:3])}"
        )
    return model.eval()


def _label(spec: ModelSpec, labels: int) -> int:
    """The column of the logits that is the score."""
    label = spec.options.get("label", 0 if labels == 1 else None)
    if not isinstance(label, int) or not 0 <= label < labels:
        raise ModelError(
            f"model {spec.name!r}: its head has {labels} labels; "
            f"set models.{spec.name}.options.label (0 to {labels - 1})"
        )
    return label
