"""Errors, grouped by what the driver does next.

    SweepError
    ├── InputError       stop before anything starts: the user's configuration or data is wrong
    ├── StoreError       stop: results cannot be kept or read
    ├── ModelError       give up this model, carry on with the others
    ├── UnavailableError what a model needs did not answer: loaded again later, a limited number of times
    └── ShardError       this shard only
        └── EngineError  of an engine: retried on a fresh worker, a limited number of times

A lost worker is an event of the scheduler, not an error, and a request that cannot be answered is no error of its
shard (`workers.protocol.Unscored`). Every class takes one message, so that all of them
survive pickling on their way across processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workers.transient import passes


class SweepError(Exception):
    """Base of all errors whose message is meant for the user as it stands."""


class InputError(SweepError):
    """The configuration, a name or a data file is wrong."""


class StoreError(SweepError):
    """The store cannot be read or written."""


class ModelError(SweepError):
    """A model cannot be used at all: wrong checkpoint, missing template, failed preflight."""


class UnavailableError(SweepError):
    """A model's files could not be had just now: the network, a hub that is overloaded."""


class ShardError(SweepError):
    """One shard could not be scored."""


class EngineError(ShardError):
    """The engine failed on a shard."""


GATED = "a gated repository; accept its terms on the hub and set HF_TOKEN in the environment of driver and workers"


def first_line(error: BaseException) -> str:
    """What an error says first; its type where it says nothing, the remedy where the hub wants a token."""
    if type(error).__name__ == "GatedRepoError" or "gated repo" in str(error):
        return GATED
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def boundary(error: type[SweepError], what: str, passing: type[SweepError] | None = None) -> Iterator[None]:
    """Convert whatever escapes a plug-in into `error`, so that plug-ins raise plain Python errors.

    What may pass becomes `passing`, where that is given. A `SweepError` passes unchanged: it already says what the
    driver should do.
    """
    try:
        yield
    except SweepError:
        raise
    except Exception as cause:
        name, line = type(cause).__name__, first_line(cause)
        kind = passing if passing is not None and passes(cause) else error
        raise kind(f"{what}: {name}: {line}" if line != name else f"{what}: {name}") from cause
