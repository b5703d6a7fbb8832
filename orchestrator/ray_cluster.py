"""Joining a Ray cluster, and what it tells of its machines: which are there, which go away, which are wanted.

With an empty address Ray runs embedded, for this process alone; otherwise the workers join the cluster there.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from orchestrator.cluster import of_nodes, told_by_ray
from orchestrator.cost import CPU, Offer
from orchestrator.events import Node, NodeDraining, NodeJoined, NodeLost
from orchestrator.paths import PACKAGE
from workers.errors import InputError, first_line

# Ray reads these when it is imported. A cluster asks for a token by default, a joining driver sends none by default.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ) or (Path.home() / ".ray" / "auth_token").exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
import ray.exceptions
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import state as cluster_state
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get as internal_kv_get
from ray.util.client import ray as client

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""The machines are looked at so often, and at once when a worker is lost."""
USED = 0.8
"""Of the time until a machine is taken away: a shard may take longer than was predicted, and writing it takes too."""
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a gRPC client says first: HTTP/2's preface and an empty SETTINGS frame, which a server answers with its own."""

MADE_UP = "node_"
ACCELERATOR, ACCELERATOR_LABEL = "accelerator_type:", "ray.io/accelerator-type"
"""By which Ray tells the kind of a machine's GPUs: how a resource begins, and a label."""

Answer = TypeVar("Answer")
NodeEvent = NodeJoined | NodeDraining | NodeLost


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
    return sum(node.gpus for node in Watch(kinds=True).nodes())


def cluster_devices(address: str) -> tuple[Offer, ...]:
    """What a running cluster, which this joins, offers to the planner."""
    connect(address)
    return of_nodes(Watch(kinds=True).nodes())


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


@dataclass(frozen=True)
class Machines:
    """The machines that live, and of those that go away the time when: seconds since 1970, infinite if it is open.

    `resources` are those by which the autoscaler is asked for GPUs of a kind.
    """

    alive: Mapping[str, Node]
    leaving: Mapping[str, float]
    deaths: Mapping[str, str]
    resources: Mapping[str, str] = field(default_factory=dict)


def changes(before: Machines, after: Machines, now: float) -> list[NodeEvent]:
    """What happened between two looks, at `now` seconds since 1970."""
    gone = [NodeLost(name, after.deaths.get(name, "gone")) for name in before.alive if name not in after.alive]
    joined = [
        NodeJoined(node)
        for name, node in after.alive.items()
        if name not in after.leaving and (name not in before.alive or name in before.leaving)
    ]
    leaving = [
        NodeDraining(name, USED * max(0.0, when - now))
        for name, when in after.leaving.items()
        if name in after.alive and before.leaving.get(name) != when
    ]
    return [*gone, *joined, *leaving]


class Watch:
    """Looks at the machines now and then, and tells what has changed.

    `kinds`: the planner was told by Ray's names which GPUs there are, so the machines are named by them too.
    `resources` are those of `Machines`, of all looks.
    """

    def __init__(self, kinds: bool) -> None:
        self.resources: dict[str, str] = {}
        self._kinds = kinds
        self._seen = Machines({}, {}, {})
        self._looked = -inf

    def nodes(self) -> tuple[Node, ...]:
        """The machines that can be used now; they are known from here on."""
        self._seen = machines(self._kinds)
        self._looked = time.monotonic()
        self.resources |= self._seen.resources
        return tuple(node for name, node in self._seen.alive.items() if name not in self._seen.leaving)

    def events(self, at_once: bool = False) -> list[NodeEvent]:
        """What has changed since the last look, if it is time for one."""
        if not at_once and time.monotonic() - self._looked < LOOK_SECONDS:
            return []
        before = self._seen
        self.nodes()
        return changes(before, self._seen, time.time())


def machines(kinds: bool) -> Machines:
    """How Ray sees its machines now."""
    table: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    living = [state for state in table if state["Alive"]]
    alive = {state["NodeID"]: node_of(state, kinds) for state in living}
    deaths = {state["NodeID"]: state.get("DeathReasonMessage") or "gone" for state in table if not state["Alive"]}
    resources = {alive[state["NodeID"]].kind: told_by_ray(_resource_names(state))[1] for state in living}
    return Machines(
        alive, inside(_leaving), deaths, {kind: ACCELERATOR + name for kind, name in resources.items() if name}
    )


def node_of(state: Mapping[str, Any], kinds: bool) -> Node:
    """A machine as Ray tells of it; GPUs that it has no name for are of any kind."""
    resources: Mapping[str, float] = state["Resources"]
    cpus, gpus = (int(resources.get(name, 0)) for name in ("CPU", "GPU"))
    label = state.get("Labels", {}).get(ACCELERATOR_LABEL)
    kind, _ = told_by_ray([*_resource_names(state), *([label] if label else [])]) if kinds else ("", "")
    return Node(state["NodeID"], cpus, gpus, kind if gpus else CPU)


def _resource_names(state: Mapping[str, Any]) -> list[str]:
    """The names of the machine's GPUs among its resources."""
    return [name.removeprefix(ACCELERATOR) for name in state["Resources"] if name.startswith(ACCELERATOR)]


def _leaving() -> dict[str, float]:
    """The machines that are drained, each with its deadline; Ray tells 0 milliseconds where there is none."""
    deadlines: dict[str, int] = cluster_state.get_draining_nodes()
    return {node: milliseconds / 1000 if milliseconds else inf for node, milliseconds in deadlines.items()}


def ask_for(bundles: Sequence[Mapping[str, float]]) -> None:
    """Tell the autoscaler what the cluster should be able to hold, in all; it takes this until it is told anew."""
    inside(request_resources, None, [dict(bundle) for bundle in bundles])


def grows() -> bool:
    """Whether an autoscaler starts machines here; without one Ray makes up a type of node for each that joins."""
    return any(not name.startswith(MADE_UP) for name in inside(_node_types))


def _node_types() -> set[str]:
    if is_autoscaler_v2():
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return {node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}
    status = json.loads(internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
    return set(((status.get("autoscaler_report") or {}).get("node_type_mapping") or {}).values())


def inside(function: Callable[..., Answer], *arguments: Any) -> Answer:
    """Call what only members of the cluster can: here, or in a task of it where this is a client (`ray://`)."""
    if not client.is_connected():  # type: ignore[no-untyped-call]
        return function(*arguments)
    answer: Answer = ray.get(ray.remote(function).options(num_cpus=0).remote(*arguments), timeout=ANSWER_SECONDS)
    return answer
