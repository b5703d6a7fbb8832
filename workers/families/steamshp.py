"""SteamSHP: a T5 that writes the letter of the better of two responses.

Source: rewardbench 0.1.4, `models/shp.py`. The first response wins where the first token that T5 would write reads A;
here the preference is the logit by which it does: the greatest of a token that reads A minus the greatest of any other.
The reference draws one order without a seed; here both are asked. It cuts too long texts on the right, where the
question stands; here the beginning goes, and `truncation_side: right` cuts as it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.checkpoint import load
from workers.families._pairwise import joined, values, wanted
from workers.heads import Answer
from workers.protocol import Kind, ModelSpec, Request
from workers.render import Rendered, Renderer

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "preference"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "render", "values", "wanted"]

TOKENS = 2048
"""The length that the reference's script gives; T5 has no positions that end."""


def render(renderer: Renderer, request: Request) -> Rendered:
    """The history and both responses as one question."""
    post = " ".join(turn.content for turn in request.prompt)
    first, second = request.responses
    text = f"POST: {post}\n\n RESPONSE A: {first}\n\n RESPONSE B: {second}\n\n Which response is better? RESPONSE"
    whole = list(renderer.tokenizer(text, verbose=False)["input_ids"])
    limit = renderer.spec.max_length or TOKENS
    end = whole[-1:] if whole[-1:] == [renderer.tokenizer.eos_token_id] else []
    inside = whole[: len(whole) - len(end)]
    room = max(0, limit - len(end))
    right = renderer.spec.truncation_side == "right"
    kept = (inside[:room] if right else inside[max(0, len(inside) - room) :]) + end
    return joined(text, [(whole, kept)])


class LetterHead:
    """The logits of the first token that is written."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        from workers.checkpoint import renderer_of

        self.model: Any = load(spec, config, "AutoModelForSeq2SeqLM", f"a model of family {spec.family!r}")
        tokenizer = renderer_of(spec, config).tokenizer
        texts = tokenizer.batch_decode([[token] for token in range(config.vocab_size)], skip_special_tokens=True)
        self._letter = [token for token, text in enumerate(texts) if text == "A"]

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """How much the first response is preferred, as a difference of logits."""
        import torch

        start = torch.full((len(rows), 1), self.model.config.decoder_start_token_id, device=self.model.device)
        logits = self.model(**inputs, decoder_input_ids=start).logits[:, 0].float()
        letter = logits[:, self._letter].max(-1).values
        logits[:, self._letter] = -torch.inf
        return list(map(Answer, (letter - logits.max(-1).values).cpu().tolist()))


def head(spec: ModelSpec, config: Any) -> LetterHead:
    """The language model's own output."""
    return LetterHead(spec, config)
