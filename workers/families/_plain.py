"""A rendering without the tokenizer's special tokens: the template's text is all there is."""

from __future__ import annotations

from workers.errors import ModelError
from workers.protocol import Message, Request
from workers.render import Rendered, Renderer


def plain(renderer: Renderer, request: Request, ending: int | None = None) -> Rendered:
    """Token ids of a conversation, then `ending` unless it is there; too long, the text loses what is in excess."""
    if not renderer.template:
        name = renderer.spec.name
        raise ModelError(f"model {name!r}: its tokenizer has no chat template; set models.{name}.chat_template to one")
    text = renderer.text((*request.prompt, Message("assistant", request.responses[0])))
    ids = list(renderer.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if ending is not None and ids[-1:] == [ending]:
        ids.pop()
    tail = [] if ending is None else [ending]
    room = len(ids) if renderer.limit is None else renderer.limit - len(tail)
    cut = ids[:room] if renderer.spec.truncation_side == "right" else ids[max(0, len(ids) - room) :]
    return Rendered(text, tuple(cut + tail), None, len(ids) + len(tail), double_bos=False)
