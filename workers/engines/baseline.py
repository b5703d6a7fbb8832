"""Null baselines: deterministic scores that need no weights, no tokenizer and no other library.

`options.score` names the baseline: `longest` is the number of Unicode characters of the response, `shortest`
its negative, `random` a number in [0, 1) from a hash of `options.seed` and the request's content, `position` one that
is the higher the earlier a judge with the same `scoring.seed` is shown the response (`workers/families/judge.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workers.errors import ModelError
from workers.plugins import unknown
from workers.protocol import Finding, Kind, ModelSpec, Output, Request, digest, token_hash

VERSION = "1"
PACKAGES: tuple[str, ...] = ()
NEEDS_WEIGHTS = False
KINDS: tuple[Kind, ...] = ("reward",)


def _longest(request: Request, options: Mapping[str, Any]) -> float:
    return float(len(request.responses[0]))


def _shortest(request: Request, options: Mapping[str, Any]) -> float:
    return -float(len(request.responses[0]))


def _random(request: Request, options: Mapping[str, Any]) -> float:
    seeded = f"{options.get('seed', 0)}:{request.digest}"
    return _share(hashlib.sha256(seeded.encode()).hexdigest())


def _position(request: Request, options: Mapping[str, Any]) -> float:
    turns = [[turn.role, turn.content] for turn in request.prompt]
    return 1 - _share(digest([options.get("seed", 0), turns, request.responses[0]]))


def _share(drawn: str) -> float:
    """The first 53 bits of a hash as a number in [0, 1), exact in float64."""
    return (int(drawn[:16], 16) >> 11) / 2**53


SCORES: dict[str, Callable[[Request, Mapping[str, Any]], float]] = {
    "longest": _longest,
    "shortest": _shortest,
    "random": _random,
    "position": _position,
}


def score(name: str, request: Request) -> float:
    """What a baseline of that name gives a request, with no options."""
    return SCORES[name](request, {})


class BaselineEngine:
    """Scores `reward` requests with one of `SCORES`; a token is a Unicode character."""

    def __init__(self, spec: ModelSpec) -> None:
        name = str(spec.options.get("score"))
        if name not in SCORES:
            raise ModelError(f"models.{spec.name}.options.score: {unknown(name, sorted(SCORES), 'baseline')}")
        self._score = SCORES[name]
        self._options = spec.options

    def run(self, requests: Sequence[Request]) -> list[Output]:
        """One output a request, in order."""
        return [self._output(request) for request in requests]

    def _output(self, request: Request) -> Output:
        if request.kind != "reward":
            raise ModelError(f"the baseline engine cannot do {request.kind!r} requests, only 'reward'")
        characters = request.responses[0]
        return Output(self._score(request, self._options), len(characters), False, _characters_hash(request))

    def details(self) -> dict[str, str]:
        """Nothing but the engine's name: the score depends on no machine."""
        return {"device": "none"}

    def close(self) -> None:
        """Holds nothing."""


def load(spec: ModelSpec) -> BaselineEngine:
    """A baseline, or `ModelError` for a name that does not exist."""
    return BaselineEngine(spec)


def lint(spec: ModelSpec, requests: Sequence[Request]) -> list[Finding]:
    """Baselines render nothing; only an empty response is worth a word."""
    empty = tuple(index for index, request in enumerate(requests) if not request.responses[0].strip())
    return [Finding("empty-response", "warning", "the response is empty", empty)] if empty else []


def shown(spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
    """The responses: nothing else counts."""
    return [request.responses[0] for request in requests]


def token_hashes(spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
    """Hashes of the code points that were counted."""
    return [_characters_hash(request) for request in requests]


def _characters_hash(request: Request) -> str:
    return token_hash([ord(character) for character in request.responses[0]])
