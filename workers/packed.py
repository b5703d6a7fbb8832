"""A transformer body that computes its batches packed: no padding, and a shared beginning once.

To the head above it nothing changes: it gives tensors of shape [rows, longest] and receives hidden states of that
shape. Inside, the rows run as one sequence (`workers.packing`), each token with its own position; the attention
function below, registered with transformers, lets every conversation attend to its own path alone. A body that looks
ahead, an encoder, is packed without sharing. Whether a model's code bears this is not looked up but tried: `pack_body`
compares both ways on a few tokens, and leaves the model as it was where they differ.

On a GPU one call of torch's variable-length kernel serves all conversations of a layer; elsewhere, and where that
kernel does not bear the dtype or the size of the heads, each conversation has a call of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from workers.checkpoint import first_position
from workers.errors import first_line
from workers.packing import Branch, Packed, pack, places
from workers.readout import TOLERANCE, read, reading

NAME = "packed"
"""The name of the attention function in transformers."""

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rotary embeddings that change with the longest sequence of a batch: such a model scores every row alone."""

KERNELS = ("varlen", "each")
"""How attention is computed: all conversations in one call of a variable-length kernel, or a call for each."""

PROBE = ((24, 0), (33, 20), (12, 0), (29, 26))
"""Length and shared beginning of the conversations that both ways are tried on."""
PROBE_IDS = 1000
"""Token ids below this are tried."""

_PASS: ContextVar[_Pass | None] = ContextVar("pass", default=None)
"""What the attention function computes now."""


class UnpackableError(Exception):
    """The model's code asks for something that a packed pass does not do."""


@dataclass(frozen=True)
class Way:
    """How a body is packed: whether beginnings are shared, and the attention's kernel."""

    sharing: bool
    kernel: str


class _Pass:
    """A pass on a device: its plan, and what the variable-length kernel is told of it, the same in every layer."""

    def __init__(self, packed: Packed, way: Way, device: Any) -> None:
        self.packed, self.way, self._device = packed, way, device

    @cached_property
    def places(self) -> Any:
        """The places of all paths, one behind the other; None where every conversation has its own tokens alone."""
        import torch

        paths = [branch.path for branch in self.packed.branches]
        if all(path == (branch.new,) for path, branch in zip(paths, self.packed.branches, strict=True)):
            return None
        return torch.cat([torch.arange(*found, device=self._device) for path in paths for found in path])

    @cached_property
    def ends(self) -> tuple[Any, Any, int, int]:
        """Where each conversation's queries and keys end, cumulative, and how many there are at most."""
        import torch

        queries = [branch.new[1] - branch.new[0] for branch in self.packed.branches]
        keys = [branch.length for branch in self.packed.branches]
        sums = [
            torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=self._device) for counts in (queries, keys)
        ]
        return sums[0], sums[1], max(queries), max(keys)


class PackedBody:
    """Stands in for the `forward` of a model's body, and gives it back to batches that nobody packed."""

    def __init__(self, body: Any, way: Way) -> None:
        self.body, self.way, self._own = body, way, body.forward
        self._first = first_position(body.config.get_text_config())
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
        positions = read()
        with reading(positions and [places(packed, positions)]):
            output = self.run(packed, inputs.get("token_type_ids"))
        output.last_hidden_state = unpacked(output.last_hidden_state[0], packed)
        if getattr(output, "pooler_output", None) is not None:
            output.pooler_output = self.body.pooler(output.last_hidden_state)
        return output

    def run(self, packed: Packed, type_ids: Any = None) -> Any:
        """The body's output for a pass; `type_ids` has shape [rows, longest]."""
        import torch

        device = self.body.device
        ids, positions = (torch.tensor([values], device=device) for values in (packed.ids, packed.positions))
        more = {}
        if type_ids is not None:
            rows = [branch.row for branch in packed.branches for _ in range(*branch.new)]
            more["token_type_ids"] = type_ids[torch.tensor(rows, device=device), positions]
        token = _PASS.set(_Pass(packed, self.way, device))
        try:
            return self._own(
                input_ids=ids, position_ids=positions + self._first, use_cache=False, return_dict=True, **more
            )
        finally:
            _PASS.reset(token)


def pack_body(model: Any, dtype: str) -> tuple[PackedBody | None, str]:
    """The packed body of a model whose code bears it, and None with the reason where it does not."""
    body = model.base_model
    if reason := _unfit(body):
        return None, reason
    _register()
    before = body.config._attn_implementation
    alone = _alone(body)
    reasons = []
    for way in (Way(sharing, kernel) for kernel in _kernels(body) for sharing in (True, False)):
        packed = PackedBody(body, way)
        model.set_attn_implementation(NAME)
        if not (reason := _differs(packed, alone, TOLERANCE[dtype])):
            body.forward = packed.forward
            return packed, ""
        reasons.append(reason)
        model.set_attn_implementation(before)
    return None, reasons[-1]


