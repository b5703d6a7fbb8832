"""What crosses the border between `orchestrator` and `workers`. Standard library only.

A *request* is the smallest thing an engine is asked for; its answer, stored, is a *measurement*. The key of
a measurement is the hash of the model's fingerprint and the request's content: it holds no benchmark, row
number, shard or GPU count, so the same text is scored once wherever it occurs, and a resumed run has what is done.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

Kind = Literal["reward", "preference", "logprob", "generate"]

NOT_IDENTITY = {"identity": False}
"""Metadata of a `ModelSpec` field that cannot change a score."""


def digest(payload: object) -> str:
    """32 hexadecimal characters of SHA-256 over canonical JSON.

    Raises `TypeError` for what JSON cannot hold and `ValueError` for NaN and infinities.
    """
    text = json.dumps(payload, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """One question to an engine.

    `reward` takes one response, `preference` two, `generate` none. `logprob` takes the response to score, and under
    the reference's protocol the one it is compared with, whose length decides what is cut.
    """

    kind: Kind
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Hash of the content, the same on every machine."""
        return digest([self.kind, [[turn.role, turn.content] for turn in self.prompt], list(self.responses)])

    @cached_property
    def characters(self) -> int:
        """Length of all texts: the planner's stand-in for tokens."""
        return sum(len(turn.content) for turn in self.prompt) + sum(map(len, self.responses))

    @cached_property
    def utf8(self) -> int:
        """Bytes of all texts in UTF-8: beside `characters` it tells how much of them is not written in ASCII."""
        texts = (*(turn.content for turn in self.prompt), *self.responses)
        return sum(len(text) if text.isascii() else len(text.encode(errors="surrogatepass")) for text in texts)


@dataclass(frozen=True)
class Output:
    """An engine's answer to one request.

    `value` is the score, preference margin or summed log-probability (nats); `num_tokens` and `token_hash` describe
    the token ids the model saw after truncation; `text` is generated text, else None. `extra` holds further named
    numbers: of a `logprob`, the `tokens` of the completion and the `squares`, the sum of squared log-probabilities.
    """

    value: float
    num_tokens: int
    truncated: bool
    token_hash: str
    text: str | None = None
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Unscored:
    """In place of an output: this request cannot be answered here, and trying it again would not help."""

    reason: str


@dataclass(frozen=True)
class Measurement:
    """One row of the store."""

    key: str
    request: str
    kind: Kind
    value: float
    num_tokens: int
    truncated: bool
    token_hash: str
    text: str | None
    extra: Mapping[str, float] = field(default_factory=dict)


def measurement_key(fingerprint: str, request: str) -> str:
    """The name of a measurement, from the model's fingerprint and the request's digest."""
    return digest([fingerprint, request])


def measure(fingerprint: str, request: Request, output: Output) -> Measurement:
    """The stored form of an engine's answer."""
    key = measurement_key(fingerprint, request.digest)
    return Measurement(key=key, request=request.digest, kind=request.kind, **asdict(output))


