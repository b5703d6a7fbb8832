"""What the transformers engine does with a batch: read a reward, sum log-probabilities, write on.

A head owns the model. It is given tensors of shape [rows, longest] and the rendered rows, and returns an answer for
each row. A family with a head of its own builds it from the tools at the end of this file: a `body`, the layers of the
head as modules of that body (so that they move and go with it), and the position where the score is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from workers.checkpoint import load, tensors, weights_of
from workers.errors import ModelError
from workers.protocol import ModelSpec
from workers.readout import reading
from workers.render import Rendered
from workers.sampling import sampling_of
from workers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Answer:
    """What a head says of one row: see `workers.protocol.Output`. `written` are the ids of generated tokens."""

    value: float
    extra: Mapping[str, float] = field(default_factory=dict)
    written: tuple[int, ...] | None = None


PROBE_TOKENS, PROBE_TOLERANCE = 8, 1e-2


class Head(Protocol):
    """A model with its read-out."""

    model: Any

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """The answer for each row; `inputs` are the model's arguments."""


class Classifier:
    """A sequence classifier: one column of its logits, in float32."""

    _usual: bool | None = None
    """Whether it reads where transformers' causal classifiers do; unknown at first."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        self.model: Any = weights_of(spec, config, "reward")
        self._label = label_of(spec, self.model.config.num_labels)

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """Where in the sequence the logits are read is transformers' own rule."""
        if self._usual is None:
            few = self._logits([rows[0].ids[:PROBE_TOKENS]], {"input_ids": inputs["input_ids"][:1, :PROBE_TOKENS]})
            self._usual = not few.isnan().any().item()
        logits = self._logits([row.ids for row in rows], inputs) if self._usual else self.model(**inputs).logits
        return list(map(Answer, logits[:, self._label].float().cpu().tolist()))

    def _logits(self, rows: Sequence[Sequence[int]], inputs: Mapping[str, Any]) -> Any:
        """Logits of the rows, for which no states are asked but those of the last token that is not padding."""
        pad = self.model.config.get_text_config().pad_token_id
        with reading([[last_not(pad, ids)] for ids in rows]):
            return self.model(**inputs).logits


class CausalLM:
    """A causal language model: log-probabilities of the completions' tokens, summed in float64."""

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        self.model: Any = weights_of(spec, config, "logprob")
        self._spec = spec
        self._checked = False

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """Hidden states of the whole batch, logits of completion tokens only, one position before each."""
        import torch

        if not self._checked:
            self._check(inputs["input_ids"][:1, :PROBE_TOKENS])
        spans = [range(max(1, row.completion or 0), len(row.ids)) for row in rows]
        with reading([range(span.start - 1, span.stop - 1) for span in spans]):
            hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        index = torch.tensor([at for at, span in enumerate(spans) for _ in span], device=hidden.device)
        places = torch.tensor([place for span in spans for place in span], device=hidden.device)
        found = Vocabulary(self.model).logprobs(hidden, inputs["input_ids"], index, places)
        return [_summed(part) for part in found.split([len(span) for span in spans])]

    def _check(self, ids: Any) -> None:
        """Our logits must be those of the model's own `forward`: an architecture may have a scaling of its own."""
        own = self.model(ids, use_cache=False).logits.float()
        made = Vocabulary(self.model).logits(self.model.base_model(ids, use_cache=False).last_hidden_state).float()
        if (own - made).abs().max().item() > PROBE_TOLERANCE * max(1.0, own.abs().max().item()):
            name = type(self.model).__name__
            raise ModelError(f"model {self._spec.name!r}: {name} makes its logits in a way that is not supported")
        self._checked = True


def _summed(logprobs: Any) -> Answer:
    """Sum, number of tokens and sum of squares."""
    extra = {"tokens": float(len(logprobs)), "squares": logprobs.square().sum().item()}
    return Answer(logprobs.sum().item(), extra)


class Writer:
    """A causal language model that writes on: greedy, or sampled from a seed that the request decides.

    One row at a time: what is written must not depend on its neighbours. Of the checkpoint's own way to generate only
    the special tokens are kept: a penalty or a `top_k` in it would change what `options` ask for.
    """

    def __init__(self, spec: ModelSpec, config: Any) -> None:
        from transformers import GenerationConfig

        self.model: Any = weights_of(spec, config, "generate")
        own = self.model.generation_config
        ends = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        self.model.generation_config = GenerationConfig(**ends)  # type: ignore[no-untyped-call]
        self._sampling = sampling_of(spec)

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """The tokens that follow each row."""
        return [self._write(row, inputs["input_ids"][index : index + 1]) for index, row in enumerate(rows)]

    def _write(self, row: Rendered, ids: Any) -> Answer:
        import torch

        ids, warm = ids[:, : len(row.ids)], self._sampling.temperature > 0
        drawn = {"temperature": self._sampling.temperature, "top_p": self._sampling.top_p, "top_k": 0} if warm else {}
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._sampling.seed_of(row.hash))
            written = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self._sampling.max_new_tokens,
                do_sample=warm,
                repetition_penalty=1.0,  # whatever the checkpoint's own generation settings say
                **drawn,
            )
        new = tuple(written[0, ids.shape[1] :].tolist())
        return Answer(0.0, {"completion_tokens": float(len(new))}, new)