def _kernels(body: Any) -> tuple[str, ...]:
    """The kernels worth trying on the body's device."""
    return KERNELS if body.device.type == "cuda" else KERNELS[1:]


def _alone(body: Any) -> list[Any]:
    """The states of the probe's conversations, each by itself."""
    import torch

    with torch.inference_mode():
        return [body(torch.tensor([row], device=body.device)).last_hidden_state[0] for row in _probe(body)]


def _differs(packed: PackedBody, alone: Sequence[Any], tolerance: float) -> str:
    """Why a packed pass does not give the states of conversations alone; empty where it does."""
    import torch

    plan = pack(_probe(packed.body), sharing=packed.way.sharing)
    try:
        with torch.inference_mode():
            together = unpacked(packed.run(plan).last_hidden_state[0], plan)
    except Exception as error:  # whatever a model's code makes of inputs it was not written for
        return f"its code does not bear it: {type(error).__name__}: {first_line(error)}"
    largest = max(state.abs().max().item() for state in alone)
    moved = max((both[: len(one)] - one).abs().max().item() for one, both in zip(alone, together, strict=True))
    return "" if moved <= tolerance * largest else "its states move when conversations share a pass"


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
    """Token ids that need no tokenizer, none of them the pad id: beginnings repeat those of the row before."""
    config = body.config.get_text_config()
    known = [token for token in range(min(config.vocab_size, PROBE_IDS)) if token != config.pad_token_id]
    rows: list[tuple[int, ...]] = []
    for number, (length, shared) in enumerate(PROBE):
        own = [known[(7919 * (number + 1) + 104729 * place) % len(known)] for place in range(length - shared)]
        rows.append((*(rows[-1][:shared] if rows else ()), *own))
    return rows


def unpacked(states: Any, packed: Packed) -> Any:
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

    held = _PASS.get()
    if held is None:
        return sdpa_mask(local_size=local_size, **options)
    if local_size is not None and held.packed.shape[1] > local_size:
        raise UnpackableError("a conversation is longer than the attention's window")
    return None


def _attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **options: Any) -> Any:
    """Shapes [1, heads, tokens, size], keys and values with as many heads or a divisor; to [1, tokens, heads, size]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    held = _PASS.get()
    if held is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    causal = getattr(module, "is_causal", True) and options.get("is_causal") is not False
    if held.way.sharing and not causal:
        raise UnpackableError("its attention looks ahead")
    if any(options.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise UnpackableError("its attention is not the plain one")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    kernel = _varlen if held.way.kernel == "varlen" else _each
    return kernel(held, query, key, value, options.get("scaling"), causal), None


def _varlen(held: _Pass, query: Any, key: Any, value: Any, scale: float | None, causal: bool) -> Any:
    """One call for all conversations; queries are aligned with the last of their keys."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    if held.places is not None:
        key, value = key[held.places], value[held.places]
    window = (-1, 0 if causal else -1)
    found: Any = varlen_attn(query, key, value, *held.ends, scale=scale, window_size=window)
    return found[None]


def _each(held: _Pass, query: Any, key: Any, value: Any, scale: float | None, causal: bool) -> Any:
    """A call for each conversation that has tokens of its own."""
    import torch

    mine = [branch for branch in held.packed.branches if branch.new[0] < branch.new[1]]
    found = [_branch(branch, query, key, value, scale, causal) for branch in mine]
    return torch.cat(found, 2).transpose(1, 2).contiguous()


def _branch(branch: Branch, query: Any, key: Any, value: Any, scale: float | None, causal: bool) -> Any:
    """What a conversation's own tokens make of its path."""
    import torch
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.functional import scaled_dot_product_attention

    mine = query[:, :, slice(*branch.new)]
    if branch.path == (branch.new,):
        keys, values = (states[:, :, slice(*branch.new)] for states in (key, value))
        return scaled_dot_product_attention(mine, keys, values, is_causal=causal, scale=scale)
    keys, values = (torch.cat([states[:, :, start:stop] for start, stop in branch.path], 2) for states in (key, value))
    mask: Any = causal_lower_right(mine.shape[2], keys.shape[2])
    return scaled_dot_product_attention(mine, keys, values, attn_mask=mask, scale=scale)
