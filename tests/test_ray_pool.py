"""The pool itself, on a Ray of this process with four logical GPUs: placement, fractions, groups, a weak store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator import driver
from orchestrator.cost import Placement
from orchestrator.events import Command, Event, Fetch, Start, Stop, Want
from orchestrator.plan import StreamPlan
from orchestrator.ray_pool import RayPool
from orchestrator.scheduler import Scheduler
from orchestrator.stores.parquet import ParquetStore
from tests.weak_store import WeakSink
from workers.actor import Sink
from workers.protocol import Message, ModelSpec, Request, Shard

# isort: split
# `ray_cluster` sets what Ray reads when it is imported
import ray

pytestmark = pytest.mark.ray
GPUS = 4
ROWS = 24
OUT_OF_REACH = 1000.0


class Seen(RayPool):
    """A pool that remembers what it was told, and what was free meanwhile."""

    def __init__(self, sink: Sink, plans: Sequence[StreamPlan]) -> None:
        super().__init__(sink, {plan.spec.fingerprint: plan.owed for plan in plans}, "", None)
        self.told: list[Command | Fetch | Want] = []
        self.free: list[float] = []

    def perform(self, command: Command | Fetch | Want) -> None:
        self.told.append(command)
        super().perform(command)

    def next_event(self, timeout: float) -> Event | None:
        event = super().next_event(timeout)
        self.free.append(ray.available_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
        return event

    def groups(self) -> list[str]:
        """States of the placement groups that are left."""
        return [group["state"] for group in ray.util.placement_group_table().values()]


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init("local", num_gpus=GPUS, num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def plan(name: str, gpus: float, pause: float = 0.1) -> StreamPlan:
    spec = ModelSpec(
        name, "none", "none", "baseline", "1", "tests.gpus_engine", "1", (), options={"pause": pause, "name": name}
    )
    requests = tuple(Request("reward", (Message("user", f"q {row}"),), ("a" * row,)) for row in range(ROWS))
    shards = tuple(
        Shard(f"{name}-{first}", spec.fingerprint, requests[first : first + 4]) for first in range(0, ROWS, 4)
    )
    placement = Placement("", gpus, 1, OUT_OF_REACH, (pause,) * len(shards))  # a second worker never pays
    return StreamPlan(spec, ROWS, requests, ("",) * ROWS, "new", shards, (placement,))


def sweep(plans: Sequence[StreamPlan], store: ParquetStore, sink: Sink | None = None) -> tuple[Scheduler, Seen]:
    store.prepare()
    pool = Seen(sink or store.write, plans)
    scheduler = Scheduler(plans, pool.capacity())
    driver.run(scheduler, pool, lambda event: None)
    return scheduler, pool


def footers(store: ParquetStore, plan: StreamPlan, fact: str) -> set[str]:
    """What the parts of a model say."""
    return {facts[fact] for facts in store.read(plan.spec.fingerprint).provenance}


def test_a_model_has_its_gpus_to_itself_and_gives_them_back(cluster: None, local: ParquetStore) -> None:
    plans = [plan("two", 2), plan("one", 1), plan("half", 0.5), plan("other-half", 0.5)]
    scheduler, pool = sweep(plans, local)
    assert all(stream.done == ROWS for stream in scheduler.streams.values())
    assert [footers(local, one, "gpus") for one in plans] == [{"2"}, {"1"}, {"0.5"}, {"0.5"}], "what each really held"
    assert [footers(local, one, "spread") for one in plans] == [{"2"}, {"1"}, {"1"}, {"1"}]
    sets = [footers(local, one, "visible") for one in plans]
    assert all(len(seen) == 1 for seen in sets), "one process a model, for its whole life"
    two, one, half, other = (next(iter(seen)).split(",") for seen in sets)
    assert len(two) == 2
    assert len({*two, *one, *half}) == GPUS
    assert half == other
    assert min(pool.free) == 0.0, "all GPUs were in use at the same time"
    starts = [told.worker for told in pool.told if isinstance(told, Start)]
    stops = [told.worker for told in pool.told if isinstance(told, Stop)]
    assert sorted(starts) == sorted(stops)
    assert set(pool.groups()) == {"REMOVED"}
    pool.close()


def test_a_store_that_is_slow_and_refuses_costs_time_and_nothing_else(
    cluster: None, local: ParquetStore, tmp_path: Path
) -> None:
    plans = [plan("one", 1), plan("other", 1)]
    scheduler, pool = sweep(plans, local, WeakSink(local, tmp_path, 0.3, refusals=2))
    pool.close()
    assert len(list(tmp_path.glob("refused-*"))) == 2
    for one in plans:
        state = scheduler.streams[one.spec.fingerprint]
        assert (state.done, state.failed_rows, len(state.quarantined)) == (ROWS, 0, 0)
        assert len(local.read(one.spec.fingerprint).rows) == ROWS
