"""RLHFlow's pair preference model: a language model that is asked which of two responses is better.

Source: rewardbench 0.1.4, `models/slicpairpm.py`: the probability of the letter A against B after the question, asked
in both orders and averaged. Nothing is cut there; here the context's length holds, and what is cut is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.checkpoint import load, renderer_of
from workers.errors import ModelError
from workers.families._pairwise import joined, values, wanted
from workers.heads import Answer, last_attended, states
from workers.protocol import Kind, Message, ModelSpec, Request
from workers.render import Rendered, Renderer

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "preference"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "render", "values", "wanted"]


def render(renderer: Renderer, request: Request) -> Rendered:
    """History and both responses as one user turn of the model's own template, without BOS."""
    if not renderer.template:
        name = renderer.spec.name
        raise ModelError(f"model {name!r}: its tokenizer has no chat template; set models.{name}.chat_template to one")
    speakers = ("user", "assistant")
    turns = [f"\n<turn> {speakers[at % 2]}\n {turn.content}" for at, turn in enumerate(request.prompt)]
    context = "\n" + "".join(turns) + "\n"
    first, second = request.responses
    question = f"[CONTEXT] {context} [RESPONSE A] {first} [RESPONSE B] {second} \n"
    text = renderer.text((Message("user", question),))
    if renderer.tokenizer.bos_token:
        text = text.replace(renderer.tokenizer.bos_token, "")
    whole = list(renderer.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    room = len(whole) if renderer.limit is None else renderer.limit
    kept = whole[:room] if renderer.spec.truncation_side == "right" else whole[max(0, len(whole) - room) :]
    return joined(text, [(whole, kept)])


class LetterHead:
    """Two rows of the output embedding, after the last token, in float32."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        self.model: Any = load(spec, config, "AutoModelForCausalLM", f"a model of family {spec.family!r}")
        tokenizer = renderer_of(spec, config).tokenizer
        letters = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in "AB"]
        if any(len(letter) != 1 for letter in letters):
            raise ModelError(f"model {spec.name!r}: its tokenizer has no single token for the letters A and B")
        self._rows = self.model.get_output_embeddings().weight[[letter[0] for letter in letters]].float()

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """The probability of A."""
        hidden = states(self.model.base_model, inputs, last_attended(rows))
        logits = hidden @ self._rows.to(hidden.device).T
        return list(map(Answer, logits.softmax(-1)[:, 0].cpu().tolist()))


def head(spec: ModelSpec, config: Any) -> LetterHead:
    """The language model's own output."""
    return LetterHead(spec, config)
