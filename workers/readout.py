"""The last layer, computed only where a head reads.

Behind the keys and values of the last layer no position sees another any more. Of a conversation whose score is read at
one token, the other tokens' queries there, what attention makes of them, and the feed-forward part, the largest of a
layer, are never used. A head says what it reads (`reading`), and the states at all other positions are NaN: one that
read elsewhere could not take them for a score. Whether a model's code bears this is not looked up but tried, and the
model is left as it was where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from workers import flops
from workers.errors import first_line

Positions = Sequence[Sequence[int]]
"""Of each row of a batch, the positions that are read."""

LAYERS = ("layers", "h")
"""What models call the list of their layers."""

PARTS = (
    *("mlp", "self_attn.q_proj", "self_attn.o_proj", "self_attn.dense"),
    *("attention.dense", "self_attention.dense", "attn.c_proj"),
)
"""What they call the parts of a layer that look at one token at a time and are of no use to the others."""

PROBE, READ = (*range(1, 13),), (4, 11)
"""Token ids of the conversation that both ways are tried on, and the positions that are read of it."""

TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""By dtype, the largest difference between two ways to compute, relative to the largest state."""

_READ: ContextVar[Positions | None] = ContextVar("read", default=None)


@contextmanager
def reading(positions: Positions | None) -> Iterator[None]:
    """Inside, a body is asked for the states at these positions alone; None asks for all of them."""
    token = _READ.set(positions)
    try:
        yield
    finally:
        _READ.reset(token)


def read() -> Positions | None:
    """What is read now."""
    return _READ.get()


class LastLayer:
    """Stands in for the `forward` of the last layer's parts, and counts what that saves."""

    def __init__(self, parts: Sequence[Any], config: Any) -> None:
        self._before = [(part, part.forward) for part in parts]
        self._weights, self._done = 0, -1
        self._known: tuple[Positions | None, int, Any] = (None, 0, None)
        for part, own in self._before:
            weights = flops.weights(part, config)
            self._weights += weights
            part.forward = partial(self._forward, own, weights)

    def undo(self) -> None:
        """Leave the parts as they were."""
        for part, own in self._before:
            part.forward = own

    def spared(self, tokens: int) -> int:
        """Operations that were saved of so many tokens since this was last asked."""
        done, self._done = self._done, -1
        return 0 if done < 0 else 2 * self._weights * tokens - done

    def _forward(self, own: Callable[[Any], Any], weights: int, states: Any) -> Any:
        """[rows, longest, size] to [rows, longest, a part's size]; NaN where nothing is read."""
        import torch

        found = _READ.get()
        if found is None or states.dim() != 3 or len(found) != len(states):
            return own(states)
        index = self._index(found, states)
        made = own(states.flatten(0, 1)[index][None])[0]
        result = made.new_full((states.shape[0] * states.shape[1], made.shape[-1]), torch.nan)
        result[index] = made
        self._done = max(self._done, 0) + 2 * weights * len(index)
        return result.unflatten(0, states.shape[:2])

    def _index(self, found: Positions, states: Any) -> Any:
        """Where what is read stands, rows one behind the other; the same for all parts of a pass."""
        import torch

        width = states.shape[1]
        if self._known[0] is not found or self._known[1] != width:
            places = [row * width + position for row, own in enumerate(found) for position in sorted({*own})]
            self._known = (found, width, torch.tensor(places, device=states.device))
        return self._known[2]


def narrow(body: Any, dtype: str) -> tuple[LastLayer | None, str]:
    """The last layer of a body that bears it, and None with the reason where it does not."""
    parts = _parts(body)
    if not parts:
        return None, "no part of it has a name that is known"
    layer = LastLayer(parts, body.config.get_text_config())
    try:
        reason = _unlike(_states(body, None), _states(body, [READ]), TOLERANCE[dtype])
    except Exception as error:  # whatever a model's code makes of inputs it was not written for
        reason = f"its code does not bear it: {type(error).__name__}: {first_line(error)}"
    layer.spared(0)  # of the trial
    if reason:
        layer.undo()
        return None, reason
    return layer, ""


def _parts(body: Any) -> list[Any]:
    """The parts of a body's last layer that are known; none where it has no list of layers."""
    layers: Any = next((getattr(body, name) for name in LAYERS if hasattr(body, name)), ())
    modules = dict(layers[-1].named_modules()) if len(layers) else {}
    return [modules[name] for name in PARTS if name in modules]


def _states(body: Any, positions: Positions | None) -> Any:
    import torch

    with torch.inference_mode(), reading(positions):
        return body(torch.tensor([PROBE], device=body.device)).last_hidden_state[0]


def _unlike(whole: Any, some: Any, tolerance: float) -> str:
    """Why the states at the positions that are read are not those of the whole; empty where they are."""
    at = list(READ)
    if not some.isnan()[[place for place in range(len(PROBE)) if place not in READ]].all():
        return "its states do not all pass through the parts that are known"
    moved, largest = (some[at] - whole[at]).abs().max().item(), whole.abs().max().item()
    return "" if moved <= tolerance * largest else "its states at one position depend on those parts at others"