HEADS: Mapping[str, Callable[[ModelSpec, Any], Head]] = {"reward": Classifier, "logprob": CausalLM, "generate": Writer}
"""By kind of request."""


def label_of(spec: ModelSpec, labels: int) -> int:
    """The column of the logits that is the score."""
    label = spec.options.get("label", 0 if labels == 1 else None)
    if not isinstance(label, int) or not 0 <= label < labels:
        raise ModelError(
            f"model {spec.name!r}: its head has {labels} labels; "
            f"set models.{spec.name}.options.label (0 to {labels - 1})"
        )
    return label


def body(spec: ModelSpec, config: Any, what: str, renames: Mapping[str, str] | None = None) -> Any:
    r"""The transformer without a head, and `ModelError` where the checkpoint has no such weights.

    `renames` maps patterns of the checkpoint's parameter names to those of transformers' own class, for instance
    `{r"^transformer\.": ""}`; a prefix that the class itself uses (`model.` of Llama) needs none.
    """
    return load(spec, config, "AutoModel", what, renames)


def linear(weights: Mapping[str, Any], name: str) -> Any:
    """The layer of `<name>.weight` (shape [out, in]) and, where there is one, `<name>.bias`, in float32."""
    import torch

    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float32)
    layer.weight.data = weight
    if bias is not None:
        layer.bias.data = bias
    return layer.eval().requires_grad_(False)


def stack(weights: Mapping[str, Any], prefix: str, activation: Callable[[], Any]) -> Any:
    """The layers `<prefix>.<number>` as the checkpoint numbers them, in float32; [rows, in] to [rows, out].

    A matrix is a linear layer, and all but the last are followed by `activation`; what has a running mean is a batch
    normalisation, with the moments of its training.
    """
    import torch

    numbers = sorted({int(name[len(prefix) + 1 :].split(".")[0]) for name in weights if name.startswith(f"{prefix}.")})
    layers: list[Any] = []
    for number in numbers:
        name = f"{prefix}.{number}"
        if f"{name}.running_mean" in weights:
            layers.append(batch_norm(weights, name))
        else:
            layers += [linear(weights, name), *([activation()] if number != numbers[-1] else [])]
    return torch.nn.Sequential(*layers).eval()


def batch_norm(weights: Mapping[str, Any], name: str) -> Any:
    """The normalisation of `<name>.weight`, `.bias`, `.running_mean` and `.running_var`, in float32 and eval mode."""
    import torch

    layer = torch.nn.BatchNorm1d(weights[f"{name}.weight"].shape[0])
    own = {part: weights[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
    layer.load_state_dict(own, strict=False)
    return layer.eval().requires_grad_(False)


def states(model: Any, inputs: Mapping[str, Any], positions: Sequence[int]) -> Any:
    """The last hidden states at one position a row, float32, shape [rows, hidden size]."""
    with reading([[position] for position in positions]):
        return at(model(**inputs).last_hidden_state, positions)


def at(hidden: Any, positions: Sequence[int]) -> Any:
    """What stands at one position a row: [rows, length, size] to [rows, size], in float32."""
    return hidden[list(range(len(positions))), list(positions)].float()


def last_not(pad: int | None, ids: Sequence[int]) -> int:
    """The position of the last id that is not `pad`, 0 where all are: where transformers' classifiers read."""
    return next((position for position in range(len(ids) - 1, -1, -1) if ids[position] != pad), 0)


def last_attended(rows: Sequence[Rendered]) -> list[int]:
    """The position of each row's last token that is not padding."""
    return [len(row.ids) - 1 for row in rows]


def before_first_pad(rows: Sequence[Rendered], pad: int) -> list[int]:
    """The position before each row's first pad id, the last one where there is none (protocol of older classifiers).

    Where the pad id occurs inside the text this is not the end of the text. A row that begins with it is read at its
    last position, as the reference's `(index - 1) modulo length` does for a row alone.
    """
    return [(row.ids.index(pad) - 1) % len(row.ids) if pad in row.ids else len(row.ids) - 1 for row in rows]


class OneLayer:
    """The commonest head of its own: the first output of one linear layer on the last attended position."""

    def __init__(self, model: Any, layer: Any) -> None:
        self.model = model
        self.model.add_module("reward_head", layer)

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """One score a row."""
        scores = self.model.reward_head(states(self.model, inputs, last_attended(rows)))[:, 0]
        return list(map(Answer, scores.cpu().tolist()))


class LinearHead(OneLayer):
    """One layer of the checkpoint's weights on its body; `layer` is its name there."""

    def __init__(self, spec: ModelSpec, config: Any, layer: str, renames: Mapping[str, str] | None = None) -> None:
        what = f"a model of family {spec.family!r}"
        super().__init__(body(spec, config, what, renames), linear(tensors(spec, f"{layer}.", what), layer))
