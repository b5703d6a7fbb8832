"""LLM judges: language models that are asked, in words, which response is better or how good one is.

Source of prompts and rules: rewardbench 0.1.4, `generative.py`, `generative_v2.py` and their scripts. Two responses are
shown side by side, four are ranked at once, and of any other number each is rated alone; `task` can ask for ratings
everywhere, or for every pair. Which response is shown first is drawn from the content of the row, never from which one
is right, so it is the same on every machine; with `orders: both` a verdict counts where it survives the other order.

What a judge wrote is stored, and read anew for every leaderboard: a better parser needs no engine. So `VERSION`, which
is part of a text's key, is not to be raised when a parser changes; prompts are part of the request itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from workers.families import _prompts, _verdicts
from workers.protocol import Kind, Measurement, Message, Model, Request, digest

VERSION = "1"
ENGINES = ("vllm", "transformers", "openai")
KIND: Kind = "generate"
TIES = "share"
SCORING: Mapping[str, tuple[Any, ...]] = {
    "prompt": _prompts.NAMES,
    "system": ("separate", "merged", "dropped"),
    "task": ("auto", "pairs", "ratings", "ratings_ties"),
    "orders": ("seeded", "both"),
    "seed": tuple(range(10)),
}
OF_A_MEMBER = ("prompt", "system")
"""What the members of an ensemble may choose each for itself."""

FAILED = -1.0
"""The rating of a text that holds none, as in the reference."""

Shown = tuple[int, ...]
"""The positions of the responses in one question, in the order in which the judge sees them."""


def wanted(model: Model, prompt: tuple[Message, ...], responses: tuple[str, ...]) -> list[tuple[int, Request]]:
    """The judge's whole conversation for each question, of an ensemble for each of its members."""
    return [
        (stream, Request("generate", _messages(model, stream, prompt, responses, shown), ()))
        for stream in range(len(model.streams))
        for shown in _questions(model, prompt, responses)
    ]


def values(
    model: Model, measurements: Sequence[Measurement], prompt: tuple[Message, ...], responses: tuple[str, ...]
) -> list[float]:
    """Ratings, or for each response its share of the comparisons: 1 where it is preferred, 1/n where none of n is.

    An ensemble's rating is the mean of those that can be read, its verdict the most common one.
    """
    questions, found = _questions(model, prompt, responses), _found(model, measurements, prompt, responses)
    if _rates(model, responses):
        return _ratings(found, len(responses))
    scores, orders = [0.0] * len(responses), _orders(model)
    for first in range(0, len(questions), orders):
        verdicts = [_verdicts.majority(member[first : first + orders]) for member in found]
        winner, shown = _verdicts.majority(verdicts), questions[first]
        for position in shown:
            scores[position] += 1 / len(shown) if winner is None else float(position == winner)
    return scores


def unreadable(
    model: Model, measurements: Sequence[Measurement], prompt: tuple[Message, ...], responses: tuple[str, ...]
) -> bool:
    """Whether a text of the row holds no verdict, or no rating."""
    return any(answer is None for member in _found(model, measurements, prompt, responses) for answer in member)


def _questions(model: Model, prompt: tuple[Message, ...], responses: tuple[str, ...]) -> list[Shown]:
    """What a judge is asked about one example; both orders of a comparison follow each other."""
    every = range(len(responses))
    if _rates(model, responses):
        return [(position,) for position in every]
    turns = [[turn.role, turn.content] for turn in prompt]
    drawn = [digest([model.scoring.get("seed", 0), turns, response]) for response in responses]
    pairs = model.scoring.get("task") == "pairs"
    groups = combinations(every, 2) if pairs else [tuple(every)]
    ordered = [tuple(sorted(group, key=drawn.__getitem__)) for group in groups]
    return [order for shown in ordered for order in (shown, shown[::-1])[: _orders(model)]]


def _rates(model: Model, responses: Sequence[str]) -> bool:
    """Whether each response is rated alone."""
    task = model.scoring.get("task", "auto")
    return task.startswith("ratings") or (task == "auto" and len(responses) not in (2, _prompts.RANKED))


def _orders(model: Model) -> int:
    return 2 if model.scoring.get("orders") == "both" else 1


def _messages(
    model: Model, stream: int, prompt: tuple[Message, ...], responses: tuple[str, ...], shown: Shown
) -> tuple[Message, ...]:
    """One question in a judge's own words. Only RewardBench 2's Ties have neither two nor four responses."""
    texts = [responses[position] for position in shown]
    if len(texts) == 1:
        ties = model.scoring.get("task") == "ratings_ties" or len(responses) not in (2, _prompts.RANKED)
        return _prompts.rate(prompt, texts[0], ties)
    messages = _prompts.compare(_choice(model, stream, "prompt"), prompt, texts)
    return _prompts.placed(messages, _choice(model, stream, "system"))


def _choice(model: Model, stream: int, key: str) -> Any:
    """The family's choice for one judge: its own, else that of the model, else the default."""
    own = model.scoring["members"][stream] if "members" in model.scoring else {}
    return own.get(key, model.scoring.get(key, SCORING[key][0]))


def _found(
    model: Model, measurements: Sequence[Measurement], prompt: tuple[Message, ...], responses: tuple[str, ...]
) -> list[list[Any]]:
    """By stream and question: the position of the preferred response or the rating, None for a text without."""
    questions, rows = _questions(model, prompt, responses), iter(measurements)
    return [
        [_answer(model, stream, shown, next(rows).text or "") for shown in questions]
        for stream in range(len(model.streams))
    ]


def _answer(model: Model, stream: int, shown: Shown, text: str) -> float | int | None:
    reference = model.streams[stream].protocol == "reference"
    if len(shown) == 1:
        return _verdicts.rated(text, reference)
    place = _verdicts.compared(_choice(model, stream, "prompt"), len(shown), text, reference)
    return None if place is None else shown[place]


def _ratings(found: Sequence[Sequence[float | None]], count: int) -> list[float]:
    """One rating a response; of a pair, one failure leaves nothing to compare."""
    ratings = []
    for answers in zip(*found, strict=True):
        read = [answer for answer in answers if answer is not None]
        ratings.append(sum(read) / len(read) if read else FAILED)
    return [FAILED] * count if count == 2 and FAILED in ratings else ratings
