"""Conversations to token ids, the same for every engine: template, BOS, EOS, truncation.

The text is the chat template's rendering, tokenised with the tokenizer's own special tokens. A BOS that both
of them add is kept once (`bos: single`); nothing is shortened without `Rendered.truncated` saying so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.errors import ModelError, boundary
from workers.protocol import Message, ModelSpec, Request, token_hash
from workers.sampling import sampling_of

UNBOUNDED = 1_000_000
"""Tokenizers without a limit report lengths around 1e30; no context is longer than this."""


PROMPT_TOKENS = 128
"""The end of a prompt that is kept at least, where prompt and completion together are too long."""

REFERENCE_LENGTH = 2048
"""The reference cuts what it takes log-probabilities of at this length, whatever the model's context (`dpo.py`)."""

KEPT_TOKENS = 2**21
"""Tokens that are kept at most between a preflight and the scores: all of RewardBench, some 80 MB."""


ENCODED = 1024
"""Texts of one call of the tokenizer: enough for all cores, and what it makes takes far more memory than ids."""


@dataclass(frozen=True)
class Rendered:
    """What the model sees of one request.

    `full_length` counts tokens before truncation. Where log-probabilities are asked for, `completion` is the position
    of the first token that is scored, and `clean` says whether the prompt's own rendering begins the conversation's.
    """

    text: str
    ids: tuple[int, ...]
    type_ids: tuple[int, ...] | None
    full_length: int
    double_bos: bool
    completion: int | None = None
    clean: bool = True

    @property
    def truncated(self) -> bool:
        """Whether tokens were cut off."""
        return self.full_length > len(self.ids)

    @property
    def hash(self) -> str:
        """The proof of what the model saw."""
        return token_hash(self.ids)


