"""Any preference file with prompt, chosen and rejected: strings or message lists, optional subset and id.

Dataset: the user's own (`data.pairs=FILE`); lists of texts in `chosen` or `rejected` make a best-of-n. Metric: the
share of rows whose chosen responses all score strictly higher than the rejected ones. Subset: the row's, else `all`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator import data
from orchestrator.benchmarks import OVERALL, Benchmark, Example, Rule
from orchestrator.data import Row
from orchestrator.metrics import normalised
from workers.protocol import Message

ID_CHARACTERS = 12
"""A row without an id is named after its content: its number would change with the order of the file."""


def parse(rows: Iterable[Row]) -> list[Example]:
    """Rows to examples, chosen responses first; `InputError` names the first bad row."""
    return [_example(row) for row in rows]


def _example(row: Row) -> Example:
    subset = "all" if row.values.get("subset") in (None, "") else data.text(row, "subset")
    chosen, rejected = _responses(row, "chosen"), _responses(row, "rejected")
    prompts = {prompt for prompt, _ in chosen + rejected}
    if len(prompts) > 1:
        raise row.fail("chosen and rejected answer different prompts")
    responses = tuple(response for _, response in chosen + rejected)
    example = Example(subset, data.identifier(row) or "", prompts.pop(), responses, len(chosen))
    return example if example.id else replace(example, id=example.digest[:ID_CHARACTERS])


def _responses(row: Row, name: str) -> list[tuple[tuple[Message, ...], str]]:
    """Prompts and responses of a column: one, or one for each text of a list."""
    value = row.values.get(name)
    if not isinstance(value, list | tuple) or not value or not isinstance(value[0], str):
        return [_conversation(row, name)]
    prompt = _prompt(row)
    if prompt is None:
        raise row.missing("prompt", f"a list of texts in {name!r} needs it")
    return [(prompt, response) for response in data.texts(row, name)]


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


def _weights(sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    return {OVERALL: normalised(sizes)}


PAIRS_V1 = Rule("pairs-v1", {}, _weights)

BENCHMARK = Benchmark(name="pairs", rules={PAIRS_V1.name: PAIRS_V1}, default_rule=PAIRS_V1.name, parse=parse)
