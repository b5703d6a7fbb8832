"""A pool on Ray: every worker is an actor process of its own. The only file that imports ray.

With an empty address Ray runs embedded, for this process alone; otherwise the workers join the cluster there.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from orchestrator.cost import CPU
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
    Node,
    Ready,
    Start,
    Stop,
)
from orchestrator.paths import PACKAGE
from workers.actor import Sink, Worker
from workers.errors import EngineError, InputError, SweepError, first_line
from workers.fetch import fetch
from workers.protocol import Request

# Ray reads these when it is imported. A cluster asks for a token by default, a joining driver sends none by default.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ) or (Path.home() / ".ray" / "auth_token").exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

CONNECT_SECONDS = 10.0
CUDA_ERROR = "CUDA error"
"""How the CUDA runtime's errors begin: after one the process is of no more use, and perhaps its GPU."""
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a gRPC client says first: HTTP/2's preface and an empty SETTINGS frame, which a server answers with its own."""


class RayPool:
    """Actors on an embedded or a remote Ray cluster."""

    def __init__(
        self, sink: Sink, requests: Mapping[str, Sequence[Request]], address: str, workers: int | None
    ) -> None:
        self._requests = requests
        self._workers = workers
        self._actors: dict[int, Any] = {}
        self._tasks: dict[Any, Lint | Load | Assign | Check] = {}
        connect(address)
        self._sink = sink

    def perform(self, command: Command | Fetch) -> None:
        """Send the command to its actor."""
        match command:
            case Start(number, spec, placement, nodes):
                actor = ray.remote(Worker).options(
                    max_restarts=0,
                    name=f"{spec.name}-{number}-{os.getpid()}",
                    num_gpus=placement.gpus,
                    num_cpus=0 if placement.gpus else 1,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(nodes[0], soft=True),
                )
                self._actors[number] = actor.remote(spec, self._sink)
            case Lint(number, stream):
                self._tasks[self._actors[number].lint.remote(list(self._requests[stream]))] = command
            case Load(number):
                self._tasks[self._actors[number].load.remote()] = command
            case Assign(number, shard):
                self._tasks[self._actors[number].score.remote(shard)] = command
            case Stop(number):
                mine = [task for task, told in self._tasks.items() if getattr(told, "worker", None) == number]
                for task in mine:
                    del self._tasks[task]
                ray.kill(self._actors.pop(number))
            case Check(node):
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                check = ray.remote(_gpus_answer).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
                self._tasks[check.remote()] = command
            case Fetch(spec, node):  # nobody waits for it: what it cannot fetch, the load will miss and say
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                ray.remote(fetch).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(spec)

    def next_event(self, timeout: float) -> Event | None:
        """The first task to end within `timeout` seconds, as an event."""
        if not self._tasks:  # what is left waits for a machine
            time.sleep(timeout)
            return None
        ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=timeout)
        if not ready:
            return None
        command = self._tasks.pop(ready[0])
        return self._answer(ready[0], command)

    def _answer(self, task: Any, command: Lint | Load | Assign | Check) -> Event:
        if isinstance(command, Check):
            return GpuChecked(command.node, _is_well(task))
        try:
            return _event(command, ray.get(task))
        except ray.exceptions.RayTaskError as error:
            cause = _cause(error)
            if CUDA_ERROR not in str(cause):
                return Failed(command.worker, cause)
            ray.kill(self._actors.pop(command.worker))
            return Lost(command.worker, str(cause), gpu=True)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            preempted = bool(getattr(error, "preempted", False))
            return Lost(command.worker, _death(error), preempted)

    def capacity(self) -> Capacity:
        """The cluster's nodes, at most the configured number of workers."""
        found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return Capacity(tuple(_node(state) for state in found if state["Alive"]), self._workers)

    def close(self) -> None:
        """Kill the actors and leave the cluster; an embedded one ends."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        ray.shutdown()


def connect(address: str) -> None:
    """Join the cluster at `address`, or start an embedded one; `InputError` when nothing answers.

    Ray puts the driver's working directory first on the actors' import path, so the driver joins from the folder of
    this package: another folder named `workers` in the user's directory must never be imported.
    """
    if address and address != "auto":
        _check_reachable(address)
    options: dict[str, Any] = {"include_dashboard": False} if not address else {}
    with chdir(PACKAGE.parent), _native_log() as log:
        try:
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                ignore_reinit_error=True,
                **options,
            )
        except Exception as error:
            if not address:
                raise InputError(f"cannot start an embedded Ray: {first_line(error)}") from error
            log.seek(0)
            token = b"InvalidAuthToken" in log.read()
            reason = "its authentication token is missing or wrong here" if token else first_line(error)
            remedy = (
                "set RAY_AUTH_TOKEN to the cluster's"
                if token
                else "check the address and that both run one Ray version"
            )
            raise InputError(f"ray.address={address}: cannot join: {reason}; {remedy}") from error


@contextmanager
def _native_log() -> Iterator[IO[bytes]]:
    """Standard error, while Ray's native code writes retries to it, kept apart in a file."""
    with tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield log
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def cluster_gpus(address: str) -> int:
    """The GPUs of a running cluster, which this joins."""
    connect(address)
    return int(_resources().get("GPU", 0))


def _resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def _check_reachable(address: str) -> None:
    """Ray waits for minutes, or aborts the process, where nothing listens; a plain connection tells at once."""
    parts = urlsplit(address if "://" in address else f"gcs://{address}")
    try:
        host, port = parts.hostname, parts.port or (10001 if parts.scheme == "ray" else None)
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise InputError(f"ray.address={address}: not an address; give host:port, ray://host:port or auto")
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(HTTP2_HELLO)
                if connection.recv(9)[3:4] != b"\x04":
                    raise OSError("what listens there is not Ray")
    except OSError as error:
        raise InputError(
            f"ray.address={address}: does not answer ({error.strerror or error}); start the cluster, correct the "
            "address, or leave ray.address empty for an embedded Ray"
        ) from error


def _node(state: Mapping[str, Any]) -> Node:
    """A machine as Ray tells of it; Ray's label does not tell an A100 of 40 GB from one of 80."""
    cpus, gpus = (int(state["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
    return Node(state["NodeID"], cpus, gpus, "" if gpus else CPU)


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


def _cause(error: ray.exceptions.RayTaskError) -> SweepError:
    """The worker's own error; anything unexpected becomes an `EngineError` with its first line."""
    if isinstance(error.cause, SweepError):
        return error.cause
    return EngineError(f"{type(error.cause).__name__}: {first_line(error.cause)}")


def _death(error: BaseException) -> str:
    """Why an actor is gone; where its creation raised, Ray's last line says what."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines and "creation task" in lines[0] else first_line(error)
