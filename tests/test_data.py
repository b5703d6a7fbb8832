"""Preference files: every format and every way of writing a row gives the same examples."""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.benchmarks import Example, data_hash, find
from orchestrator.data import read
from workers.errors import InputError
from workers.protocol import Message

Rows = Sequence[Mapping[str, Any]]

STRINGS: Rows = [
    {
        "prompt": "Wie geht's? 日本語 🎉",
        "chosen": 'gut, "sehr" gut\nwirklich',
        "rejected": "x,y",
        "subset": "b",
        "id": 2,
    },
    {"prompt": "two\r\nlines", "chosen": "", "rejected": " spaces ", "subset": "a", "id": 1},
    {"prompt": "again", "chosen": "tab\t", "rejected": "back\\slash", "subset": "a", "id": 10},
]
USER, SYSTEM = {"role": "user", "content": "q"}, {"role": "system", "content": "s"}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


TURNS: Rows = [
    {"prompt": [SYSTEM, USER], "chosen": [answer("hi")], "rejected": [answer("good day")], "subset": "a", "id": 1},
    {"prompt": [USER, answer("x"), USER], "chosen": [answer("y")], "rejected": [answer("z")], "subset": "a", "id": 2},
]


def load(path: Path) -> list[Example]:
    return find("pairs").load(str(path))


