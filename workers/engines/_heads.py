"""What the transformers engine does with a batch: read a reward, or sum log-probabilities.

A head owns the model. It is given tensors of shape [rows, longest] and the rendered rows, and returns a value and
further named numbers for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from workers.engines._checkpoint import weights_of
from workers.errors import ModelError
from workers.protocol import ModelSpec
from workers.render import Rendered

Value = tuple[float, Mapping[str, float]]

CHUNK_LOGITS = 2**27
"""Logits held at a time, 512 MiB of float32: memory does not grow with vocabulary times length."""

PROBE_TOKENS, PROBE_TOLERANCE = 8, 1e-2


class Head(Protocol):
    """A model with its read-out."""

    model: Any

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Value]:
        """The value of each row; `inputs` are the model's arguments."""


class Classifier:
    """A sequence classifier: one column of its logits, in float32."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        self.model: Any = weights_of(spec, config, "reward")
        self._label = _label(spec, self.model.config.num_labels)

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Value]:
        """Where in the sequence the logits are read is transformers' own rule."""
        scores = self.model(**inputs).logits[:, self._label].float().cpu().tolist()
        return [(score, {}) for score in scores]


class CausalLM:
    """A causal language model: log-probabilities of the completions' tokens, summed in float64."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        self.model: Any = weights_of(spec, config, "logprob")
        self._spec = spec
        self._checked = False

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Value]:
        """Hidden states of the whole batch, logits of completion tokens only and in chunks."""
        if not self._checked:
            self._check(inputs["input_ids"][:1, :PROBE_TOKENS])
        hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        return [self._completion(hidden[index], inputs["input_ids"][index], row) for index, row in enumerate(rows)]

    def _completion(self, hidden: Any, ids: Any, row: Rendered) -> Value:
        """Sum, number of tokens and sum of squares; a token's logits stand one position before it."""
        start, end = row.completion or 0, len(row.ids)
        step = max(1, CHUNK_LOGITS // self.model.config.get_text_config().vocab_size)
        total = squares = 0.0
        for first in range(start, end, step):
            last = min(end, first + step)
            logprobs = self._logits(hidden[first - 1 : last - 1]).float().log_softmax(-1)
            chosen = logprobs.gather(1, ids[first:last, None]).double()
            total, squares = total + chosen.sum().item(), squares + chosen.square().sum().item()
        return total, {"tokens": float(end - start), "squares": squares}

    def _check(self, ids: Any) -> None:
        """Our logits must be those of the model's own `forward`: an architecture may have a scaling of its own."""
        own = self.model(ids, use_cache=False).logits.float()
        made = self._logits(self.model.base_model(ids, use_cache=False).last_hidden_state).float()
        if (own - made).abs().max().item() > PROBE_TOLERANCE * max(1.0, own.abs().max().item()):
            name = type(self.model).__name__
            raise ModelError(f"model {self._spec.name!r}: {name} makes its logits in a way that is not supported")
        self._checked = True

    def _logits(self, hidden: Any) -> Any:
        """As the model's own `forward` makes them: some scale or cap what the output embedding gives."""
        config = self.model.config.get_text_config()
        logits = self.model.get_output_embeddings()(hidden)
        logits = logits * getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return (logits / cap).tanh() * cap if cap else logits


HEADS: Mapping[str, Callable[[ModelSpec, Any], Head]] = {"reward": Classifier, "logprob": CausalLM}
"""By kind of request."""


def _label(spec: ModelSpec, labels: int) -> int:
    """The column of the logits that is the score."""
    label = spec.options.get("label", 0 if labels == 1 else None)
    if not isinstance(label, int) or not 0 <= label < labels:
        raise ModelError(
            f"model {spec.name!r}: its head has {labels} labels; "
            f"set models.{spec.name}.options.label (0 to {labels - 1})"
        )
    return label
