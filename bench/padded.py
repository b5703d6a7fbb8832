"""Scoring in padded batches on a GPU: the reference's way, and plain batches of like lengths. For `bench.gpu`.

The reference (rewardbench 0.1.4) scores batches of 8 in the order of the file: of classifiers the chosen, then the
rejected, padded on the left; of DPO both in one batch of 16, padded on the right, with logits of the whole vocabulary
for every token and their log-softmax in the dtype of the logits. Weights are float16, or 8-bit through bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from bench.lengths import Conversation
from workers.batching import batches

Pair = tuple[Conversation, Conversation]
Scores = dict[tuple[int, int], float]
"""By row and side."""

REFERENCE_BATCH = 8
SORTED_TOKENS = 8192
KEPT = ("score", "lm_head")
"""Layers that bitsandbytes leaves as they are."""


def reference_batches(pairs: Sequence[Pair], causal: bool) -> Iterator[list[Conversation]]:
    """The rows of each call of the reference's models."""
    for start in range(0, len(pairs), REFERENCE_BATCH):
        chosen, rejected = (list(side) for side in zip(*pairs[start : start + REFERENCE_BATCH], strict=True))
        yield from [[*chosen, *rejected]] if causal else [chosen, rejected]


def sorted_batches(pairs: Sequence[Pair], _: bool) -> Iterator[list[Conversation]]:
    """Batches of like lengths, at most so many padded tokens in each."""
    rows = [row for pair in pairs for row in pair]
    for batch in batches([len(row.ids) for row in rows], SORTED_TOKENS):
        yield [rows[position] for position in batch]


def alone(pairs: Sequence[Pair], _: bool) -> Iterator[list[Conversation]]:
    """Each conversation in a batch of its own, without padding."""
    yield from ([row] for pair in pairs for row in pair)


Way = Callable[[Sequence[Pair], bool], Iterator[list[Conversation]]]


def scores(model: Any, pairs: Sequence[Pair], way: Way, causal: bool) -> Scores:
    """Rewards, or with `causal` sums of log-probabilities, of all conversations."""
    found: Scores = {}
    with torch.inference_mode():
        for batch in way(pairs, causal):
            left = way is reference_batches and not causal
            ids, mask = _padded(batch, left, model.device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            values = _sums(logits, ids, batch) if causal else logits[:, 0].float()
            found.update(zip(((row.row, row.side) for row in batch), values.tolist(), strict=True))
    return found


def _padded(batch: Sequence[Conversation], left: bool, device: Any) -> tuple[Any, Any]:
    """Ids and attention mask, both of shape [rows, longest]."""
    longest = max(len(row.ids) for row in batch)
    ids, mask = [], []
    for row in batch:
        pad = [0] * (longest - len(row.ids))
        ids.append([*pad, *row.ids] if left else [*row.ids, *pad])
        mask.append([*pad, *[1] * len(row.ids)] if left else [*[1] * len(row.ids), *pad])
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _sums(logits: Any, ids: Any, batch: Sequence[Conversation]) -> Any:
    """Sums over the completions' tokens, of logits of shape [rows, longest, vocabulary]."""
    chosen = torch.gather(logits[:, :-1].log_softmax(-1), 2, ids[:, 1:, None])[:, :, 0]
    places = torch.arange(1, ids.shape[1], device=ids.device)
    first, last = (
        torch.tensor(ends, device=ids.device)[:, None]
        for ends in ([row.prompt for row in batch], [len(row.ids) for row in batch])
    )
    return (chosen * ((places >= first) & (places < last))).float().sum(-1)


def quantised(model: Any) -> Any:
    """The model with its linear layers in 8 bits, in place, as `load_in_8bit` makes them."""
    import bitsandbytes  # type: ignore[import-not-found]

    for name, module in list(model.named_modules()):
        parent, _, last = name.rpartition(".")
        if type(module) is not torch.nn.Linear or last in KEPT:
            continue
        layer = bitsandbytes.nn.Linear8bitLt(
            module.in_features, module.out_features, module.bias is not None, has_fp16_weights=False, threshold=6.0
        )
        state = {key: value.cpu() for key, value in module.state_dict().items()}
        layer.load_state_dict(state)
        setattr(model.get_submodule(parent), last, layer.to(module.weight.device))
    return model
