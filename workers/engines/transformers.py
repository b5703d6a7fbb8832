"""Sequence classifiers and log-probabilities on torch and transformers.

The truth is the score of one conversation alone, unpadded. With `numerics: exact` that is how each one is scored, and a
score is bit-equal whatever its neighbours. With `numerics: fast` conversations share passes: packed, without padding
and with every shared beginning computed once (`workers.packed`), where the model's code bears it. Where it does not, a
CPU scores each alone, since padding costs more there than a batch saves, and a GPU pads batches on the right with the
model's own pad id and an attention mask: a causal model's earlier positions cannot see the padding, and transformers'
read-out (the right-most token that is not the pad id) lands where it lands alone. Scores are taken in float32.

The pad id follows the reference (rewardbench 0.1.4): a tokenizer without one gets EOS, a model without one gets
the tokenizer's. A pad id that is EOS moves the read-out before a trailing EOS; the lint says so.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from itertools import chain
from typing import Any

from workers import allocator, flops, onednn, packed, packing, plugins, readout
from workers import lint as preflight
from workers.batching import Budget, batches
from workers.checkpoint import config_of, hook, pad_id_of, renderer_of, text_config
from workers.errors import ModelError
from workers.heads import HEADS, Answer, Head
from workers.protocol import Finding, Kind, ModelSpec, Output, Request, Unscored
from workers.render import Rendered

VERSION = "5"
PACKAGES = ("torch", "transformers", "tokenizers")
NEEDS_WEIGHTS = True
KINDS: tuple[Kind, ...] = ("reward", "preference", "logprob", "generate")

CPU_TOKENS, GPU_TOKENS, GPU_MOST_TOKENS = 2048, 8192, 32768
"""Tokens in a forward pass: on a CPU, where more of them gain nothing; on a GPU at first; there at most, once memory
was measured."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class TransformersEngine:
    """A checkpoint in memory, on the GPU where there is one and `gpus` is not 0."""

    def __init__(self, spec: ModelSpec) -> None:
        import torch

        kind = kind_of(spec)
        config = config_of(spec, kind)
        self._spec = spec
        self._renderer = renderer_of(spec, config)
        self._device = torch.device("cuda" if spec.gpus and torch.cuda.is_available() else "cpu")
        self._head: Head = _head(spec, config, kind)
        self._head.model.to(self._device)
        self._pad = pad_id_of(config, self._renderer.tokenizer)
        text_config(self._head.model.config).pad_token_id = self._pad
        self._cost = flops.cost_of(self._head.model)
        self._products = onednn.adopt(self._head.model)
        self._body, self._batching = self._ways(kind)
        self._last, self._last_layer = self._narrowed()
        given, cpu = spec.token_budget, self._device.type == "cpu"
        if cpu:
            allocator.keep()
        tokens = given or (CPU_TOKENS if cpu else GPU_TOKENS)
        self._budget = Budget(tokens, tokens if given or cpu else GPU_MOST_TOKENS)
        self._work: dict[str, int] = {}

    def _ways(self, kind: Kind) -> tuple[packed.PackedBody | None, str]:
        """How conversations are batched, and the body that packs them where they are packed."""
        spec = self._spec
        if spec.numerics == "exact":
            return None, "alone (numerics: exact)"
        if kind == "generate":
            return None, "alone (it writes)"
        if packed.needs_solitude(text_config(self._head.model.config)):
            return None, "alone (its rotary embedding depends on the longest row)"
        body, reason = (
            (None, f"attention: {spec.attention}") if spec.attention else packed.pack_body(self._head.model, spec.dtype)
        )
        if body is not None:
            return body, "packed" if body.way.sharing else "packed (it looks ahead: nothing is shared)"
        return None, f"{'alone' if self._device.type == 'cpu' and not spec.token_budget else 'padded'} ({reason})"

    def _narrowed(self) -> tuple[readout.LastLayer | None, str]:
        """The last layer where only what is read of it is computed, and how much of it is."""
        if self._batching.startswith("alone"):
            return None, "whole"
        last, reason = readout.narrow(self._head.model.base_model, self._spec.dtype)
        return last, f"whole ({reason})" if last is None else "where it is read"

    def run(self, requests: Sequence[Request]) -> list[Output | Unscored]:
        """One output a request, in order; `Unscored` for a conversation that does not fit into memory alone."""
        rendered = self._renderer.render(requests)
        answers: dict[int, Answer | Unscored] = {}
        self._work = {"computed_tokens": 0, "flops": 0, "ooms": 0, "distinct_tokens": self._distinct(rendered)}
        first = self._first(rendered)
        todo = self._batches(rendered, sorted(set(first)))
        while todo:
            batch = todo.pop(0)
            rows = [rendered[position] for position in batch]
            found = self._forward(rows)
            if found is not None:
                answers.update(zip(batch, found, strict=True))
            elif len(batch) > 1:
                self._budget.exceeded(sum(len(row.ids) for row in rows))
                todo = self._batches(rendered, sorted([*batch, *chain(*todo)]))
            else:
                reason = f"one conversation of {len(rows[0].ids)} tokens does not fit into memory"
                answers[batch[0]] = Unscored(reason)
        return [self._output(row, answers[position]) for row, position in zip(rendered, first, strict=True)]

    def _first(self, rendered: Sequence[Rendered]) -> list[int]:
        """For each row the first of the same tokens, whose score is its own: two places in a pass may differ in a bit.

        What is written may depend on more than the tokens.
        """
        if kind_of(self._spec) == "generate":
            return list(range(len(rendered)))
        seen: dict[object, int] = {}
        return [seen.setdefault((row.ids, row.completion, row.type_ids), at) for at, row in enumerate(rendered)]

    def _distinct(self, rendered: Sequence[Rendered]) -> int:
        """Tokens that have to be computed at least: of a model that looks ahead all of them."""
        rows = [row.ids for row in rendered]
        ahead = self._body is not None and not self._body.way.sharing
        return sum(map(len, rows)) if ahead else packing.distinct(rows)

    def _batches(self, rendered: Sequence[Rendered], positions: Sequence[int]) -> list[list[int]]:
        """Positions that share a forward pass."""
        rows = [rendered[position].ids for position in positions]
        if self._body is not None:
            found = packing.passes(rows, self._budget.tokens, sharing=self._body.way.sharing)
        else:
            alone = self._batching.startswith("alone")
            found = batches([len(row) for row in rows], 1 if alone else self._budget.tokens)
        return [[positions[place] for place in batch] for batch in found]

    def _forward(self, rows: Sequence[Rendered]) -> list[Answer] | None:
        """The values of one batch, None when it does not fit into memory."""
        import torch

        cuda = self._device.type == "cuda"
        before = torch.cuda.memory_allocated() if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        try:
            with torch.inference_mode():
                answers, tokens = self._answers(rows)
            if cuda:
                taken = torch.cuda.max_memory_allocated() - before
                free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - before
                self._budget.measured(tokens, taken, free)
            return answers
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not any(said in str(error).lower() for said in OUT_OF_MEMORY):
                raise
        self._work["ooms"] += 1
        self._give_back()
        return None

    def _answers(self, rows: Sequence[Rendered]) -> tuple[list[Answer], int]:
        """The values of one batch, and the tokens that were computed for it."""
        if self._last is not None:
            self._last.spared(0)  # of a batch that failed
        if self._body is not None:
            plan = packing.pack([row.ids for row in rows], sharing=self._body.way.sharing)
            try:
                with self._body.holding(plan):
                    answers = self._head.read(rows, self._inputs(rows))
                return answers, self._count(rows, len(plan.ids), len(plan.ids), plan.pairs)
            except packed.UnpackableError:
                each = [self._head.read([row], self._inputs([row])) for row in rows]
                answers, padded = list(chain(*each)), sum(len(row.ids) for row in rows)
        else:
            answers, padded = self._head.read(rows, self._inputs(rows)), len(rows) * max(len(row.ids) for row in rows)
        lengths = [len(row.ids) for row in rows]
        for place, answer in enumerate(answers):
            if answer.written is not None:  # the last token is not computed on
                new = len(answer.written)
                lengths[place] += max(0, new - 1)
                padded += max(0, new - 1)
                self._work["written_tokens"] = self._work.get("written_tokens", 0) + new
                self._work["flops"] += self._cost.of(0, 0, new)
        return answers, self._count(rows, padded, sum(lengths), sum(map(packing.ends, lengths)))

    def _count(self, rows: Sequence[Rendered], computed: int, needed: int, pairs: int) -> int:
        """Add a batch to the work of this run: computed tokens with padding, FLOPs without."""
        logits = sum(len(row.ids) - row.completion for row in rows if row.completion is not None)
        self._work["computed_tokens"] += computed
        spared = 0 if self._last is None else self._last.spared(needed)
        self._work["flops"] += self._cost.of(needed, pairs, logits) - spared
        return computed

    def _inputs(self, rows: Sequence[Rendered]) -> dict[str, Any]:
        """Tensors of shape [rows, longest]; a row that needs no padding goes without a mask."""
        import torch

        longest = max(len(row.ids) for row in rows)
        padding = [longest - len(row.ids) for row in rows]
        columns: dict[str, list[list[int]]] = {
            "input_ids": [[*row.ids, *[self._pad] * pad] for row, pad in zip(rows, padding, strict=True)]
        }
        if any(padding):
            columns["attention_mask"] = [[1] * len(row.ids) + [0] * pad for row, pad in zip(rows, padding, strict=True)]
        if rows[0].type_ids is not None:
            columns["token_type_ids"] = [
                [*(row.type_ids or ()), *[0] * pad] for row, pad in zip(rows, padding, strict=True)
            ]
        return {name: torch.tensor(values, device=self._device) for name, values in columns.items()}

    def _output(self, row: Rendered, answer: Answer | Unscored) -> Output | Unscored:
        """Of generated tokens the special ones are left out."""
        if isinstance(answer, Unscored):
            return answer
        written = answer.written
        text = None if written is None else self._renderer.tokenizer.decode(written, skip_special_tokens=True)
        return Output(answer.value, len(row.ids), row.truncated, row.hash, text, answer.extra)

    def details(self) -> dict[str, str]:
        """Device, kernel, dtype and read-out of this engine, and the work of its last run."""
        import torch

        model = self._head.model
        device = torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu"
        return {
            "device": device,
            "attention": str(getattr(model.config, "_attn_implementation", "unknown")),
            "dtype": str(model.dtype).removeprefix("torch."),
            "architecture": type(model).__name__,
            "parameters": str(model.num_parameters()),
            "batching": self._batching,
            "last_layer": self._last_layer,
            "products": self._products,
            "token_budget": str(self._budget.tokens),
            **{name: str(value) for name, value in self._work.items()},
        }

    def close(self) -> None:
        """Drop the weights."""
        self._head.model = self._body = self._last = None
        self._give_back()

    def _give_back(self) -> None:
        """Memory that nothing holds any more."""
        import torch

        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            allocator.give_back()


