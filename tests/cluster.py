"""A Ray cluster of several nodes on this machine, in a process of its own that does what a test says.

`python -m tests.cluster` starts a head without resources, prints its address, and then answers one JSON line with
another: `add` a node, `kill` its raylet, `drain` it. It ends with its standard input. `Machines` is the other side.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HEALTH = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray misses a machine after seconds, not half a minute."""
STORE_BYTES = 100 * 2**20
PREEMPTION = 2
"""`DRAIN_NODE_REASON_PREEMPTION` of Ray's protocol."""
CLIENT = importlib.util.find_spec("grpc") is not None
"""Whether Ray's client is installed: `ray[client]`, which `rewardsweep[metrics]` brings."""


class Machines:
    """Starts the cluster; `nodes` are those that were added and not killed, each with the process of its raylet.

    `settings` are Ray's, as environment variables.
    """

    def __init__(self, **settings: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **HEALTH, **settings}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.cluster"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.nodes: dict[str, int] = {}
        found = self._answer()
        self.address: str = found["address"]
        self.client: str = found["client"]

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def add(self, cpus: int = 1, gpus: int = 0) -> str:
        """A further node; its name."""
        node = self._ask(do="add", cpus=cpus, gpus=gpus)
        self.nodes[node["node"]] = node["raylet"]
        return str(node["node"])

    def kill(self, node: str) -> None:
        """SIGKILL for a raylet; its workers end with it."""
        self._ask(do="kill", node=node)
        del self.nodes[node]

    def drain(self, node: str, seconds: float) -> None:
        """Tell Ray that a node will be taken away, as a provider does with a spot machine."""
        assert self._ask(do="drain", node=node, seconds=seconds)["accepted"]

    def actors(self, node: str | None = None) -> list[int]:
        """Processes of our actors, on one node or on all that are left."""
        raylets = [self.nodes[node]] if node else list(self.nodes.values())
        return [pid for raylet in raylets for pid in _children(raylet) if "ParcelWorker" in _title(pid)]

    def busy(self) -> str:
        """A node that has an actor."""
        return next(node for node in self.nodes if self.actors(node))

    def _ask(self, **words: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        while line and not line.startswith("{"):
            line = self._process.stdout.readline()
        assert line, "the cluster's process has ended"
        found: dict[str, Any] = json.loads(line)
        return found


def _children(parent: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def main() -> None:
    from orchestrator import ray_cluster  # noqa: F401 - sets what Ray reads when it is imported

    # isort: split
    import ray._private.ray_constants as constants
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.cluster_utils import Cluster

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = {"num_cpus": 0, "include_dashboard": False, **({"ray_client_server_port": port} if CLIENT else {})}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    client = GcsClient(address=cluster.address)
    nodes: dict[str, Any] = {}
    print(json.dumps({"address": cluster.address, "client": f"ray://127.0.0.1:{port}"}), flush=True)  # noqa: T201
    for line in sys.stdin:
        asked, answer = json.loads(line), {}
        match asked["do"]:
            case "add":
                node = cluster.add_node(num_cpus=asked["cpus"], num_gpus=asked["gpus"], object_store_memory=STORE_BYTES)
                nodes[node.node_id] = node
                raylet = node.all_processes[constants.PROCESS_TYPE_RAYLET][0].process.pid
                answer = {"node": node.node_id, "raylet": raylet}
            case "kill":
                cluster.remove_node(nodes.pop(asked["node"]), allow_graceful=False)
            case "drain":
                deadline = int((time.time() + asked["seconds"]) * 1000)
                accepted, why = client.drain_node(asked["node"], PREEMPTION, "a test takes it away", deadline)
                answer = {"accepted": accepted, "why": why}
        print(json.dumps(answer), flush=True)  # noqa: T201
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
