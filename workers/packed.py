"""A transformer body that computes its batches packed: no padding, and a shared beginning once.

To the head above it nothing changes: it gives tensors of shape [rows, longest] and receives hidden states of that
shape. Inside, the rows run as one sequence (`workers.packing`), each token with its own position; the attention
function below, registered with transformers, lets every conversation attend to its own path alone. Whether a model's
code bears this is not looked up but tried: `pack_body` compares both ways on a few tokens, and leaves the model as it
was where they differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from workers.errors import first_line
from workers.packing import Branch, Packed, pack

NAME = "packed"
"""The name of the attention function in transformers."""

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rotary embeddings that change with the longest sequence of a batch: such a model scores every row alone."""

PROBE = ((24, 0), (33, 20), (12, 0), (29, 26))
"""Length and shared beginning of the conversations that both ways are tried on."""
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""By dtype, the largest difference between both ways, relative to the largest hidden state."""

_PASS: ContextVar[Packed | None] = ContextVar("pass", default=None)
"""What the attention function computes now."""


class UnpackableError(Exception):
    """The model's code asks for something that a packed pass does not do."""


class PackedBody:
    """Stands in for the `forward` of a model's body, and gives it back to batches that nobody packed."""

    def __init__(self, body: Any) -> None:
        self.body, self._own = body, body.forward
        self._packed: Packed | None = None

    @contextmanager
    def holding(self, packed: Packed) -> Iterator[None]:
        """Inside, a batch of the shape of `packed` is computed as this pass; row by row it holds the same ids."""
        self._packed = packed
        try:
            yield
        finally:
            self._packed = None

    def forward(self, input_ids: Any = None, **inputs: Any) -> Any:
        """The body's output; `last_hidden_state` holds zeros where a row has no token."""
        packed = self._packed
        if packed is None or input_ids is None or tuple(input_ids.shape) != packed.shape:
            return self._own(input_ids=input_ids, **inputs)
        if inputs.get("output_hidden_states"):
            raise UnpackableError("its head reads the states of inner layers")
        output = self._run(packed)
        output.last_hidden_state = _unpacked(output.last_hidden_state[0], packed)
        return output

    def _run(self, packed: Packed) -> Any:
        import torch

        device = self.body.device
        ids, positions = (torch.tensor([values], device=device) for values in (packed.ids, packed.positions))
        token = _PASS.set(packed)
        try:
            return self._own(input_ids=ids, position_ids=positions, use_cache=False, return_dict=True)
        finally:
            _PASS.reset(token)


def pack_body(model: Any, dtype: str) -> tuple[PackedBody | None, str]:
    """The packed body of a model whose code bears it, and None with the reason where it does not."""
    import torch

    body = model.base_model
    if reason := _unfit(body):
        return None, reason
    _register()
    before, packed = body.config._attn_implementation, PackedBody(body)
    probe = pack(_probe(body))
    try:
        with torch.inference_mode():
            alone = [body(torch.tensor([row], device=body.device)).last_hidden_state[0] for row in _probe(body)]
            model.set_attn_implementation(NAME)
            together = _unpacked(packed._run(probe).last_hidden_state[0], probe)
        largest = max(state.abs().max().item() for state in alone)
        moved = max((both[: len(one)] - one).abs().max().item() for one, both in zip(alone, together, strict=True))
        reason = "" if moved <= TOLERANCE[dtype] * largest else "its states move when conversations share a pass"
    except Exception as error:  # whatever a model's code makes of inputs it was not written for
        reason = f"its code does not bear it: {type(error).__name__}: {first_line(error)}"
    if reason:
        model.set_attn_implementation(before)
        return None, reason
    body.forward = packed.forward
    return packed, ""


def needs_solitude(config: Any) -> bool:
    """Whether a score depends on the longest row of its batch, so that every row has to be alone."""
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [parameters, *parameters.values()] if isinstance(parameters, Mapping) else []
    return any(
        kind.get("rope_type", kind.get("type")) in LENGTH_DEPENDENT for kind in kinds if isinstance(kind, Mapping)
    )


def _unfit(body: Any) -> str:
    """Why a body cannot be packed, from what its class says of itself."""
    if not getattr(body, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if getattr(body.config, "is_encoder_decoder", False):
        return "it is an encoder and decoder"
    if "position_ids" not in inspect.signature(body.forward).parameters:
        return "it does not take position ids"
    return ""


def _probe(body: Any) -> list[tuple[int, ...]]:
    """Token ids that need no tokenizer: beginnings repeat those of the row before."""
    vocabulary = max(body.config.get_text_config().vocab_size - 1, 1)
    rows: list[tuple[int, ...]] = []
    for number, (length, shared) in enumerate(PROBE):
        own = [(7919 * (number + 1) + 104729 * place) % vocabulary for place in range(length - shared)]
        rows.append((*(rows[-1][:shared] if rows else ()), *own))
    return rows


def _unpacked(states: Any, packed: Packed) -> Any:
    """[tokens, size] to [rows, longest, size]."""
    import torch

    result = states.new_zeros(*packed.shape, states.shape[-1])
    for branch in packed.branches:
        result[branch.row, : branch.length] = torch.cat([states[start:stop] for start, stop in branch.path])
    return result


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(*, local_size: int | None = None, **options: Any) -> Any:
    """None for a packed pass, whose attention needs no mask; `local_size` is the width of a window or chunk."""
    from transformers.masking_utils import sdpa_mask

    packed = _PASS.get()
    if packed is None:
        return sdpa_mask(local_size=local_size, **options)
    if local_size is not None and packed.shape[1] > local_size:
        raise UnpackableError("a conversation is longer than the attention's window")
    return None


def _attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **options: Any) -> Any:
    """Shapes [1, heads, tokens, size], keys and values with as many heads or a divisor; to [1, tokens, heads, size]."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    packed = _PASS.get()
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    _refuse(module, options)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    scale = options.get("scaling")
    found = [_branch(branch, query, key, value, scale) for branch in packed.branches if branch.new[0] < branch.new[1]]
    return torch.cat(found, 2).transpose(1, 2).contiguous(), None


def _branch(branch: Branch, query: Any, key: Any, value: Any, scale: float | None) -> Any:
    """What a conversation's own tokens make of its path."""
    import torch
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.functional import scaled_dot_product_attention

    mine = query[:, :, slice(*branch.new)]
    keys, values = (torch.cat([states[:, :, start:stop] for start, stop in branch.path], 2) for states in (key, value))
    if branch.path == (branch.new,):
        return scaled_dot_product_attention(mine, keys, values, is_causal=True, scale=scale)
    mask: Any = causal_lower_right(mine.shape[2], keys.shape[2])
    return scaled_dot_product_attention(mine, keys, values, attn_mask=mask, scale=scale)


def _refuse(module: Any, options: Mapping[str, Any]) -> None:
    """What this attention does not compute must not be left out in silence."""
    if not getattr(module, "is_causal", True) or options.get("is_causal") is False:
        raise UnpackableError("its attention looks ahead")
    if any(options.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise UnpackableError("its attention is not the plain one")