class Renderer:
    """The tokenizer and template of one model.

    `own` is the rendering of a family that has one of its own; it is given this renderer and the request, and needs
    no template. Raises `ModelError` where the tokenizer cannot be loaded or no template is known: there is no default.
    """

    def __init__(self, spec: ModelSpec, context: int | None, own: OwnRendering | None = None) -> None:
        from transformers import AutoTokenizer

        source = spec.tokenizer or spec.path
        with boundary(ModelError, f"model {spec.name!r}: cannot load the tokenizer of {source}"):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                source,
                revision=spec.tokenizer_revision if spec.tokenizer else spec.revision,
                trust_remote_code=spec.trust_remote_code,
            )
        self.spec = spec
        self.own = own
        self._kept: dict[str, Rendered] = {}
        given = spec.chat_template
        self.template = _own_template(self.tokenizer, spec, own is None) if given is None else given
        self.limit = _limit(self.tokenizer, spec, context)
        self.tokenizer.truncation_side = spec.truncation_side
        needed = self.tokenizer.num_special_tokens_to_add() + (spec.eos == "append") + 1
        if self.limit is not None and self.limit < needed:
            raise ModelError(
                f"model {spec.name!r}: {self.limit} tokens leave no room for text; set max_length to {needed}"
            )

    def text(self, turns: Sequence[Message], **variables: Any) -> str:
        """The template's rendering of a conversation, without a generation prompt unless asked for one."""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        arguments: Mapping[str, Any] = {"add_generation_prompt": False, **self.spec.template_kwargs, **variables}
        with boundary(ModelError, f"model {self.spec.name!r}: its chat template fails"):
            return str(
                self.tokenizer.apply_chat_template(messages, chat_template=self.template, tokenize=False, **arguments)
            )

    def render(self, requests: Sequence[Request]) -> list[Rendered]:
        """The token ids of each request's prompt followed by its response, or by the header of an answer to write."""
        held = [self._kept.pop(request.digest, None) for request in requests] if self._kept else [None] * len(requests)
        missing = [request for request, row in zip(requests, held, strict=True) if row is None]
        made = iter(self._made(missing) if missing else ())
        return [next(made) if row is None else row for row in held]

    def ahead(self, requests: Sequence[Request]) -> list[Rendered]:
        """As `render`, which then gives each of these once more without making it."""
        rows, tokens = self.render(requests), 0
        for request, row in zip(requests, rows, strict=True):
            tokens += len(row.ids)
            if tokens > KEPT_TOKENS:
                break
            self._kept[request.digest] = row
        return rows

    def _made(self, requests: Sequence[Request]) -> list[Rendered]:
        if self.own is not None:
            return [self.own(self, request) for request in requests]
        if requests[0].kind == "logprob":
            return self._completions(requests)
        if requests[0].kind == "generate":
            return [self._question(request) for request in requests]
        texts = [self.text(_conversation(request.prompt, request.responses[0])) for request in requests]
        return [self._rendered(text, row) for text, row in zip(texts, self._encode(texts), strict=True)]

    def _question(self, request: Request) -> Rendered:
        """A prompt up to where the answer begins; too long, it loses what exceeds the context less `max_new_tokens`."""
        text = self.text(request.prompt, add_generation_prompt=True)
        ids, _, doubled = self._special_tokens(self._encode([text])[0], eos=False)
        room = None if self.limit is None else self.limit - sampling_of(self.spec).max_new_tokens
        if room is not None and room < 1:
            raise ModelError(
                f"model {self.spec.name!r}: max_new_tokens leaves no room for a prompt in {self.limit} tokens; "
                f"lower models.{self.spec.name}.options.max_new_tokens"
            )
        kept = ids
        if room is not None and len(ids) > room:
            kept = ids[:room] if self.spec.truncation_side == "right" else ids[-room:]
        return Rendered(text, tuple(kept), None, len(ids), doubled)

    def _completions(self, requests: Sequence[Request]) -> list[Rendered]:
        """Prompts and completions; every text is rendered and encoded once."""
        said = dict.fromkeys((request.prompt, response) for request in requests for response in request.responses)
        prompts = {prompt: self.text(prompt) for prompt, _ in said}
        texts = {(prompt, response): self.text(_conversation(prompt, response)) for prompt, response in said}
        if self.spec.protocol != "reference":
            rows = self._encoded([*prompts.values(), *texts.values()])
            asked = [(prompts[request.prompt], texts[request.prompt, request.responses[0]]) for request in requests]
            return [self._completion(prompt, text, rows[prompt], rows[text]) for prompt, text in asked]
        wholes = {key: prompts[key[0]] + text.replace(prompts[key[0]], "") for key, text in texts.items()}
        rows = self._encoded([*prompts.values(), *wholes.values()], add_special_tokens=False)
        parts = {key: self._reference_parts(rows[prompts[key[0]]], rows[whole]) for key, whole in wholes.items()}
        keys = [[(request.prompt, response) for response in request.responses] for request in requests]
        return [
            self._reference_completion(prompts[own[0][0]], texts[own[0]], [parts[key] for key in own]) for own in keys
        ]

    def _completion(
        self, prompt_text: str, text: str, prompt_row: Mapping[str, list[int]], row: Mapping[str, list[int]]
    ) -> Rendered:
        """Prompt and completion, divided after the tokens that the prompt's own rendering has in common with both.

        Too long: the prompt loses its beginning, all but a leading BOS and its last `PROMPT_TOKENS`, then the
        completion its end.
        """
        alone, (ids, _, doubled) = self._special_tokens(prompt_row)[0], self._special_tokens(row)
        start = max(1, _common(alone, ids))
        prompt, completion = ids[:start], ids[start:]
        if self.limit is not None and len(ids) > self.limit:
            completion = completion[: self.limit - min(len(prompt), PROMPT_TOKENS, self.limit // 2)]
            bos = prompt[:1] if prompt[0] == self.tokenizer.bos_token_id else []
            prompt = bos + prompt[-(self.limit - len(completion) - len(bos)) :] if len(prompt) > len(bos) else prompt
        kept = tuple(prompt + completion)
        return Rendered(text, kept, None, len(ids), doubled, len(prompt), text.startswith(prompt_text))

    def _reference_completion(
        self, prompt_text: str, text: str, parts: Sequence[tuple[list[int], list[int]]]
    ) -> Rendered:
        """The tokens of rewardbench 0.1.4 (`DPOInference.tokenize_row`), defects and all.

        Every occurrence of the prompt's rendering is deleted from the conversation's; one BOS and one EOS are added
        to what the template has; the longer response decides whether a prompt is cut to its last 128 tokens. `parts`
        are those of the response that is scored, and of the other one.
        """
        (prompt, answer), longest = parts[0], max(len(other) for _, other in parts)
        limit = self.spec.max_length or REFERENCE_LENGTH
        full_length, doubled = len(prompt) + len(answer), prompt[:1] * 2 == prompt[:2]
        if len(prompt) + longest > limit:
            prompt = prompt[-PROMPT_TOKENS:]
        if len(prompt) + longest > limit:
            answer = answer[: limit - PROMPT_TOKENS]
        ids = tuple(prompt + answer)
        return Rendered(text, ids, None, full_length, doubled, len(prompt), text.startswith(prompt_text))

    def _reference_parts(
        self, prompt: Mapping[str, list[int]], both: Mapping[str, list[int]]
    ) -> tuple[list[int], list[int]]:
        """Prompt and answer ids: one token back where the boundary merged."""
        alone, whole = prompt["input_ids"], both["input_ids"]
        start = len(alone) if whole[: len(alone)] == alone else len(alone) - 1
        eos = self.tokenizer.eos_token_id
        bos = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else eos
        return [bos, *whole[:start]], [*whole[start:], eos]

    def _encoded(self, texts: Sequence[str], **options: Any) -> dict[str, Mapping[str, list[int]]]:
        """The row of every text that differs."""
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self._encode(distinct, **options), strict=True))

    def _encode(self, texts: list[str], limit: int | None = None, **options: Any) -> list[Mapping[str, list[int]]]:
        found: list[Mapping[str, list[int]]] = []
        for first in range(0, len(texts), ENCODED):
            some = texts[first : first + ENCODED]
            rows = self.tokenizer(some, truncation=limit is not None, max_length=limit, verbose=False, **options)
            found += [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
        return found

    def _rendered(self, text: str, row: Mapping[str, list[int]]) -> Rendered:
        ids, type_ids, doubled = self._special_tokens(row)
        full_length = len(ids)
        if self.limit is not None and full_length > self.limit:
            ids, type_ids, _ = self._special_tokens(self._encode([text], self._room(ids, row["input_ids"]))[0])
        return Rendered(text, tuple(ids), tuple(type_ids) if type_ids else None, full_length, doubled)

    def _room(self, ids: Sequence[int], encoded: Sequence[int]) -> int:
        """What the tokenizer may fill of a text that is too long, so that exactly `limit` tokens are left.

        Cut on the left, a text loses the template's BOS and keeps its end; on the right it keeps the BOS and loses
        the end.
        """
        assert self.limit is not None
        if self.spec.truncation_side == "left":
            return self.limit - int(ids[-1] != encoded[-1])
        second_bos = ids[:2] != list(encoded[:2])
        return self.limit + int(second_bos) - int(self.spec.eos == "append")

    def last_content(self, ids: Sequence[int]) -> int | None:
        """The last token that is not white space: templates often end in `EOS` and a line break."""
        ends = (token for token in reversed(ids[-4:]) if self.tokenizer.decode([token]).strip())
        return next(ends, ids[-1] if ids else None)

    def _special_tokens(
        self, row: Mapping[str, list[int]], eos: bool = True
    ) -> tuple[list[int], list[int] | None, bool]:
        """One BOS, and an EOS where the model's file asks for it."""
        ids, type_ids = list(row["input_ids"]), row.get("token_type_ids")
        type_ids = list(type_ids) if type_ids is not None else None
        bos, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        doubled = bos is not None and ids[:2] == [bos, bos]
        if doubled and self.spec.bos == "single":
            ids, type_ids = ids[1:], type_ids[1:] if type_ids else None
        if eos and self.spec.eos == "append" and end is not None and self.last_content(ids) != end:
            ids, type_ids = [*ids, end], [*type_ids, type_ids[-1]] if type_ids else None
        return ids, type_ids, doubled


def _conversation(prompt: tuple[Message, ...], response: str) -> tuple[Message, ...]:
    return (*prompt, Message("assistant", response))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the longest common beginning."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


OwnRendering = Callable[[Renderer, Request], Rendered]
"""A family's way from a request to token ids."""


def _own_template(tokenizer: Any, spec: ModelSpec, needed: bool) -> str:
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    template = template or spec.fallback_template
    if not template and needed:
        raise ModelError(
            f"model {spec.name!r}: its tokenizer has no chat template and there is no default; "
            f"set models.{spec.name}.chat_template to a named template (tulu, raw, ...) or a .jinja file"
        )
    return str(template or "")


def _limit(tokenizer: Any, spec: ModelSpec, context: int | None) -> int | None:
    """The smallest of the model file's `max_length`, the tokenizer's limit and the model's context.

    A `max_length` above the context is an error: such a position has no embedding.
    """
    if spec.max_length is not None:
        if context is not None and spec.max_length > context:
            raise ModelError(
                f"model {spec.name!r}: max_length {spec.max_length} is more than its context of {context} tokens; "
                f"lower models.{spec.name}.max_length"
            )
        return spec.max_length
    known = [limit for limit in (tokenizer.model_max_length, context) if limit and limit < UNBOUNDED]
    return min(known) if known else None
