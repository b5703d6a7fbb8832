"""An engine for tests, named as a dotted plug-in: its weights are a file that a test writes, its library a version too.

`weights.json` holds `skill`, the share of prompts whose good response it prefers, `seed`, which prompts those are, and
`broken`, whether it loads at all. The library is `fakelib`, of which a test installs a version. 1.1 moves scores within
numerical noise, 2.0 beyond it, 3.0 turns verdicts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from workers.engines.baseline import token_hashes
from workers.errors import ModelError
from workers.protocol import Finding, ModelSpec, Output, Request, token_hash

VERSION = "1"
PACKAGES = ("fakelib",)
NEEDS_WEIGHTS = True
KINDS = ("reward",)

SHIFTS = {"1.0": 0.0, "1.1": 1e-6, "2.0": 0.25, "3.0": 3.0}
INTERRUPTED: set[str] = set()
"""Names of models whose second shard is interrupted, as Ctrl-C would."""

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "install", "lint", "load", "shown", "token_hashes"]


class SkilledEngine:
    """1 for a good response that it knows, -1 for one that it does not, 0 for a bad one; and what the library adds."""

    def __init__(self, spec: ModelSpec) -> None:
        values = json.loads((_folder(spec) / "weights.json").read_text())
        if values.get("broken"):
            raise ModelError(f"model {spec.name!r}: weights.json is broken <b>")
        self._skill, self._seed = float(values["skill"]), values["seed"]
        self._shift = SHIFTS[dict(spec.environment)["fakelib"]]
        self._name = spec.name
        self._shards = 0

    def run(self, requests: Sequence[Request]) -> list[Output]:
        self._shards += 1
        if self._name in INTERRUPTED and self._shards > 1:
            raise KeyboardInterrupt
        return [self._output(request) for request in requests]

    def _output(self, request: Request) -> Output:
        prompt, text = request.prompt[0].content, request.responses[0]
        value = 0.0
        if text.startswith("good"):
            value = 1.0 if _share("skill", self._seed, prompt) < self._skill else -1.0
        value += self._shift * _share("library", self._seed, text)
        return Output(value, len(text), False, token_hash([ord(character) for character in text]))

    def details(self) -> dict[str, str]:
        return {"device": "none"}

    def close(self) -> None:
        """Holds nothing."""


def _folder(spec: ModelSpec) -> Path:
    """Where the checkpoint lies, fetched before if it is a hub's."""
    if spec.revision is None:
        return Path(spec.path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(spec.path, revision=spec.revision, local_files_only=True))


def _share(*parts: object) -> float:
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 2**32


def load(spec: ModelSpec) -> SkilledEngine:
    return SkilledEngine(spec)


def lint(spec: ModelSpec, requests: Sequence[Request]) -> list[Finding]:
    return []


def shown(spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
    return [request.responses[0] for request in requests]


def install(folder: Path, version: str) -> None:
    """Make a folder of `sys.path` hold a version of the library."""
    place = folder / "fakelib.dist-info"
    place.mkdir(parents=True, exist_ok=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fakelib\nVersion: {version}\n")
