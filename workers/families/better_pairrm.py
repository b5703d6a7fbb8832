"""Better-PairRM: PairRM's model with longer texts and another way of writing the history.

Source: rewardbench 0.1.4, `models/betterpairrm.py`. The source is cut to 2,030 tokens on the left and a candidate to
670 on the right, then written out and encoded again; the source's marker is encoded by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.families._pairwise import encoded, joined, turns_of, values, wanted
from workers.families.pairrm import FIRST, SECOND, SOURCE, head
from workers.protocol import Kind, Request
from workers.render import Rendered, Renderer

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "preference"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "render", "values", "wanted"]

SOURCE_TOKENS, CANDIDATE_TOKENS = 2030, 670
BREAK = "\n    \n    "
"""Between turns: the indentation of the template that the model was trained with."""


def render(renderer: Renderer, request: Request) -> Rendered:
    """The history as source, and the last answers as candidates."""
    turns_of(renderer, request)
    names = {"user": "USER", "assistant": "ASSISTANT"}
    history = [f"{names[turn.role]}: {turn.content.strip()}{BREAK}" for turn in request.prompt]
    source = _rewritten(renderer, "".join(history) + "ASSISTANT: ", SOURCE_TOKENS, "left")
    candidates = [_rewritten(renderer, response, CANDIDATE_TOKENS, "right") for response in request.responses]
    marker = encoded(renderer, SOURCE, SOURCE_TOKENS)
    parts = [marker, encoded(renderer, source[0], SOURCE_TOKENS - len(marker[1]), "left")]
    room = (SOURCE_TOKENS + 2 * CANDIDATE_TOKENS - sum(len(kept) for _, kept in parts)) // 2
    for name, (text, _) in zip((FIRST, SECOND), candidates, strict=True):
        parts.append(encoded(renderer, name + text, room))
    lost = sum(gone for _, gone in (source, *candidates))
    row = joined("\n".join([SOURCE, source[0], *(text for text, _ in candidates)]), parts)
    return Rendered(row.text, row.ids, None, row.full_length + lost, double_bos=False)


def _rewritten(renderer: Renderer, text: str, limit: int, side: str) -> tuple[str, int]:
    """A text cut to `limit` tokens and decoded, and the number of tokens lost."""
    ids = list(renderer.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    kept = ids[-limit:] if side == "left" else ids[:limit]
    return str(renderer.tokenizer.decode(kept, skip_special_tokens=True)), len(ids) - len(kept)
