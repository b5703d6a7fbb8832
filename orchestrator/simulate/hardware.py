"""The virtual machines' GPUs and CPU slots, given out as Ray does: a share goes where it leaves the least."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from orchestrator.cost import CPU, Placement
from orchestrator.events import Node


class Box:
    """A machine: what is free of each GPU and of the CPU slots, which GPUs broke and were not looked at since."""

    def __init__(self, node: Node) -> None:
        self.kind, self.cpus = node.kind, node.cpus
        self.gpus = [Fraction(1)] * node.gpus
        self.broken: set[int] = set()
        self.draining = False

    def pick(self, placement: Placement) -> list[int] | None:
        """The GPUs that a worker would get here, None where there is no room."""
        if placement.gpus == 0:
            return [] if self.cpus >= 1 else None
        if placement.kind not in ("", self.kind) or self.kind == CPU:
            return None
        share = Fraction(placement.gpus).limit_denominator(10_000) / placement.nodes
        working = [index for index in range(len(self.gpus)) if index not in self.broken]
        if share < 1:
            room = sorted((self.gpus[index], index) for index in working if self.gpus[index] >= share)
            return [room[0][1]] if room else None
        whole = [index for index in working if self.gpus[index] == 1]
        return whole[: int(share)] if len(whole) >= share else None


class Hardware:
    """All machines, and who holds what."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.boxes: dict[str, Box] = {}
        self._held: dict[int, list[tuple[Box, list[int], Fraction]]] = {}
        for node in nodes:
            self.join(node)

    def join(self, node: Node) -> None:
        """A machine begins."""
        self.boxes[node.id] = Box(node)

    def drop(self, name: str) -> bool:
        """A machine ends; whether it was there."""
        return self.boxes.pop(name, None) is not None

    def drain(self, name: str) -> bool:
        """A machine is going to end; whether that is news."""
        box = self.boxes.get(name)
        if box is None or box.draining:
            return False
        box.draining = True
        return True

    def stay(self, name: str) -> bool:
        """A machine does not end after all; whether it is there."""
        if name in self.boxes:
            self.boxes[name].draining = False
        return name in self.boxes

    def take(self, worker: int, placement: Placement, nodes: tuple[str, ...]) -> bool:
        """Give a worker its part of the named machines; False where it cannot be had."""
        if len(nodes) != placement.nodes or len(set(nodes)) != len(nodes) or not set(nodes) <= self.boxes.keys():
            return False
        boxes = [self.boxes[name] for name in nodes]
        picks = [None if box.draining else box.pick(placement) for box in boxes]
        if any(pick is None for pick in picks):
            return False
        share = min(Fraction(1), Fraction(placement.gpus).limit_denominator(10_000) / placement.nodes)
        self._held[worker] = [(box, pick, share) for box, pick in zip(boxes, picks, strict=True) if pick is not None]
        for box, pick, _ in self._held[worker]:
            box.cpus -= not pick
            for index in pick:
                box.gpus[index] -= share
        return True

    def free(self, worker: int, broken: bool) -> None:
        """A worker has ended, perhaps since its GPUs broke."""
        for box, pick, share in self._held.pop(worker):
            box.cpus += not pick
            for index in pick:
                box.gpus[index] += share
            if broken:
                box.broken.update(pick)

    def checked(self, name: str, healthy: bool) -> None:
        """What broke works again, or never will."""
        box = self.boxes.get(name)
        if box is not None:
            for index in box.broken if not healthy else ():
                box.gpus[index] = Fraction(-1000)
            box.broken.clear()

    def has_room(self, placement: Placement) -> bool:
        """Whether a worker could be started now."""
        rooms = [box for box in self.boxes.values() if not box.draining and box.pick(placement) is not None]
        return len(rooms) >= placement.nodes
