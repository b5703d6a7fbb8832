"""Text from any OpenAI-compatible endpoint: a provider, or a server of one's own such as vLLM's.

Every answer is stored with its tokens, so no question is paid for twice. Retries, their back-off and `Retry-After` are
the client library's (openai-python). What an endpoint will not answer, a refusal or a prompt beyond its context, is
kept as an empty text and marked `refused`; a wrong key, address or name gives up the model, not the sweep.

`options` of a model's file: the sampling of a judge; `reasoning: true` for models that take `max_completion_tokens` and
no temperature; `body`, further fields of the request as the endpoint names them. The key comes from an environment
variable of the worker and goes nowhere but to the endpoint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from workers.endpoints import Endpoint, endpoint
from workers.errors import EngineError, ModelError, SweepError, first_line
from workers.plugins import unknown
from workers.protocol import Finding, Kind, ModelSpec, Output, Request, digest
from workers.sampling import RANGES, sampling_of

VERSION = "1"
PACKAGES: tuple[str, ...] = ()
NEEDS_WEIGHTS = False
KINDS: tuple[Kind, ...] = ("generate",)

OPTIONS = ("reasoning", "body", *RANGES)
REFUSALS = ("content_filter", "content_policy_violation", "context_length_exceeded", "invalid_prompt")
"""Error codes that are about one prompt."""
TOO_LONG = re.compile(r"context length|too long|maximum.*tokens", re.IGNORECASE)
CONNECT_SECONDS = 10.0
REASON_CHARACTERS = 200

__all__ = ["KINDS", "NEEDS_WEIGHTS", "PACKAGES", "VERSION", "endpoint", "lint", "load", "shown", "token_hashes"]


class OpenAIEngine:
    """A client of one endpoint."""

    def __init__(self, spec: ModelSpec) -> None:
        _check_options(spec)
        self._spec, self._endpoint = spec, Endpoint(**spec.endpoint)
        self._sampling = sampling_of(spec)
        self._key = _key(spec, self._endpoint)
        self._served: set[str] = set()
        openai = _library(spec)
        self._client = openai.OpenAI(
            base_url=self._endpoint.url,
            api_key=self._key or "none",
            max_retries=self._endpoint.retries,
            timeout=openai.Timeout(self._endpoint.timeout, connect=CONNECT_SECONDS),
        )

    def run(self, requests: Sequence[Request]) -> list[Output]:
        """One output a request, in order; `concurrency` of them are asked at a time."""
        with ThreadPoolExecutor(self._endpoint.concurrency) as pool:
            return list(pool.map(self._answer, requests))

    def _answer(self, request: Request) -> Output:
        import openai

        try:
            found = self._client.chat.completions.create(**self._body(request))
        except openai.APIError as error:
            if not _about_the_prompt(error):
                self._fail(error)
            return self._output(request, "", {"refused": 1.0})
        except (ValueError, TypeError) as error:  # a body that is not JSON
            raise self._garbage(first_line(error)) from error
        choices = getattr(found, "choices", None)
        messages = [getattr(choice, "message", None) for choice in choices] if isinstance(choices, list) else [None]
        if None in messages:
            raise self._garbage(found if isinstance(found, str) else f"a {type(found).__name__} without messages")
        self._served.add(str(found.model))
        return self._read(request, messages[0] if messages else None, found.usage)

    def _read(self, request: Request, message: Any, usage: Any) -> Output:
        """The text, thoughts before it; a message without any is a refusal."""
        text = getattr(message, "content", None) or ""
        thoughts = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        if not isinstance(text, str):
            raise self._garbage("content that is no text")
        extra = {
            "completion_tokens": float(getattr(usage, "completion_tokens", 0) or 0),
            **({} if text or thoughts else {"refused": 1.0}),
        }
        whole = f"<think>\n{thoughts}\n</think>\n{text}" if isinstance(thoughts, str) and thoughts else text
        return self._output(request, whole, extra, int(getattr(usage, "prompt_tokens", 0) or 0))

    def _output(self, request: Request, text: str, extra: dict[str, float], tokens: int = 0) -> Output:
        return Output(0.0, tokens, False, _hash(request), text, extra)

    def _body(self, request: Request) -> dict[str, Any]:
        """What is sent: the judge's conversation, and the sampling."""
        sampling, options = self._sampling, self._spec.options
        body: dict[str, Any] = {
            "model": self._spec.path,
            "messages": [{"role": turn.role, "content": turn.content} for turn in request.prompt],
            "extra_body": dict(options.get("body") or {}),
        }
        if options.get("reasoning"):
            return {**body, "max_completion_tokens": sampling.max_new_tokens}
        if self._endpoint.seed:
            body["seed"] = sampling.seed_of(_hash(request))
        if sampling.top_p != 1:
            body["top_p"] = sampling.top_p
        return {**body, "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}

    def _fail(self, error: Any) -> NoReturn:
        """What an error of the endpoint means for the model or for the shard."""
        import openai

        where, said = f"model {self._spec.name!r}: {self._endpoint.url}", self._said(error)
        tries = f"after {self._endpoint.retries} retries"
        if isinstance(error, openai.APITimeoutError | openai.APIConnectionError):
            raise ModelError(f"{where} cannot be reached, {tries}: {said}") from error
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            asked = f"the key in {self._endpoint.key}" if self._endpoint.key else "a request without a key"
            raise ModelError(f"{where} refuses {asked}: {said}") from error
        if isinstance(error, openai.RateLimitError) and getattr(error, "code", None) != "insufficient_quota":
            raise EngineError(f"{where} still limits the rate {tries}; lower endpoint.concurrency: {said}") from error
        if isinstance(error, openai.InternalServerError):
            raise EngineError(f"{where} fails {tries}: {said}") from error
        if isinstance(error, openai.NotFoundError):
            raise ModelError(f"{where} knows no model {self._spec.path!r}, or no chat completions: {said}") from error
        raise ModelError(f"{where} refuses the request: {said}") from error

    def _garbage(self, what: str) -> SweepError:
        said = self._said(what)
        return ModelError(
            f"model {self._spec.name!r}: {self._endpoint.url} answers, but not with a chat completion; "
            f"check endpoint.url: {said}"
        )

    def _said(self, error: object) -> str:
        """The first line of an answer, without the key, then shortened: a cut key would not be found."""
        text = str(getattr(error, "message", error)).strip()
        line = (text.splitlines() or [type(error).__name__])[0]
        return (line.replace(self._key, "***") if self._key else line)[:REASON_CHARACTERS]

    def details(self) -> dict[str, str]:
        """The address, and the names under which the endpoint has answered."""
        return {"device": "endpoint", "endpoint": self._endpoint.url, "served": ", ".join(sorted(self._served))}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def load(spec: ModelSpec) -> OpenAIEngine:
    """A client, or `ModelError` for an option that is wrong or a key that is not there."""
    return OpenAIEngine(spec)


def lint(spec: ModelSpec, requests: Sequence[Request]) -> list[Finding]:
    """Nothing is rendered here; the options, the library and the key are checked before anything is asked."""
    _check_options(spec)
    _library(spec)
    _key(spec, Endpoint(**spec.endpoint))
    return []


def shown(spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
    """The messages that are sent."""
    return ["\n".join(f"[{turn.role}]\n{turn.content}" for turn in request.prompt) for request in requests]


def token_hashes(spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
    """Hashes of the messages: the tokens are the endpoint's own."""
    return list(map(_hash, requests))


def _hash(request: Request) -> str:
    return digest([[turn.role, turn.content] for turn in request.prompt])


def _library(spec: ModelSpec) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ModelError(f"model {spec.name!r}: openai is not installed; install rewardsweep[openai]") from error
    return openai


def _key(spec: ModelSpec, found: Endpoint) -> str | None:
    """The key, None where the endpoint wants none."""
    if found.key is None:
        return None
    key = os.environ.get(found.key, "").strip()
    if not key:
        raise ModelError(f"model {spec.name!r}: {found.url} needs a key; set {found.key} in the workers' environment")
    return key


def _about_the_prompt(error: Any) -> bool:
    """Whether an error means that this one prompt is not answered, not that the request is wrong."""
    if getattr(error, "status_code", None) not in (400, 413, 422):
        return False
    return getattr(error, "code", None) in REFUSALS or TOO_LONG.search(str(error)) is not None


def _check_options(spec: ModelSpec) -> None:
    key, options = f"models.{spec.name}.options", spec.options
    for name in options:
        if name not in OPTIONS:
            raise ModelError(f"{key}: {unknown(str(name), sorted(OPTIONS), 'key')}")
    if not isinstance(options.get("reasoning", False), bool):
        raise ModelError(f"{key}.reasoning: must be true or false")
    if not isinstance(options.get("body", {}), Mapping):
        raise ModelError(f"{key}.body: must hold the fields of the request and their values")
    if options.get("reasoning") and (foreign := [name for name in ("temperature", "top_p", "seed") if name in options]):
        raise ModelError(f"{key}.{foreign[0]}: a reasoning model takes none; remove it")
