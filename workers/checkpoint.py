"""A checkpoint on disk or on the hub: configuration, limits, pad id, weights, the tensors of a head."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from workers import plugins
from workers.errors import ModelError, boundary
from workers.protocol import ModelSpec
from workers.render import Renderer

ARCHITECTURES = {
    "reward": ("Classification", "Reward"),
    "logprob": ("CausalLM", "LMHead"),
    "generate": ("CausalLM", "LMHead", "ConditionalGeneration"),
}
"""By kind of request, what the name of a checkpoint's architecture holds."""

NAMES = {
    "reward": "a reward model (sequence classifier)",
    "logprob": "a causal language model",
    "generate": "a causal language model",
}
CLASSES = {
    "reward": "AutoModelForSequenceClassification",
    "logprob": "AutoModelForCausalLM",
    "generate": "AutoModelForCausalLM",
}
"""By kind of request, the class of transformers that loads such a checkpoint."""

_LAST: list[tuple[ModelSpec, Renderer]] = []
"""The renderer that was made last, and whose it is."""


def hook(spec: ModelSpec, name: str) -> Any:
    """What the model's family brings for the transformers engine under that name, None where it brings nothing."""
    return getattr(plugins.resolve("workers.families", spec.family), name, None)


def config_of(spec: ModelSpec, kind: str) -> Any:
    """The checkpoint's configuration; `ModelError` where its architecture cannot answer requests of that kind."""
    from transformers import AutoConfig

    with boundary(ModelError, f"model {spec.name!r}: cannot read the configuration of {spec.path}"):
        if own := hook(spec, "config"):
            return own(spec)
        config = AutoConfig.from_pretrained(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    architectures = config.architectures or []
    fits = any(part in name for name in architectures for part in ARCHITECTURES.get(kind, ()))
    if architectures and not fits and hook(spec, "head") is None:
        raise ModelError(
            f"model {spec.name!r}: {spec.path} is a {architectures[0]}, not {NAMES[kind]}; "
            f"set models.{spec.name}.family to what it is"
        )
    return config


def raw_config(spec: ModelSpec) -> Mapping[str, Any]:
    """The values of `config.json` as they stand there: transformers drops or renames some.

    `ModelError` where the checkpoint has no such file.
    """
    return _values(spec.path, spec.revision, spec.name)


@lru_cache(maxsize=8)
def _values(path: str, revision: str | None, name: str) -> Mapping[str, Any]:
    from transformers.utils.hub import cached_file

    with boundary(ModelError, f"model {name!r}: cannot read the configuration of {path}"):
        file = Path(str(cached_file(path, "config.json", revision=revision)))
        found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the language model."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def renderer_of(spec: ModelSpec, config: Any) -> Renderer:
    """The renderer, limited to the positions that the model can tell apart.

    A process has one model, which is asked for first by the preflight and then by the engine: the last one is kept,
    with what it rendered ahead.
    """
    for known, renderer in _LAST:
        if known == spec:
            return renderer
    text = text_config(config)
    context = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    made = Renderer(spec, context and context - first_position(text), hook(spec, "render"))
    _LAST[:] = [(spec, made)]
    return made


def first_position(text: Any) -> int:
    """The position of a model's first token: RoBERTa and its kin begin behind their pad id."""
    late = getattr(text, "model_type", "") in ("roberta", "xlm-roberta", "camembert")
    return text.pad_token_id + 1 if late else 0


def pad_id_of(config: Any, tokenizer: Any) -> int:
    """The pad id of the model, else the tokenizer's, else EOS."""
    if tokenizer.pad_token_id is None:
        candidates = [tokenizer.eos_token_id]
    else:
        candidates = [text_config(config).pad_token_id, tokenizer.pad_token_id]
    pad = next((candidate for candidate in candidates if candidate is not None), None)
    if pad is None:
        raise ModelError("the tokenizer has neither a pad token nor EOS; add a pad token to tokenizer_config.json")
    return int(pad)


def weights_of(spec: ModelSpec, config: Any, kind: str) -> Any:
    """The model in `spec.dtype`; weights that the checkpoint lacks are an error, not a random start."""
    return load(spec, config, CLASSES[kind], NAMES[kind])


def load(
    spec: ModelSpec,
    config: Any,
    auto: str,
    what: str,
    renames: Mapping[str, str] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Any:
    """The weights of a checkpoint in a class of transformers, in `spec.dtype` and eval mode.

    `renames` maps patterns of the checkpoint's parameter names to the class's; `state` holds the tensors themselves by
    the class's names, where the checkpoint packs them otherwise. Parameters of the file that the class does not have
    are left to `tensors`; `ModelError` where the file lacks one that the class has: then the checkpoint is not `what`.
    """
    import torch
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    arguments: dict[str, Any] = {"attn_implementation": spec.attention} if spec.attention else {}
    if renames:
        arguments["key_mapping"] = dict(renames)
    if state is not None:
        arguments["state_dict"] = dict(state)
    with boundary(ModelError, f"model {spec.name!r}: cannot load {spec.path}"):
        model, info = getattr(transformers, auto).from_pretrained(
            spec.path if state is None else None,
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
        raise _lacks(spec, what, missing)
    return model.eval()


def tensors(
    spec: ModelSpec, prefix: str, what: str, file: str | None = None, *, as_stored: bool = False, required: bool = True
) -> dict[str, Any]:
    """A checkpoint's own tensors whose names begin with `prefix`, by name, on the CPU in float32.

    They are sought in the weights, or in one other `file` of the checkpoint: safetensors, or PyTorch's files where
    `allow_pickle` permits (tensors only, nothing is executed). `as_stored` leaves their dtype as it is. `ModelError`
    where there is none, unless they are not `required`: then the checkpoint is not `what`.
    """
    found: dict[str, Any] = {}
    with boundary(ModelError, f"model {spec.name!r}: cannot read the tensors of {spec.path}"):
        for path in _files(spec, prefix) if file is None else _beside(spec, file, what):
            found |= _read(path, prefix)
    if not found and required:
        raise _lacks(spec, what, [f"{prefix}*"])
    return found if as_stored else {name: tensor.float() for name, tensor in found.items()}


def file_of(spec: ModelSpec, name: str) -> str | None:
    """The path of one file of the checkpoint, downloaded where it is on the hub; None where there is none."""
    from transformers.utils.hub import cached_file

    found = cached_file(spec.path, name, revision=spec.revision, _raise_exceptions_for_missing_entries=False)
    return str(found) if found is not None else None


def _beside(spec: ModelSpec, file: str, what: str) -> list[str]:
    """The path of a file that holds a head beside the weights; a pickled one needs permission."""
    if not file.endswith(".safetensors") and not spec.allow_pickle:
        raise ModelError(
            f"model {spec.name!r}: {file} of {spec.path} is pickled; set models.{spec.name}.allow_pickle=true "
            "to read it (tensors only, nothing is executed)"
        )
    path = file_of(spec, file)
    if path is None:
        raise ModelError(f"model {spec.name!r}: {spec.path} is not {what}: it has no {file}")
    return [path]


def _files(spec: ModelSpec, prefix: str) -> list[str]:
    """The files that hold tensors of that prefix."""
    names = ("model.safetensors", *(("pytorch_model.bin",) if spec.allow_pickle else ()))
    for name in names:
        if (index := file_of(spec, f"{name}.index.json")) is not None:
            where = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
            parts = sorted({part for key, part in where.items() if key.startswith(prefix)})
            return [path for part in parts if (path := file_of(spec, part)) is not None]
        if (whole := file_of(spec, name)) is not None:
            return [whole]
    return []


def _read(file: str, prefix: str) -> dict[str, Any]:
    if file.endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys() if name.startswith(prefix)}  # noqa: SIM118
    import torch

    held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return {name: tensor for name, tensor in held.items() if name.startswith(prefix)}


def _lacks(spec: ModelSpec, what: str, missing: Sequence[str]) -> ModelError:
    return ModelError(f"model {spec.name!r}: {spec.path} is not {what}: it has no weights for {', '.join(missing[:3])}")
