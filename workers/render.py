"""Conversations to token ids, the same for every engine: template, BOS, EOS, truncation.

The text is the chat template's rendering, tokenised with the tokenizer's own special tokens. A BOS that both
of them add is kept once (`bos: single`); nothing is shortened without `Rendered.truncated` saying so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.errors import ModelError, boundary
from workers.protocol import Message, ModelSpec, Request, token_hash

UNBOUNDED = 1_000_000
"""Tokenizers without a limit report lengths around 1e30; no context is longer than this."""


@dataclass(frozen=True)
class Rendered:
    """What the model sees of one request. `full_length` counts tokens before truncation."""

    text: str
    ids: tuple[int, ...]
    type_ids: tuple[int, ...] | None
    full_length: int
    double_bos: bool

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

    Raises `ModelError` where the tokenizer cannot be loaded or no template is known: there is no default.
    """

    def __init__(self, spec: ModelSpec, context: int | None) -> None:
        from transformers import AutoTokenizer

        source = spec.tokenizer or spec.path
        with boundary(ModelError, f"model {spec.name!r}: cannot load the tokenizer of {source}"):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                source,
                revision=spec.tokenizer_revision if spec.tokenizer else spec.revision,
                trust_remote_code=spec.trust_remote_code,
            )
        self.spec = spec
        self.template = _own_template(self.tokenizer, spec) if spec.chat_template is None else spec.chat_template
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
        """The token ids of each request's prompt followed by its response."""
        texts = [self.text((*request.prompt, Message("assistant", request.responses[0]))) for request in requests]
        return [self._rendered(text, row) for text, row in zip(texts, self._encode(texts), strict=True)]

    def _encode(self, texts: list[str], limit: int | None = None) -> list[Mapping[str, list[int]]]:
        if not texts:
            return []
        rows = self.tokenizer(texts, truncation=limit is not None, max_length=limit, verbose=False)
        return [{name: rows[name][index] for name in rows} for index in range(len(texts))]

    def _rendered(self, text: str, row: Mapping[str, list[int]]) -> Rendered:
        ids, type_ids, doubled = self._special_tokens(row)
        full_length = len(ids)
        if self.limit is not None and full_length > self.limit:
            added = 1 if self.spec.eos == "append" else 0
            ids, type_ids, _ = self._special_tokens(self._encode([text], self.limit - added)[0])
        return Rendered(text, tuple(ids), tuple(type_ids) if type_ids else None, full_length, doubled)

    def _special_tokens(self, row: Mapping[str, list[int]]) -> tuple[list[int], list[int] | None, bool]:
        """One BOS, and an EOS where the model's file asks for it."""
        ids, type_ids = list(row["input_ids"]), row.get("token_type_ids")
        type_ids = list(type_ids) if type_ids is not None else None
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        doubled = bos is not None and ids[:2] == [bos, bos]
        if doubled and self.spec.bos == "single":
            ids, type_ids = ids[1:], type_ids[1:] if type_ids else None
        if self.spec.eos == "append" and eos is not None and ids[-1:] != [eos]:
            ids, type_ids = [*ids, eos], [*type_ids, type_ids[-1]] if type_ids else None
        return ids, type_ids, doubled


def _own_template(tokenizer: Any, spec: ModelSpec) -> str:
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    if not template:
        raise ModelError(
            f"model {spec.name!r}: its tokenizer has no chat template and there is no default; "
            f"set models.{spec.name}.chat_template to a named template (tulu, raw, ...) or a .jinja file"
        )
    return str(template)


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
