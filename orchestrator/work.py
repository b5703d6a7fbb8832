"""Pure: how many tokens requests have, estimated from their characters, and how much of them is computed anew.

No tokenizer: what is owed must be planned for a hundred models in seconds. A request that follows one with the same
prompt shares its beginning, as in `workers.packing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.packing import common, ends, worth
from workers.protocol import Request

CHARACTERS_PER_TOKEN = 3.87
"""Of RewardBench's texts, by the published lengths of its subsets in tokens of Mistral's 131k vocabulary: 4.7 in prose,
3.4 in code, 2.9 in mathematics."""

MORE_BYTES_PER_TOKEN = 4.8
"""Bytes of UTF-8 beyond one a character that make one token more: Cyrillic, Greek, Arabic and the like (two bytes) come
to 2.1 characters a token, Chinese, Japanese, Korean and the scripts of India (three bytes) to 1.5."""

TEMPLATE_TOKENS = 12
"""Of a chat template, for each conversation: roles, markers of turns, beginning and end."""


@dataclass(frozen=True)
class Work:
    """Of some requests: rows, tokens and pairs of tokens that attention reads; `new_` without what is shared.

    `logits` are the tokens of the responses, each of which needs a row of logits in a log-probability.
    """

    rows: int
    tokens: int
    pairs: int
    new_tokens: int
    new_pairs: int
    logits: int

    def __add__(self, other: Work) -> Work:
        return Work(
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.new_tokens + other.new_tokens,
            self.new_pairs + other.new_pairs,
            self.logits + other.logits,
        )


NOTHING = Work(0, 0, 0, 0, 0, 0)


def estimated_tokens(characters: float, utf8: float, scale: float = 1.0) -> float:
    """Tokens of texts with so many characters and bytes; `scale` is what footers of the store correct it by."""
    return scale * (characters / CHARACTERS_PER_TOKEN + max(0.0, utf8 - characters) / MORE_BYTES_PER_TOKEN)


def work_of(requests: Sequence[Request], limit: int | None, scale: float = 1.0) -> Work:
    """The work of requests in their order, each cut to `limit` tokens."""
    tokens = pairs = new_tokens = new_pairs = logits = 0
    before: Request | None = None
    for request in requests:
        whole = TEMPLATE_TOKENS + round(estimated_tokens(request.characters, request.utf8, scale))
        length = whole if limit is None else min(whole, limit)
        shared = min(length, worth(int(_shared(before, request) * whole / max(1, request.characters))))
        tokens += length
        pairs += ends(length)
        new_tokens += length - shared
        new_pairs += ends(length) - ends(shared)
        if request.responses:
            logits += min(length, round(whole * len(request.responses[0]) / max(1, request.characters)))
        before = request
    return Work(len(requests), tokens, pairs, new_tokens, new_pairs, logits)


def _shared(before: Request | None, request: Request) -> int:
    """Characters at the beginning of a request that the one before it has too."""
    if before is None or before.prompt != request.prompt:
        return 0
    prompt = request.characters - sum(map(len, request.responses))
    if not request.responses or not before.responses:
        return prompt
    return prompt + common(before.responses[0], request.responses[0])
