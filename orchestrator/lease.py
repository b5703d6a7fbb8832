"""One night at a time: a lease that is a small file of the store, renewed while its holder lives.

No clock of two machines is ever compared. The holder writes a higher beat every `beat` seconds; who finds the lease
held watches it, by a clock of its own, and takes it over when it has not changed for `patience` seconds. Taking over,
renewing and giving back replace exactly the content that was read, so that of two contenders one wins, and a holder
that slept too long learns that it lost the lease.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from orchestrator import provenance
from orchestrator.progress import say
from orchestrator.stores import Store
from workers.errors import StoreError, SweepError

BEAT = 10.0
PATIENCE = 60.0
"""Seconds between beats, and without one until the holder counts as dead."""


class LeaseHeld(SweepError):
    """Another night holds the lease, and lives."""


class LeaseLost(SweepError):
    """The lease was taken over from this night."""


@dataclass(frozen=True)
class Holder:
    """What the lease's file says: who holds it, and since when by the holder's own clock; nobody if it is free."""

    id: str
    host: str
    process: int
    since: str
    beat: int = 0
    free: bool = False

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since} (its clock)"

    def encoded(self) -> bytes:
        """The file's content."""
        return json.dumps(asdict(self), sort_keys=True).encode()


class Lease:
    """A lease that this process holds; renewed by a thread until `give_back`."""

    def __init__(self, store: Store, path: str, mine: Holder, beat: float, patience: float) -> None:
        self._store, self._path = store, path
        self._mine = mine
        self._beat, self._patience = beat, patience
        self._stop = threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """`LeaseLost` once the lease is no longer ours."""
        if self._lost is not None:
            raise LeaseLost(f"the lease was lost ({self._lost}); another night goes on with what this one has scored")

    def give_back(self) -> None:
        """Stop renewing, and leave the lease free for the next night if it is still ours."""
        self._stop.set()
        self._thread.join()
        if self._lost is None:
            self._store.replace(self._path, replace(self._mine, free=True).encoded(), self._mine.encoded())

    def _renew(self) -> None:
        renewed = time.monotonic()
        while self._lost is None and not self._stop.wait(self._beat):
            asked, problem = time.monotonic(), None
            try:
                problem = self._beat_once()
            except StoreError as error:  # perhaps for a moment; until the others' patience is at its end
                if time.monotonic() - renewed >= self._patience:
                    problem = str(error)
            else:
                renewed = asked
            if problem is not None:
                self._lost = problem
                _thread.interrupt_main(signal.SIGTERM)  # stops what is being scored; nothing where nobody listens

    def _beat_once(self) -> str | None:
        """Renew; who has the lease instead, None if it is ours."""
        following = replace(self._mine, beat=self._mine.beat + 1)
        if self._store.replace(self._path, following.encoded(), self._mine.encoded()):
            self._mine = following
            return None
        found = self._store.load(self._path)
        if found == following.encoded():  # written, though the store's answer was lost and the call made again
            self._mine = following
            return None
        other = None if found is None else _holder(self._store, self._path, found)
        return "its file is gone" if other is None else f"held by {other}"


@contextmanager
def hold(
    store: Store,
    path: str,
    beat: float = BEAT,
    patience: float = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Lease]:
    """Hold the lease at a path of the store; `LeaseHeld` where another process does."""
    store.check_exclusive()
    mine = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), provenance.now())
    _take(store, path, mine, patience, sleep)
    lease = Lease(store, path, mine, beat, patience)
    try:
        yield lease
    finally:
        try:
            lease.give_back()
        except StoreError as error:
            say(f"warning: {error}; the next night watches the lease for {patience:.0f} s, then takes it over")


def _take(store: Store, path: str, mine: Holder, patience: float, sleep: Callable[[float], None]) -> None:
    """Create the lease's file, or replace what a holder left that gave it back or is dead."""
    if store.create(path, mine.encoded()):
        return
    found = store.load(path) or b""
    holder = _holder(store, path, found)
    if not holder.free:
        say(f"lease: held by {holder}; watching for {patience:.0f} s whether it lives")
        found = _watch(store, path, found, patience, sleep)
    if not store.replace(path, mine.encoded(), found):
        other = _holder(store, path, store.load(path) or b"")
        raise LeaseHeld(f"another night has just begun: {other}; nothing was done")


def _watch(store: Store, path: str, found: bytes, patience: float, sleep: Callable[[float], None]) -> bytes:
    """The content to replace: what was found if it stays so, or what a holder leaves that ends; else `LeaseHeld`."""
    start = time.monotonic()
    while time.monotonic() - start < patience:
        sleep(patience / 30)
        seen = store.load(path) or b""
        if seen == found:
            continue
        holder = _holder(store, path, seen)
        if not holder.free:
            raise LeaseHeld(f"another night is at work: {holder}; nothing was done")
        return seen
    say(f"lease: no sign of life of {_holder(store, path, found)}; taken over")
    return found


def _holder(store: Store, path: str, content: bytes) -> Holder:
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise StoreError(f"store={store.uri}: {path} is damaged; remove it if no night is at work") from error
