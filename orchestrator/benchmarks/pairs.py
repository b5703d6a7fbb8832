"""Any preference file with prompt, chosen and rejected: strings or message lists, optional subset and id.

Dataset: the user's own (`data.pairs=FILE`). Metric: the share of rows whose chosen response scores strictly
higher. Subset: the row's `subset`, else `all`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator import data
from orchestrator.benchmarks import OVERALL, Benchmark, Example, Judged, Rule, Scores
from orchestrator.data import Row
from orchestrator.metrics import accuracy, by_subset, normalised
from workers.protocol import Message

ID_CHARACTERS = 12
"""A row without an id is named after its content: its number would change with the order of the file."""


def parse(rows: Iterable[Row]) -> list[Example]:
    """Rows to examples with two responses; `InputError` names the first bad row."""
    return [_example(row) for row in rows]


def _example(row: Row) -> Example:
    subset = "all" if row.values.get("subset") in (None, "") else data.text(row, "subset")
    prompt, chosen = _conversation(row, "chosen")
    prompt_again, rejected = _conversation(row, "rejected")
    if prompt != prompt_again:
        raise row.fail("chosen and rejected answer different prompts")
    example = Example(subset, data.identifier(row) or "", prompt, (chosen, rejected))
    return example if example.id else replace(example, id=example.digest[:ID_CHARACTERS])


def _conversation(row: Row, name: str) -> tuple[tuple[Message, ...], str]:
    """The prompt and the response that a column holds, alone or as a whole conversation."""
    prompt = _prompt(row)
    turns = data.messages(row, name)
    if turns is None:
        if prompt is None:
            raise row.missing("prompt", "it is needed unless chosen and rejected are whole conversations")
        return prompt, data.text(row, name)
    if not turns or turns[-1].role != "assistant":
        raise row.fail(f"{name!r} must end with an assistant message")
    history = turns[:-1] or prompt
    if not history:
        raise row.fail(f"'prompt' is missing and {name!r} holds no earlier turns")
    if prompt is not None and history != prompt:
        raise row.fail(f"{name!r} does not begin with the messages of 'prompt'")
    return history, turns[-1].content


def _prompt(row: Row) -> tuple[Message, ...] | None:
    if row.values.get("prompt") is None:
        return None
    turns = data.messages(row, "prompt")
    if turns is None:
        return (Message("user", data.text(row, "prompt")),)
    if not turns or turns[-1].role not in ("user", "tool"):
        raise row.fail("'prompt' must end with a user message")
    return turns


def _mean(judged: Sequence[Judged]) -> Scores:
    return Scores(accuracy(judged), {}, by_subset(judged))


def _weights(sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    return {OVERALL: normalised(sizes)}


PAIRS_V1 = Rule("pairs-v1", _mean, {}, _weights)

BENCHMARK = Benchmark(name="pairs", rules={PAIRS_V1.name: PAIRS_V1}, default_rule=PAIRS_V1.name, parse=parse)
