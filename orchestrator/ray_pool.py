"""A pool on Ray: every worker is an actor process of its own, on the nodes that the scheduler names.

`ray_cluster` joins the cluster and watches its machines, `parcels` keeps texts in its object store;
docs/running-on-ray.md explains how all of it maps to Ray.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.events import (
    Assign,
    Capacity,
    Check,
    Command,
    Done,
    Event,
    Failed,
    Fetch,
    GpuChecked,
    Lint,
    Linted,
    Load,
    Lost,
    Need,
    Ready,
    Start,
    Stop,
    Want,
)
from orchestrator.parcels import ParcelWorker, Texts
from orchestrator.ray_cluster import Watch, ask_for, connect, grows
from workers.actor import Sink
from workers.errors import EngineError, SweepError, first_line
from workers.fetch import fetch
from workers.protocol import Request

# isort: split
# `ray_cluster` sets what Ray reads when it is imported
import ray
import ray.exceptions
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

CUDA_ERROR = "CUDA error"
"""How the CUDA runtime's errors begin: after one the process is of no more use, and perhaps its GPU."""
NODE_LABEL = "ray.io/node-id"
SOME = 0.001
"""A share of a node's `accelerator_type` that any node of the kind can give."""


@dataclass(frozen=True)
class Actor:
    """An actor's handle, and the placement group that it has where it takes several GPUs."""

    handle: Any
    group: PlacementGroup | None


