"""An engine for tests, named as a dotted plug-in: scores like `longest`, and raises what its script says.

One script a process, so it suits the local pool only. Each list holds what the next calls raise, None for nothing;
where it is at its end, all goes well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from workers.engines import baseline
from workers.engines.baseline import shown, token_hashes
from workers.protocol import Finding, ModelSpec, Output, Request, Unscored

VERSION = "1"
PACKAGES: tuple[str, ...] = ()
NEEDS_WEIGHTS = False
KINDS = ("reward",)

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "SCRIPT", "VERSION", "lint", "load", "shown", "token_hashes"]


@dataclass
class Script:
    """What goes wrong, and a log of what was called: `lint`, `load`, `run` and `close` with the model's name."""

    lints: list[BaseException | None] = field(default_factory=list)
    loads: list[BaseException | None] = field(default_factory=list)
    runs: list[BaseException | None] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unscored: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def clear(self) -> None:
        for part in (self.lints, self.loads, self.runs, self.findings, self.unscored, self.log):
            part.clear()

    def call(self, what: str, name: str, planned: list[BaseException | None]) -> None:
        self.log.append(f"{what} {name}")
        problem = planned.pop(0) if planned else None
        if problem is not None:
            raise problem


SCRIPT = Script()


class ScriptedEngine:
    """Raises where the script says so."""

    def __init__(self, spec: ModelSpec) -> None:
        SCRIPT.call("load", spec.name, SCRIPT.loads)
        self._name = spec.name
        self._baseline = baseline.load(replace(spec, options={"score": "longest"}))

    def run(self, requests: Sequence[Request]) -> list[Output | Unscored]:
        """`unscored` are reasons why the next calls have no answer to their first request."""
        SCRIPT.call("run", self._name, SCRIPT.runs)
        refused = [Unscored(SCRIPT.unscored.pop(0))] if SCRIPT.unscored else []
        return [*refused, *self._baseline.run(requests[len(refused) :])]

    def details(self) -> dict[str, str]:
        return {"device": "script"}

    def close(self) -> None:
        SCRIPT.log.append(f"close {self._name}")


def load(spec: ModelSpec) -> ScriptedEngine:
    return ScriptedEngine(spec)


def lint(spec: ModelSpec, requests: Sequence[Request]) -> list[Finding]:
    SCRIPT.call("lint", f"{spec.name} {len(requests)}", SCRIPT.lints)
    return list(SCRIPT.findings)
