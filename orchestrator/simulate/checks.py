"""The promises, checked after every step and at the end of a simulated run."""

from __future__ import annotations

from collections import Counter
from math import isclose, isfinite

from orchestrator.scheduler import LOOK_SECONDS
from orchestrator.simulate.world import World
from orchestrator.streams import StreamState
from workers.protocol import Request


def check_step(world: World) -> None:
    """One view of who lives; no row lost; nothing waits beside a machine that could take it.

    That no GPU is oversubscribed, and none used before it was checked, the world itself sees when a worker starts.
    """
    scheduler = world.scheduler
    if set(scheduler.workers) != set(world.alive):
        world.fail(f"the scheduler knows workers {sorted(scheduler.workers)}, there are {sorted(world.alive)}")
    for state in scheduler.streams.values():
        _check_account(world, state)
        rested = state.resting + LOOK_SECONDS <= scheduler.now or not state.resting
        if not scheduler.over and state.waiting and not state.crew and rested:
            _check_progress(world, state)
    for number, worker in world.alive.items():
        if worker.task is None and number in scheduler.workers:
            world.fail(f"worker {number} waits for ever")


def _check_account(world: World, state: StreamState) -> None:
    queued = [piece for piece in state.pieces if state.pieces.copies(piece) == 0]
    flying = {piece.name: piece for worker in state.crew.values() for piece in worker.pieces}
    rows = sum(len(piece.shard.requests) for piece in [*queued, *flying.values()] if not state.pieces.settled(piece))
    if rows != state.left_rows:
        world.fail(f"{state.spec.name}: {rows} rows wait or fly, the account says {state.left_rows}")
    if not isclose(state.pieces.cost, sum(piece.cost for piece in state.pieces), abs_tol=1e-6):
        world.fail(f"{state.spec.name}: the queue's sum is wrong")


def _check_progress(world: World, state: StreamState) -> None:
    limit = world.scenario.capacity.workers
    if limit is not None and len(world.alive) >= limit:
        return
    left = world.scenario.limits.deadline - world.scheduler.now
    for option in state.options:
        if state.load_seconds(option) < left and world.hardware.has_room(option.placement):
            world.fail(f"{state.spec.name} waits beside a free machine")


def check_end(world: World) -> None:
    """Every row has one fate, and what counts as scored is in the store."""
    if world.alive:
        world.fail("workers are left")
    for name, state in world.scheduler.streams.items():
        scored = Counter(world.counted[name])
        if scored and scored.most_common(1)[0][1] > 1:
            world.fail(f"{state.spec.name}: a row was counted twice")
        if not scored.keys() <= world.written[name]:
            world.fail(f"{state.spec.name}: a row counts as scored and is not in the store")
        if state.done != scored.total():
            world.fail(f"{state.spec.name}: {state.done} rows are counted, {scored.total()} were scored")
        fates: list[Request] = [*scored, *(request for request, _ in state.quarantined)]
        fates += [request for shard, _ in state.failures for request in shard.requests]
        fates += [request for piece in state.pieces for request in piece.shard.requests]
        if Counter(fates) != Counter(world.plans[name].owed):
            world.fail(f"{state.spec.name}: not every row has exactly one fate")
        if state.left_rows and not (world.scheduler.over and isfinite(world.scenario.limits.deadline)):
            world.fail(f"{state.spec.name}: {state.left_rows} rows are left")
        _check_blame(world, name, state)


def _check_blame(world: World, name: str, state: StreamState) -> None:
    """Preemptions count for nothing. Without other faults only the rows that kill are in quarantine."""
    given_before = world.scenario.limits.max_attempts - 1
    whole = {shard.id for shard in world.plans[name].shards}
    for shard, attempts in state.attempts.items():
        if attempts > world.blamed[shard] + (0 if shard in whole else given_before):
            world.fail(f"shard {shard} has {attempts} attempts, it met {world.blamed[shard]} faults that count")
    if name in world.scenario.never or world.scenario.faults != type(world.scenario.faults)():
        return
    killers = world.scenario.killers & set(world.plans[name].owed)
    given = {request for request, _ in state.quarantined}
    if not given <= killers:
        world.fail(f"{state.spec.name}: a row is in quarantine that kills nobody")
    few = len(killers) <= 1 and world.scenario.limits.max_strikes >= 12
    if few and not world.scheduler.over and not state.failed and given != killers:
        world.fail(f"{state.spec.name}: {len(killers)} rows kill, {len(given)} are in quarantine")
