"""Which worker holds what of which node. Takes whole GPUs, shares of one, CPU slots; never more than there is.

Shares are counted in ten-thousandths, as Ray does, so that three thirds fit on one GPU and sums are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from orchestrator.cost import Placement
from orchestrator.events import Capacity, Node

WHOLE = 10_000


@dataclass
class NodeState:
    """A node's free CPU slots and free share of each GPU; what failed and waits for a check; when it goes away."""

    node: Node
    cpus: int
    gpus: dict[int, int]
    suspect: set[int] = field(default_factory=set)
    until: float | None = None

    @property
    def free(self) -> list[int]:
        """GPUs that are wholly free."""
        return [gpu for gpu, share in self.gpus.items() if share == WHOLE and gpu not in self.suspect]


@dataclass(frozen=True)
class Held:
    """What a worker holds of one node: a share of each of some GPUs, or a CPU slot where there are none."""

    node: str
    gpus: tuple[int, ...]
    share: int


class Ledger:
    """The nodes and what is taken of them."""

    def __init__(self, capacity: Capacity) -> None:
        self.nodes: dict[str, NodeState] = {}
        self._limit = capacity.workers
        self._held: dict[int, tuple[Held, ...]] = {}
        self._fits: dict[tuple[str, float, int], bool] = {}
        for node in capacity.nodes:
            self.join(node)

    def join(self, node: Node) -> None:
        """Add a node; one that was to go away stays."""
        self._fits.clear()
        if node.id in self.nodes:
            self.nodes[node.id].until = None
        else:
            self.nodes[node.id] = NodeState(node, node.cpus, dict.fromkeys(range(node.gpus), WHOLE))

    def drop(self, name: str) -> list[int]:
        """Forget a node; the workers that had a part of it."""
        self._fits.clear()
        self.nodes.pop(name, None)
        return self._workers_on(name)

    def drain(self, name: str, until: float) -> list[int]:
        """Start nothing more on a node that goes away; the workers that have a part of it."""
        self._fits.clear()
        if name in self.nodes:
            self.nodes[name].until = until
        return self._workers_on(name)

    def _workers_on(self, name: str) -> list[int]:
        return [worker for worker, parts in self._held.items() if any(part.node == name for part in parts)]

    def find(self, placement: Placement, shunned: Set[str] = frozenset()) -> tuple[str, ...] | None:
        """Nodes that have room for a worker now; None if there are none.

        The fullest first, so that large holes stay; those that are shunned last.
        """
        if self._limit is not None and len(self._held) >= self._limit:
            return None
        rooms = [(room, name) for name, node in self.nodes.items() if (room := _room(node, placement)) is not None]
        if len(rooms) < placement.nodes:
            return None
        ranked = sorted((name in shunned, room, name) for room, name in rooms)
        return tuple(name for _, _, name in ranked[: placement.nodes])

    def fits(self, placement: Placement) -> bool:
        """Whether the nodes that stay could hold a worker if they were empty; what awaits a check counts."""
        key = (placement.kind, placement.gpus, placement.nodes)
        if key not in self._fits:
            empty = (
                NodeState(state.node, state.node.cpus, dict.fromkeys(state.gpus, WHOLE))
                for state in self.nodes.values()
                if state.until is None
            )
            self._fits[key] = sum(_room(state, placement) is not None for state in empty) >= placement.nodes
        return self._fits[key]

    def take(self, worker: int, placement: Placement, nodes: Iterable[str]) -> None:
        """Give a worker its part of nodes that `find` named."""
        self._held[worker] = tuple(self._take_of(self.nodes[name], placement) for name in nodes)

    def _take_of(self, state: NodeState, placement: Placement) -> Held:
        if placement.gpus == 0:
            state.cpus -= 1
            return Held(state.node.id, (), 0)
        share, gpus = _share(placement), tuple(state.free[: _count(placement)])
        if share < WHOLE:
            gpus = (min(_partly(state, share), key=lambda gpu: (state.gpus[gpu], gpu)),)
        for gpu in gpus:
            state.gpus[gpu] -= share
        return Held(state.node.id, gpus, share)

    def give_back(self, worker: int) -> None:
        """Free what a worker held."""
        for part in self._held.pop(worker):
            state = self.nodes.get(part.node)
            if state is not None:
                state.cpus += not part.gpus
                for gpu in state.gpus.keys() & set(part.gpus):
                    state.gpus[gpu] += part.share

    def suspect(self, worker: int) -> list[str]:
        """Keep a worker's GPUs out of use until they were checked; the nodes that they are of."""
        parts = [part for part in self._held[worker] if part.gpus and part.node in self.nodes]
        for part in parts:
            state = self.nodes[part.node]
            state.suspect |= state.gpus.keys() & set(part.gpus)
        return [part.node for part in parts]

    def checked(self, name: str, healthy: bool) -> None:
        """Use a node's suspect GPUs again, or never more."""
        state = self.nodes.get(name)
        if state is None:
            return
        if not healthy:
            self._fits.clear()
            for gpu in state.suspect:
                del state.gpus[gpu]
        state.suspect.clear()

    def deadline(self, worker: int) -> float | None:
        """When the first of a worker's nodes goes away."""
        ends = [self.nodes[part.node].until for part in self._held[worker] if part.node in self.nodes]
        return min((end for end in ends if end is not None), default=None)

    def size(self, gpus: bool) -> int:
        """GPUs, or CPU slots, of the nodes that stay."""
        staying = [state for state in self.nodes.values() if state.until is None]
        return sum(len(state.gpus) if gpus else state.node.cpus for state in staying)


def _share(placement: Placement) -> int:
    return min(WHOLE, round(placement.gpus * WHOLE))


def _count(placement: Placement) -> int:
    """Whole GPUs of each node."""
    return -(-int(placement.gpus) // placement.nodes)


def _partly(state: NodeState, share: int) -> list[int]:
    return [gpu for gpu, free in state.gpus.items() if free >= share and gpu not in state.suspect]


def _room(state: NodeState, placement: Placement) -> tuple[int, int] | None:
    """How much a node has beyond what a worker takes, None if it has too little: the least is the best fit."""
    if state.until is not None:
        return None
    if placement.gpus == 0:
        return (state.node.gpus, -state.cpus) if state.cpus >= 1 else None
    if not state.node.gpus or (placement.kind != state.node.kind and placement.kind and state.node.kind):
        return None
    share = _share(placement)
    if share < WHOLE:
        shares = [state.gpus[gpu] for gpu in _partly(state, share)]
        return (min(shares) - share, 0) if shares else None
    free = len(state.free) - _count(placement)
    return (free, 0) if free >= 0 else None
