"""The output embedding of a causal language model: logits as the model makes them, and log-probabilities of tokens.

Logits of a pass would take tokens times vocabulary in memory, gigabytes; only those of a tile are held, some tokens and
some columns of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

TILES = {"cpu": (1024, 1024), "cuda": (8192, 4096)}
"""By device the tokens and the columns of a tile: 4 MiB of float32, which a CPU keeps near, and 128 MiB."""

WHOLE_LOGITS, WHOLE_TOKENS = 2**23, 256
"""The logits of a tile with all columns, where the output embedding cannot be cut; but those of so many tokens at
least, since every tile reads all of it."""


class Vocabulary:
    """A model's output embedding, and what its own `forward` makes of it."""

    def __init__(self, model: Any) -> None:
        self._layer, self._config = model.get_output_embeddings(), model.config.get_text_config()

    def logits(self, hidden: Any, columns: slice | None = None) -> Any:
        """[..., size] to [..., columns], to all where none are named. Some models scale or cap them, here in place."""
        from torch.nn.functional import linear

        layer, config = self._layer, self._config
        if columns is None:
            logits = layer(hidden)
        else:
            logits = linear(hidden, layer.weight[columns], None if layer.bias is None else layer.bias[columns])
        scale, divisor = getattr(config, "logit_scale", 1.0), getattr(config, "logits_scaling", 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        if scale != 1.0:
            logits.mul_(scale)
        if divisor != 1.0:
            logits.div_(divisor)
        return logits.div_(cap).tanh_().mul_(cap) if cap else logits

    def logprobs(self, hidden: Any, ids: Any, index: Any, places: Any) -> Any:
        """Log-probabilities in float64 of the tokens at `places` of the rows `index`, both of shape [tokens].

        A token's logits stand one position before it.
        """
        import torch

        tokens, slices = self._tile(hidden.device.type)
        chunks = max(1, math.ceil(len(index) / tokens))  # of like size
        found = [
            self._chosen(hidden[row, place - 1], ids[row, place], slices).double()
            for row, place in zip(index.chunk(chunks), places.chunk(chunks), strict=True)
        ]
        return torch.cat(found)

    def _tile(self, device: str) -> tuple[int, list[slice | None]]:
        """The tokens of one, and the columns of each."""
        import torch

        if type(self._layer) is not torch.nn.Linear or "forward" in vars(self._layer):  # another one multiplies
            return max(WHOLE_TOKENS, WHOLE_LOGITS // self._config.vocab_size), [None]
        tokens, columns = TILES[device]
        return tokens, [slice(start, start + columns) for start in range(0, len(self._layer.weight), columns)]

    def _chosen(self, states: Any, wanted: Any, slices: Sequence[slice | None]) -> Any:
        """[tokens, size] and [tokens] to log-probabilities in float32, a slice of the vocabulary after the other.

        What was summed is scaled to the largest logit so far (Milakov and Gimelshein 2018, algorithm 3).
        """
        import torch

        chosen, total = torch.zeros(2, len(states), dtype=torch.float32, device=states.device)
        largest = torch.full_like(total, torch.finfo(total.dtype).min)
        for columns in slices:
            logits = self.logits(states, columns).float()
            place, last = wanted - (columns.start if columns else 0), logits.shape[1] - 1
            own = logits.gather(1, place.clamp(0, last)[:, None])[:, 0]
            chosen = torch.where((place >= 0) & (place <= last), own, chosen)
            before, largest = largest, torch.maximum(largest, logits.amax(-1))
            total = total * (before - largest).exp() + logits.sub_(largest[:, None]).exp_().sum(-1)
            del logits  # before the next are made
        return chosen - (largest + total.log())