@dataclass(frozen=True)
class ModelSpec:
    """A model, pinned: every field is part of its identity unless its metadata says otherwise.

    `weights` and `tokenizer_files` name content (`sha256:...` of local files, `hub:owner/name@commit`,
    `s3://bucket/prefix@revision`), so a moved folder keeps its scores and a changed one loses them. `addresses` says by
    kind of bucket where its endpoint is. `environment` holds the versions of the
    libraries that compute. `chat_template` is the template's text, None for the tokenizer's own, or for
    `fallback_template` where it has none. `protocol` says whose rules hold where the reference's have known defects.
    `numerics` says whether a score may depend on its neighbours within the noise of its dtype, or not at all.
    """

    name: str = field(metadata=NOT_IDENTITY)
    path: str = field(metadata=NOT_IDENTITY)
    weights: str
    family: str
    family_version: str
    engine: str
    engine_version: str
    environment: tuple[tuple[str, str], ...]
    engine_reason: str = field(default="", metadata=NOT_IDENTITY)
    revision: str | None = field(default=None, metadata=NOT_IDENTITY)
    tokenizer: str | None = field(default=None, metadata=NOT_IDENTITY)
    tokenizer_revision: str | None = field(default=None, metadata=NOT_IDENTITY)
    tokenizer_files: str | None = None
    dtype: str = "float32"
    attention: str | None = None
    numerics: Literal["fast", "exact"] = "fast"
    max_length: int | None = None
    truncation_side: Literal["left", "right"] = "left"
    chat_template: str | None = None
    fallback_template: str | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    bos: Literal["single", "keep"] = "single"
    eos: Literal["keep", "expect", "append"] = "keep"
    protocol: Literal["own", "reference"] = "own"
    trust_remote_code: bool = False
    allow_pickle: bool = field(default=False, metadata=NOT_IDENTITY)
    options: Mapping[str, Any] = field(default_factory=dict)
    gpus: int = field(default=0, metadata=NOT_IDENTITY)
    token_budget: int | None = field(default=None, metadata=NOT_IDENTITY)
    endpoint: Mapping[str, Any] = field(default_factory=dict, metadata=NOT_IDENTITY)
    addresses: Mapping[str, Mapping[str, str]] = field(default_factory=dict, metadata=NOT_IDENTITY)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The fields that can change a score, as JSON."""
        names = [item.name for item in fields(self) if item.metadata.get("identity", True)]
        values = {name: getattr(self, name) for name in names}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the identity."""
        return digest(self.identity)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The spec that `to_json` described."""
        environment = tuple((name, version) for name, version in values["environment"])
        return cls(**{**values, "environment": environment})


@dataclass(frozen=True)
class Model:
    """A row of the leaderboard: a family over one or more streams of measurements.

    A classifier has one stream; an implicit reward has two, the policy and its reference, and each is an
    ordinary `ModelSpec` that is scored, stored and shared on its own. `scoring` holds the family's choices that
    change what is asked for or what is made of the answers, but no answer. A model that could not be pinned has
    no streams: it stands in the leaderboard with the reason, and nothing is asked of it.
    """

    name: str
    family: str
    streams: tuple[ModelSpec, ...]
    scoring: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def asks(self) -> str:
        """Models with equal `asks` want the same requests for the same examples."""
        return digest([self.family, len(self.streams), self.streams[0].protocol, dict(self.scoring)])


@dataclass(frozen=True)
class Finding:
    """What the preflight lint has to say about the rendered tokens of a model.

    `requests` are positions in the list that was linted; empty when the finding is about the model itself.
    An `error` stops the model before its weights are loaded.
    """

    check: str
    severity: Literal["error", "warning"]
    message: str
    requests: tuple[int, ...] = ()


@dataclass(frozen=True)
class Shard:
    """A self-contained piece of work for one model: all that a worker needs."""

    id: str
    stream: str
    requests: tuple[Request, ...]

    @property
    def characters(self) -> int:
        """Length of all texts, the planner's measure of cost."""
        return sum(request.characters for request in self.requests)


@dataclass(frozen=True)
class ShardReport:
    """What travels back from a scored shard: counts and seconds, never scores.

    `unscored` are requests that have no score, each with the reason. `ooms` counts passes that did not fit into memory,
    `flops` what the passes cost, `peak` is the FLOP/s that one device can reach (0: not known), `written` counts tokens
    that an endpoint wrote.
    """

    rows: int
    tokens: int
    seconds: float
    truncated: int
    unscored: tuple[tuple[Request, str], ...] = ()
    ooms: int = 0
    flops: int = 0
    peak: float = 0.0
    written: int = 0


def token_hash(ids: Sequence[int]) -> str:
    """Hash of token ids: the proof of what the model saw."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()[:32]
