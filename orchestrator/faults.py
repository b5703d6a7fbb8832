"""What a fault costs a model: attempts of a shard, strikes of the model; cutting down to the row that kills.

Workers that end together count as one strike: a further one needs a worker that was started after the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from orchestrator.pieces import Piece, halves
from orchestrator.streams import StreamState, WorkerState


@dataclass(frozen=True)
class Limits:
    """What a run puts up with.

    `max_attempts` for a shard and for a load; `max_strikes` ends in a row, without a shard scored, end the model;
    beyond `max_quarantined` rows of a model its shards fail uncut. After `deadline` seconds no shard is given out.
    Where nothing can run, and the cluster grows or has lost nodes, `patience` seconds are waited for one. A model
    whose files could not be had is loaded again after `back_off` seconds, and after four times as long each further
    time.
    """

    max_attempts: int = 3
    max_strikes: int = 12
    max_quarantined: int = 32
    deadline: float = inf
    patience: float = 600.0
    back_off: float = 15.0


def strike(stream: StreamState, number: int, worker: WorkerState, started: int, limits: Limits) -> bool:
    """Count a worker that ended by a fault when `started` workers had been; whether its model is hopeless.

    The next one goes elsewhere, where there is room: one bad node must not use up all attempts.
    """
    stream.shunned.update(worker.nodes)
    counts = number >= stream.struck
    stream.struck = started if counts else stream.struck
    if worker.phase == "busy":
        stream.strikes += counts
        return stream.strikes >= limits.max_strikes
    stream.loads += counts
    return not stream.crew and stream.loads >= limits.max_attempts


def back_off(stream: StreamState, now: float, limits: Limits) -> None:
    """Start no worker of a model for a while, the longer the more loads have failed in a row."""
    stream.resting = now + limits.back_off * 4 ** max(0, stream.loads - 1)


def suspect(stream: StreamState, piece: Piece, reason: str, cut: bool, limits: Limits) -> None:
    """Count a fault against the piece that its worker had: try again, cut it, quarantine a row, or let it fail.

    A half of what was cut has one attempt, since it has met as many faults as the whole; a single row has all.
    """
    attempts = stream.attempts[piece.name] = stream.attempts.get(piece.name, 0) + 1
    if attempts < limits.max_attempts:
        stream.pieces.put(piece, suspect=True)
        return
    stream.pieces.settle(piece)
    rows = piece.shard.requests
    if not cut or len(stream.quarantined) >= limits.max_quarantined:
        stream.failures.append((piece.shard, reason))
    elif len(rows) == 1:
        stream.quarantined.append((rows[0], reason))
    else:
        for half in halves(piece):
            stream.attempts[half.name] = 0 if len(half.shard.requests) == 1 else limits.max_attempts - 1
            stream.pieces.put(half, suspect=True)
