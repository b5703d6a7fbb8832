"""A pool on Ray: every worker is an actor process of its own. The only file that imports ray.

With an empty address Ray runs embedded, for this process alone; otherwise the workers join the cluster there.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from orchestrator.paths import PACKAGE
from orchestrator.scheduler import (
    Assign,
    Capacity,
    Command,
    Done,
    Event,
    Failed,
    Lint,
    Linted,
    Load,
    Lost,
    Ready,
    Start,
    Stop,
)
from workers.actor import Sink, Worker
from workers.errors import EngineError, InputError, SweepError, first_line
from workers.protocol import Request

# Ray reads these when it is imported. A cluster asks for a token by default, a joining driver sends none by default.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ) or (Path.home() / ".ray" / "auth_token").exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
import ray.exceptions

CONNECT_SECONDS = 10.0
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a gRPC client says first: HTTP/2's preface and an empty SETTINGS frame, which a server answers with its own."""


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
        self._requests = requests
        self._workers = workers
        self._actors: dict[int, Any] = {}
        self._tasks: dict[Any, tuple[int, Command]] = {}
        connect(address)
        self._sink = sink
        self._log = log

    def perform(self, command: Command) -> None:
        """Send the command to its actor."""
        match command:
            case Start(number, spec):
                resources = {"num_gpus": spec.gpus, "num_cpus": 0 if spec.gpus else 1}
                actor = ray.remote(Worker).options(
                    max_restarts=0, name=f"{spec.name}-{number}-{os.getpid()}", **resources
                )
                self._actors[number] = actor.remote(spec, self._sink, self._log)
            case Lint(number, stream):
                self._follow(self._actors[number].lint.remote(list(self._requests[stream])), number, command)
            case Load(number):
                self._follow(self._actors[number].load.remote(), number, command)
            case Assign(number, shard):
                self._follow(self._actors[number].score.remote(shard), number, command)
            case Stop(number):
                self._tasks = {task: value for task, value in self._tasks.items() if value[0] != number}
                ray.kill(self._actors.pop(number))

    def _follow(self, task: Any, number: int, command: Command) -> None:
        self._tasks[task] = (number, command)

    def next_event(self, timeout: float) -> Event | None:
        """The first task to end within `timeout` seconds, as an event."""
        ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=timeout)
        if not ready:
            return None
        number, command = self._tasks.pop(ready[0])
        try:
            return _event(number, command, ray.get(ready[0]))
        except ray.exceptions.RayTaskError as error:
            return Failed(number, _cause(error))
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            preempted = bool(getattr(error, "preempted", False))
            return Lost(number, _death(error), preempted)

    def capacity(self) -> Capacity:
        """The cluster's resources, at most the configured number of workers."""
        resources = _resources()
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        return Capacity(min(cpus, self._workers or cpus), min(gpus, self._workers or gpus))

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


def _event(number: int, command: Command, result: Any) -> Event:
    match command:
        case Lint():
            return Linted(number, tuple(result))
        case Load():
            return Ready(number, result)
        case _:
            return Done(number, result)


def _cause(error: ray.exceptions.RayTaskError) -> SweepError:
    """The worker's own error; anything unexpected becomes an `EngineError` with its first line."""
    if isinstance(error.cause, SweepError):
        return error.cause
    return EngineError(f"{type(error.cause).__name__}: {first_line(error.cause)}")


def _death(error: BaseException) -> str:
    """Why an actor is gone; where its creation raised, Ray's last line says what."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines and "creation task" in lines[0] else first_line(error)