def load(spec: ModelSpec) -> TransformersEngine:
    """An engine, or `ModelError` for a checkpoint that is not what the model's family needs."""
    return TransformersEngine(spec)


def lint(spec: ModelSpec, requests: Sequence[Request]) -> list[Finding]:
    """Findings on the rendered tokens; needs the tokenizer and the configuration, no weights."""
    kind = kind_of(spec)
    config = config_of(spec, kind)
    renderer = renderer_of(spec, config)
    findings = preflight.lint(renderer, requests, getattr(text_config(config), "vocab_size", None))
    if (
        kind == "reward"
        and hook(spec, "head") is None
        and pad_id_of(config, renderer.tokenizer) == renderer.tokenizer.eos_token_id
    ):
        message = (
            "the pad token is EOS, so the score is read before a trailing EOS (as transformers and the reference do)"
        )
        findings.append(Finding("pad-is-eos", "warning", message))
    return findings


def shown(spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
    """The token ids as text, special tokens included."""
    renderer = renderer_of(spec, config_of(spec, kind_of(spec)))
    return [str(renderer.tokenizer.decode(list(row.ids))) for row in renderer.render(requests)]


def token_hashes(spec: ModelSpec, requests: Sequence[Request]) -> list[str]:
    """The token hash of each request, from the tokenizer alone."""
    return [row.hash for row in renderer_of(spec, config_of(spec, kind_of(spec))).render(requests)]


def kind_of(spec: ModelSpec) -> Kind:
    """The kind of request that the model's family asks."""
    kind: Kind = plugins.resolve("workers.families", spec.family).KIND
    return kind


def _head(spec: ModelSpec, config: Any, kind: Kind) -> Head:
    """The family's own head, or the general one for its kind of request."""
    make = hook(spec, "head") or HEADS.get(kind)
    if make is None:
        raise ModelError(f"model {spec.name!r}: family {spec.family!r} brings no head for {kind!r} requests")
    head: Head = make(spec, config)
    return head