class RayPool:
    """Actors on an embedded or a remote Ray cluster."""

    def __init__(
        self,
        sink: Sink,
        requests: Mapping[str, Sequence[Request]],
        address: str,
        workers: int | None,
        log: Mapping[str, str] | None = None,
    ) -> None:
        self._workers = workers
        self._actors: dict[int, Actor] = {}
        self._tasks: dict[Any, Lint | Load | Assign | Check] = {}
        self._happened: deque[Event] = deque()
        self._watch = Watch(kinds=bool(address))
        self._wanted = Want(())
        connect(address)
        self._grows = bool(address) and grows()
        self._requests = requests
        self._texts = Texts(requests.values(), ray.put)
        self._sink = sink
        self._log = log

    def perform(self, command: Command | Fetch | Want) -> None:
        """Send the command to its actor."""
        match command:
            case Start():
                self._actors[command.worker] = self._start(command)
            case Lint(number, stream):
                parcel = self._texts.parcel(self._requests[stream])
                self._tasks[self._actors[number].handle.lint_parcel.remote(parcel.picks, *parcel.chunks)] = command
            case Load(number):
                self._tasks[self._actors[number].handle.load.remote()] = command
            case Assign(number, shard):
                parcel = self._texts.parcel(shard.requests)
                words = (shard.id, shard.stream, parcel.picks, *parcel.chunks)
                self._tasks[self._actors[number].handle.score_parcel.remote(*words)] = command
            case Stop(number):
                self._end(number)
            case Check(node):
                self._tasks[_on(node, _gpus_answer)] = command
            case Fetch(spec, node):
                _on(node, fetch, spec)  # nobody waits for it: what it cannot fetch, the load will miss and say
            case Want():
                self._ask_for(command)

    def _start(self, command: Start) -> Actor:
        """An actor on the node that the scheduler chose, or on the first of several."""
        placement, group = command.placement, None
        where: Any = NodeAffinitySchedulingStrategy(command.nodes[0], soft=False)
        if placement.gpus > 1:
            group = _group(placement.gpus, command.nodes)
            where = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
        options = ray.remote(ParcelWorker).options(
            max_restarts=0,
            name=f"{command.spec.name}-{command.worker}-{os.getpid()}",
            num_gpus=placement.gpus / placement.nodes if placement.gpus else 0,
            num_cpus=0 if placement.gpus else 1,
            scheduling_strategy=where,
        )
        return Actor(options.remote(command.spec, self._sink, self._log, placement.gpus), group)

    def _end(self, number: int) -> None:
        """End a worker's process, if it is still there, and free what it held; nothing more is heard of it."""
        for task in [task for task, told in self._tasks.items() if getattr(told, "worker", None) == number]:
            del self._tasks[task]
        actor = self._actors.pop(number, None)
        if actor is not None:
            ray.kill(actor.handle)
            if actor.group is not None:
                remove_placement_group(actor.group)

    def _ask_for(self, want: Want) -> None:
        """Tell the autoscaler, if there may be one, what has changed."""
        if self._grows and want != self._wanted:
            ask_for([bundle for need in want.needs for bundle in bundles(need, self._watch.resources)])
            self._wanted = want

    def next_event(self, timeout: float) -> Event | None:
        """What happened first within `timeout` seconds; all that is ready is taken at once."""
        if not self._happened:
            self._happened += self._watch.events()
            self._wait(0.0 if self._happened else timeout)
        return self._happened.popleft() if self._happened else None

    def _wait(self, timeout: float) -> None:
        if not self._tasks:  # what is left waits for a machine
            time.sleep(timeout)
            return
        tasks = list(self._tasks)
        ready, _ = ray.wait(tasks, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        for task in ready:
            if task in self._tasks:
                event = self._answer(task, self._tasks.pop(task))
                if isinstance(event, Lost):
                    self._end(event.worker)
                    self._happened += self._watch.events(at_once=True)  # whose machine is gone is no fault of its own
                self._happened.append(event)

    def _answer(self, task: Any, command: Lint | Load | Assign | Check) -> Event:
        if isinstance(command, Check):
            return GpuChecked(command.node, _is_well(task))
        try:
            return _event(command, ray.get(task))
        except ray.exceptions.RayTaskError as error:
            cause = _cause(error)
            return Lost(command.worker, str(cause), gpu=True) if _broken(cause) else Failed(command.worker, cause)
        except ray.exceptions.ActorUnavailableError as error:  # its machine, not its process: Ray knows of that one
            return Lost(command.worker, first_line(error), preempted=True)
        except ray.exceptions.RayError as error:
            return Lost(command.worker, _death(error), bool(getattr(error, "preempted", False)))

    def capacity(self) -> Capacity:
        """The cluster's nodes, at most the configured number of workers."""
        return Capacity(self._watch.nodes(), self._workers, self._grows)

    def close(self) -> None:
        """Kill the actors, want nothing more, and leave the cluster; an embedded one ends."""
        for number in tuple(self._actors):
            self._end(number)
        self._ask_for(Want(()))
        ray.shutdown()


def _on(node: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """A task on one node, which takes no place there."""
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=where).remote(*arguments)


def _group(gpus: float, nodes: Sequence[str]) -> PlacementGroup:
    """GPUs that are had together or not at all: on one node, or the same number on each of several."""
    group: PlacementGroup = placement_group(
        [{"GPU": gpus / len(nodes)} for _ in nodes],
        strategy="STRICT_PACK" if len(nodes) == 1 else "STRICT_SPREAD",
        bundle_label_selector=[{NODE_LABEL: node} for node in nodes],
    )
    return group


def bundles(need: Need, resources: Mapping[str, str]) -> list[dict[str, float]]:
    """What the autoscaler is asked for: a bundle for each node of each worker.

    `resources` has the name by which machines of a kind tell it; where they have none, any GPU must do.
    """
    if not need.gpus:
        return [{"CPU": 1.0}] * need.workers
    kind = {resources[need.kind]: SOME} if need.kind in resources else {}
    return [{"GPU": need.gpus / need.nodes, **kind}] * (need.nodes * need.workers)


def _gpus_answer() -> bool:
    """Whether the driver of this machine's GPUs sees all of them; it says so when one has fallen off the bus."""
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0  # noqa: S607


def _is_well(task: Any) -> bool:
    """What a check found; a node that cannot be asked is not healthy."""
    try:
        return bool(ray.get(task))
    except ray.exceptions.RayError:
        return False


def _event(command: Lint | Load | Assign, result: Any) -> Event:
    match command:
        case Lint(number):
            return Linted(number, tuple(result))
        case Load(number):
            return Ready(number, result)
        case Assign(number, shard):
            return Done(number, shard.id, result)


def _broken(cause: SweepError) -> bool:
    return CUDA_ERROR in str(cause)


def _cause(error: ray.exceptions.RayTaskError) -> SweepError:
    """The worker's own error; anything unexpected becomes an `EngineError` with its first line."""
    if isinstance(error.cause, SweepError):
        return error.cause
    return EngineError(f"{type(error.cause).__name__}: {first_line(error.cause)}")


def _death(error: BaseException) -> str:
    """Why an actor is gone; where its creation raised, Ray's last line says what."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines and "creation task" in lines[0] else first_line(error)
