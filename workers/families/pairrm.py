"""PairRM: a DeBERTa-v2 that reads a source and two candidates and compares the states of their markers.

Source: rewardbench 0.1.4, `models/pairrm.py`: `head(x) = W2 tanh(W1 x + b1) + b2` of the states of source and candidate
marker side by side; the preference is the mean over tasks of `head(first) - head(second)`. Each part is encoded with
special tokens of its own: the source with at most 1,224 tokens, each candidate with half of what 2,048 leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.checkpoint import tensors
from workers.errors import ModelError
from workers.families._pairwise import encoded, joined, turns_of, values, wanted
from workers.heads import Answer, body, stack
from workers.protocol import Kind, ModelSpec, Request
from workers.render import Rendered, Renderer

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "preference"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "head", "render", "values", "wanted"]

INSTRUCTION = "Finish the following coversation in each i-th turn by filling in <Response i> with your response."
"""Spelt as in the model's training."""

SOURCE, FIRST, SECOND = "<|source|>", "<|candidate1|>", "<|candidate2|>"
SOURCE_TOKENS, TOKENS = 1224, 2048


def render(renderer: Renderer, request: Request) -> Rendered:
    """Source and both candidates, the history's answers being part of each candidate."""
    asked, answered = turns_of(renderer, request)
    turns = [f"USER: {text}\nAssistant: <Response {number}>" for number, text in enumerate(asked, 1)]
    texts = [SOURCE + INSTRUCTION + "\n".join(turns)]
    for marker, response in zip((FIRST, SECOND), request.responses, strict=True):
        answers = enumerate([*answered, response], 1)
        texts.append(marker + "\n".join(f"<Response {number}>: {text}" for number, text in answers))
    source = encoded(renderer, texts[0], SOURCE_TOKENS)
    room = (TOKENS - len(source[1])) // 2
    return joined("\n".join(texts), [source, *(encoded(renderer, text, room) for text in texts[1:])])


class MarkerHead:
    """Two layers on the states of the markers, in float32."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        import torch

        what = f"a model of family {spec.family!r}"
        layers = stack(tensors(spec, "head_layer.", what), "head_layer", torch.nn.Tanh)
        self.model: Any = body(spec, config, what, {r"^pretrained_model\.": ""})
        self.model.add_module("reward_head", layers)
        self._markers = [_marker(spec, config, name) for name in ("source", "cand1", "cand2")]
        self._name = spec.name

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """How much the first candidate is preferred."""
        hidden = self.model(**inputs).last_hidden_state.float()
        return [self._preference(hidden[at], row) for at, row in enumerate(rows)]

    def _preference(self, states: Any, row: Rendered) -> Answer:
        import torch

        if any(row.ids.count(marker) != 1 for marker in self._markers):
            raise ModelError(f"model {self._name!r}: a conversation holds the text of a marker such as {SOURCE}")
        source, first, second = (states[row.ids.index(marker)] for marker in self._markers)
        scores = [self.model.reward_head(torch.cat([source, candidate])) for candidate in (first, second)]
        return Answer(float((scores[0] - scores[1]).mean()))


def _marker(spec: ModelSpec, config: Any, name: str) -> int:
    """The id of a marker, from the checkpoint's configuration."""
    found = getattr(config, f"{name}_prefix_id", None)
    if not isinstance(found, int):
        raise ModelError(f"model {spec.name!r}: {spec.path} has no {name}_prefix_id in config.json; it is not a PairRM")
    return found


def head(spec: ModelSpec, config: Any) -> MarkerHead:
    """The two layers `head_layer`."""
    return MarkerHead(spec, config)
