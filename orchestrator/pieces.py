"""A stream's shards: which wait, who has which, which have their fate: one, however often given out."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from workers.protocol import Shard


@dataclass(frozen=True, order=True)
class Piece:
    """A shard with its cost. The greatest is taken first: the costliest, of equals the plan's first."""

    cost: float
    place: int  # minus its number in the plan
    name: str
    shard: Shard = field(compare=False)


def halves(piece: Piece) -> Iterator[Piece]:
    """A piece of several rows cut in two, each half with its part of the cost."""
    rows = piece.shard.requests
    middle = len(rows) // 2
    for name, part in (("a", rows[:middle]), ("b", rows[middle:])):
        shard = replace(piece.shard, id=f"{piece.shard.id}{name}", requests=part)
        cost = piece.cost * shard.characters / max(1, piece.shard.characters)
        yield Piece(cost, piece.place, shard.id, shard)


class Pieces:
    """The queue of a stream and what flies. `cost` is the queue's sum."""

    def __init__(self) -> None:
        self.cost = 0.0
        self._queued: dict[str, Piece] = {}
        self._fresh: list[Piece] = []  # ascending; may hold what is queued no more
        self._suspects: deque[Piece] = deque()
        self._flying: dict[str, set[int]] = {}
        self._settled: set[str] = set()

    def __len__(self) -> int:
        return len(self._queued)

    def __iter__(self) -> Iterator[Piece]:
        """What waits."""
        return iter(self._queued.values())

    def put(self, piece: Piece, suspect: bool = False) -> None:
        """Queue a piece, unless it waits already or is settled; one under suspicion comes last."""
        if piece.name in self._queued or piece.name in self._settled:
            return
        self._queued[piece.name] = piece
        self.cost += piece.cost
        if suspect:
            self._suspects.append(piece)
        else:
            insort(self._fresh, piece)

    def take(self, longest: float) -> Piece | None:
        """The costliest piece up to `longest`, those under suspicion last; None where nothing fits."""
        found = self._take_fresh(longest) or self._take_suspect(longest)
        if found is not None:
            self._unqueue(found.name)
        return found

    def _take_fresh(self, longest: float) -> Piece | None:
        too_long = []
        found = None
        while self._fresh and found is None:
            piece = self._fresh.pop()
            if self._queued.get(piece.name) is piece:
                found = piece if piece.cost <= longest else None
                too_long += [piece] * (found is None)
        self._fresh += reversed(too_long)
        return found

    def _take_suspect(self, longest: float) -> Piece | None:
        for piece in tuple(self._suspects):
            waits = self._queued.get(piece.name) is piece
            if not waits or piece.cost <= longest:
                self._suspects.remove(piece)
                if waits:
                    return piece
        return None

    def _unqueue(self, name: str) -> None:
        piece = self._queued.pop(name, None)
        if piece is not None:
            self.cost = self.cost - piece.cost if self._queued else 0.0

    def fly(self, piece: Piece, worker: int) -> None:
        """A worker has a piece."""
        self._flying.setdefault(piece.name, set()).add(worker)

    def land(self, piece: Piece, worker: int) -> Piece | None:
        """A worker has its piece no more; the piece, if no other has it and it has no fate yet."""
        copies = self._flying[piece.name]
        copies.discard(worker)
        if copies:
            return None
        del self._flying[piece.name]
        return None if self.settled(piece) else piece

    def waits(self, piece: Piece) -> bool:
        """Whether a piece is in the queue, perhaps besides having been given to a worker."""
        return piece.name in self._queued

    def copies(self, piece: Piece) -> int:
        """Workers that have a piece."""
        return len(self._flying.get(piece.name, ()))

    def settle(self, piece: Piece) -> None:
        """A piece has its fate: it is not handed out again."""
        self._settled.add(piece.name)
        self._unqueue(piece.name)

    def settled(self, piece: Piece) -> bool:
        """Whether a piece has its fate."""
        return piece.name in self._settled