def as_lines(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text(as_lines(rows), encoding="utf-8")


def write_raw_jsonl(path: Path, rows: Rows) -> None:
    """Not escaped, with a byte order mark and blank lines."""
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(text, encoding="utf-8-sig")


def write_jsonl_gz(path: Path, rows: Rows) -> None:
    path.write_bytes(gzip.compress(as_lines(rows).encode()))


def write_two_members(path: Path, rows: Rows) -> None:
    path.write_bytes(gzip.compress(as_lines(rows[:1]).encode()) + gzip.compress(as_lines(rows[1:]).encode()))


def write_json(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps(list(rows), indent=2), encoding="utf-8")


def write_json_gz(path: Path, rows: Rows) -> None:
    path.write_bytes(gzip.compress(json.dumps(list(rows)).encode()))


def write_csv(path: Path, rows: Rows, encoding: str = "utf-8") -> None:
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_excel_csv(path: Path, rows: Rows) -> None:
    write_csv(path, rows, "utf-8-sig")


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def write_float_ids(path: Path, rows: Rows) -> None:
    """What pandas makes of a column of ids that had a gap once."""
    write_parquet(path, [{**row, "id": float(row["id"])} for row in rows])


def write_dataset(path: Path, rows: Rows) -> None:
    import datasets

    datasets.Dataset.from_list([dict(row) for row in rows]).save_to_disk(path)


def write_splits(path: Path, rows: Rows) -> None:
    import datasets

    parts = {"train": rows[:1], "test": rows[1:]}
    splits = {name: datasets.Dataset.from_list([dict(row) for row in part]) for name, part in parts.items()}
    datasets.DatasetDict(splits).save_to_disk(path)


Writer = Callable[[Path, Rows], None]
NESTED: dict[str, tuple[str, Writer]] = {
    "jsonl": ("pairs.jsonl", write_jsonl),
    "jsonl, raw": ("pairs.jsonl", write_raw_jsonl),
    "jsonl.gz": ("pairs.jsonl.gz", write_jsonl_gz),
    "jsonl.gz, two members": ("PAIRS.JSONL.GZ", write_two_members),
    "json": ("pairs.json", write_json),
    "json.gz": ("pairs.json.gz", write_json_gz),
    "parquet": ("pairs.parquet", write_parquet),
    "parquet, float ids": ("pairs.parquet", write_float_ids),
    "dataset": ("pairs", write_dataset),
    "dataset of splits": ("pairs", write_splits),
}
FLAT = {**NESTED, "csv": ("pairs.csv", write_csv), "csv, byte order mark": ("pairs.csv", write_excel_csv)}


@pytest.mark.parametrize("form", FLAT)
def test_every_format_gives_the_same_examples(tmp_path: Path, form: str) -> None:
    name, write = FLAT[form]
    write(tmp_path / name, STRINGS)
    expected = [
        Example(row["subset"], str(row["id"]), (Message("user", row["prompt"]),), (row["chosen"], row["rejected"]))
        for row in (STRINGS[1], STRINGS[2], STRINGS[0])
    ]
    assert load(tmp_path / name) == expected


@pytest.mark.parametrize("form", NESTED)
def test_every_format_that_can_hold_messages_gives_the_same_conversations(tmp_path: Path, form: str) -> None:
    name, write = NESTED[form]
    write(tmp_path / name, TURNS)
    found = load(tmp_path / name)
    assert [example.responses for example in found] == [("hi", "good day"), ("y", "z")]
    assert found[0].prompt == (Message("system", "s"), Message("user", "q"))
    assert [turn.role for turn in found[1].prompt] == ["user", "assistant", "user"]


ASKED = (Message("user", "q"),)
FORMS: dict[str, tuple[dict[str, Any], tuple[Message, ...]]] = {
    "strings": ({"prompt": "q", "chosen": "a", "rejected": "b"}, ASKED),
    "prompt list": ({"prompt": [USER], "chosen": "a", "rejected": "b"}, ASKED),
    "answer messages": ({"prompt": "q", "chosen": [answer("a")], "rejected": [answer("b")]}, ASKED),
    "one answer a message": ({"prompt": "q", "chosen": [answer("a")], "rejected": "b"}, ASKED),
    "conversations": ({"chosen": [USER, answer("a")], "rejected": [USER, answer("b")]}, ASKED),
    "null prompt": ({"prompt": None, "chosen": [USER, answer("a")], "rejected": [USER, answer("b")]}, ASKED),
    "conversations and prompt": (
        {"prompt": "q", "chosen": [USER, answer("a")], "rejected": [USER, answer("b")]},
        ASKED,
    ),
    "conversations and prompt list": (
        {"prompt": [SYSTEM, USER], "chosen": [SYSTEM, USER, answer("a")], "rejected": [SYSTEM, USER, answer("b")]},
        (Message("system", "s"), *ASKED),
    ),
    "system turn": (
        {"prompt": [SYSTEM, USER], "chosen": "a", "rejected": "b"},
        (Message("system", "s"), *ASKED),
    ),
    "several turns": (
        {"chosen": [USER, answer("x"), USER, answer("a")], "rejected": [USER, answer("x"), USER, answer("b")]},
        (*ASKED, Message("assistant", "x"), *ASKED),
    ),
    "tool turn": (
        {"prompt": [USER, {"role": "tool", "content": "t"}], "chosen": "a", "rejected": "b"},
        (*ASKED, Message("tool", "t")),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_row_is_understood(write_pairs: Callable[..., Path], form: str) -> None:
    row, prompt = FORMS[form]
    assert load(write_pairs([{**row, "id": 1}])) == [Example("all", "1", prompt, ("a", "b"))]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"chosen": "a", "rejected": "b"}, "'prompt' is missing"),
    "answers without a prompt": ({"chosen": [answer("a")], "rejected": [answer("b")]}, "'prompt' is missing"),
    "different prompts": (
        {"chosen": [USER, answer("a")], "rejected": [SYSTEM, USER, answer("b")]},
        "chosen and rejected answer different prompts",
    ),
    "prompt of another row": (
        {"prompt": "p", "chosen": [USER, answer("a")], "rejected": [USER, answer("b")]},
        "'chosen' does not begin with the messages of 'prompt'",
    ),
    "ends with the user": (
        {"prompt": "q", "chosen": [answer("a"), USER], "rejected": "b"},
        "'chosen' must end with an assistant message",
    ),
    "empty conversation": ({"prompt": "q", "chosen": "a", "rejected": []}, "'rejected' must end with an assistant"),
    "empty prompt list": ({"prompt": [], "chosen": "a", "rejected": "b"}, "'prompt' must end with a user message"),
    "prompt ends with the assistant": (
        {"prompt": [USER, answer("x")], "chosen": "a", "rejected": "b"},
        "'prompt' must end with a user message",
    ),
    "content is a list": (
        {"prompt": [{"role": "user", "content": ["q"]}], "chosen": "a", "rejected": "b"},
        "'prompt' must hold messages",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_a_row_that_means_nothing_is_refused(write_pairs: Callable[..., Path], form: str) -> None:
    row, problem = REFUSED[form]
    path = write_pairs([FORMS["strings"][0], row])
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("values", "subset", "name"),
    [
        ({"subset": None, "id": 1}, "all", "1"),
        ({"subset": "", "id": 1}, "all", "1"),
        ({"subset": "x", "id": 7}, "x", "7"),
        ({"id": 7.0}, "all", "7"),
        ({"id": "07"}, "all", "07"),
        ({"id": "question/3"}, "all", "question/3"),
        ({"id": 0}, "all", "0"),
        ({"id": 2**60}, "all", str(2**60)),
    ],
)
def test_subset_and_id(write_pairs: Callable[..., Path], values: dict[str, Any], subset: str, name: str) -> None:
    (found,) = load(write_pairs([{**FORMS["strings"][0], **values}]))
    assert (found.subset, found.id, found.position) == (subset, name, 0)


def test_rows_of_one_id_are_told_apart_by_content_whatever_their_order(write_pairs: Callable[..., Path]) -> None:
    rows = [{"prompt": text, "chosen": "a", "rejected": "b", "subset": "s", "id": 1} for text in ("x", "y", "z", "x")]
    forwards, backwards = load(write_pairs(rows)), load(write_pairs(rows[::-1], "backwards.jsonl"))
    assert forwards == backwards
    assert [row.key for row in forwards] == [("s", "1", 0), ("s", "1", 1), ("s", "1", 2), ("s", "1", 3)]
    assert data_hash(forwards) == data_hash(backwards) != data_hash(forwards[:3])


def test_rows_without_an_id_are_named_after_their_content(write_pairs: Callable[..., Path]) -> None:
    rows = [{"prompt": text, "chosen": "a", "rejected": "b"} for text in ("x", "y", "x")]
    forwards, backwards = load(write_pairs(rows)), load(write_pairs(rows[::-1], "backwards.jsonl"))
    assert forwards == backwards
    assert sorted(row.position for row in forwards) == [0, 0, 1]
    assert len({row.key for row in forwards}) == 3


def test_rewardbench_needs_its_own_subsets(write_pairs: Callable[..., Path]) -> None:
    path = write_pairs([FORMS["strings"][0]])
    with pytest.raises(InputError, match="'subset' is missing"):
        find("rewardbench").load(str(path))


words = st.text(max_size=20)  # any character but half surrogates, which JSON can escape and nothing else can hold
turn = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": words})
prompts = st.one_of(
    words,
    st.tuples(st.lists(turn, max_size=3), words).map(lambda pair: [*pair[0], {"role": "user", "content": pair[1]}]),
)
pairs = st.fixed_dictionaries(
    {"prompt": prompts, "chosen": words, "rejected": words},
    optional={"subset": words.filter(bool), "id": st.one_of(st.integers(), words.filter(bool))},
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(pairs, min_size=1, max_size=6), compressed=st.booleans(), escaped=st.booleans())
def test_jsonl_returns_what_was_written(rows: list[dict[str, Any]], compressed: bool, escaped: bool) -> None:
    content = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("pairs.jsonl.gz" if compressed else "pairs.jsonl")
        path.write_bytes(gzip.compress(content) if compressed else content)
        assert [dict(row.values) for row in read(str(path))] == rows
        found = load(path)
    assert sorted(map(told, found)) == sorted(map(written, rows))


def told(example: Example) -> str:
    turns = [[turn.role, turn.content] for turn in example.prompt]
    return json.dumps([example.subset, turns, example.responses])


def written(row: Mapping[str, Any]) -> str:
    prompt = row["prompt"]
    turns = [["user", prompt]] if isinstance(prompt, str) else [[turn["role"], turn["content"]] for turn in prompt]
    return json.dumps([row.get("subset", "all"), turns, [row["chosen"], row["rejected"]]])
