"""What models that compare two responses share: every ordered pair is asked, so that no position wins by itself.

A response's value is the sum, over its rivals, of `(m(i, j) - m(j, i)) / 2`, where m is how much the model prefers the
first of two. Of a pair it is the reference's verdict wherever the reference asks both orders; of more responses it is a
round robin. Responses of the very same text tie exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

from workers.errors import ModelError
from workers.protocol import Measurement, Message, Model, Request
from workers.render import Rendered, Renderer


def wanted(model: Model, prompt: tuple[Message, ...], responses: tuple[str, ...]) -> list[tuple[int, Request]]:
    """One `preference` request an ordered pair: of n responses n (n - 1)."""
    return [(0, Request("preference", prompt, (responses[i], responses[j]))) for i, j in _pairs(len(responses))]


def values(
    model: Model, measurements: Sequence[Measurement], prompt: tuple[Message, ...], responses: tuple[str, ...]
) -> list[float]:
    """One value a response, in the unit of the model's preferences."""
    preferred = dict(zip(_pairs(len(responses)), (row.value for row in measurements), strict=True))
    return [
        sum((preferred[i, j] - preferred[j, i]) / 2 for j in range(len(responses)) if j != i)
        for i in range(len(responses))
    ]


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(count) if i != j]


def joined(text: str, parts: Sequence[tuple[list[int], list[int]]]) -> Rendered:
    """The ids of parts that were cut each for itself; a part is its ids whole and as they are kept."""
    ids = [token for _, kept in parts for token in kept]
    return Rendered(text, tuple(ids), None, sum(len(whole) for whole, _ in parts), double_bos=False)


def encoded(renderer: Renderer, text: str, limit: int, side: str = "right") -> tuple[list[int], list[int]]:
    """The ids of a text with the tokenizer's special tokens, whole and cut to `limit` tokens, which keeps them."""
    tokenizer = renderer.tokenizer
    tokenizer.truncation_side = side
    whole = list(tokenizer(text, verbose=False)["input_ids"])
    kept = list(tokenizer(text, truncation=True, max_length=limit, verbose=False)["input_ids"])
    return whole, kept


def turns_of(renderer: Renderer, request: Request) -> tuple[list[str], list[str]]:
    """The user's and the assistant's texts of a prompt, which must take turns and end with the user."""
    roles = [turn.role for turn in request.prompt]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise ModelError(
            f"model {renderer.spec.name!r}: a prompt with the roles {' '.join(roles)}; this family takes turns of user "
            "and assistant that end with the user"
        )
    texts = [turn.content for turn in request.prompt]
    return texts[::2], texts[1::2]
