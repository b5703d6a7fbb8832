"""The requests of a run in a shared object store: every text once, whichever models are asked for it.

What travels with a command is a `Parcel`: references and positions. The object store brings the chunks to the worker's
machine, where all workers share one copy of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from workers.actor import Worker
from workers.protocol import Finding, Request, Shard, ShardReport

CHUNK = 256
"""Requests in a chunk: about a megabyte of conversations."""

Chunk = tuple[Request, ...]
Picks = tuple[tuple[int, int], ...]
"""Of each request the chunk, as it stands in its parcel, and the position there."""


@dataclass(frozen=True)
class Parcel:
    """Requests as they travel: references to the chunks that hold them, and where."""

    chunks: tuple[Any, ...]
    picks: Picks


class Texts:
    """Puts distinct requests into the object store and knows where each is.

    They keep the order in which they come: the requests of a shard are neighbours in it, so few chunks hold them.
    """

    def __init__(self, streams: Iterable[Sequence[Request]], put: Callable[[Chunk], Any]) -> None:
        distinct = {request.digest: request for stream in streams for request in stream}
        requests = tuple(distinct.values())
        self._places = {name: divmod(number, CHUNK) for number, name in enumerate(distinct)}
        self._chunks = [put(requests[first : first + CHUNK]) for first in range(0, len(requests), CHUNK)]

    def parcel(self, requests: Iterable[Request]) -> Parcel:
        """Where these requests are, in their order."""
        places = [self._places[request.digest] for request in requests]
        numbers = {chunk: number for number, chunk in enumerate(dict.fromkeys(chunk for chunk, _ in places))}
        chunks = tuple(self._chunks[chunk] for chunk in numbers)
        return Parcel(chunks, tuple((numbers[chunk], position) for chunk, position in places))


class ParcelWorker(Worker):
    """A worker that is told where requests are. The object store resolves a parcel's references on the way here."""

    def lint_parcel(self, picks: Picks, *chunks: Chunk) -> list[Finding]:
        """`lint` for picked requests."""
        return self.lint(picked(picks, chunks))

    def score_parcel(self, name: str, stream: str, picks: Picks, *chunks: Chunk) -> ShardReport:
        """`score` for a shard of picked requests."""
        return self.score(Shard(name, stream, picked(picks, chunks)))


def picked(picks: Picks, chunks: Sequence[Chunk]) -> tuple[Request, ...]:
    """The requests that are meant."""
    return tuple(chunks[chunk][position] for chunk, position in picks)
