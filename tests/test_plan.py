"""The planner: what is owed is wanted minus present, in shards that depend on content only."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.benchmarks import Example
from orchestrator.plan import Plan, make_plan
from tests.conftest import ROOT
from workers.protocol import Message, Model, ModelSpec, Request

SPEC = ModelSpec("small", "none", "sha256:1", "baseline", "1", "baseline", "1", (("torch", "2.7"),))


def model(spec: ModelSpec = SPEC, **changes: Any) -> Model:
    spec = replace(spec, **changes)
    return Model(spec.name, spec.family, (spec,))


def example(row: int, prefix: str = "", subset: str = "easy") -> Example:
    """Two responses; the texts grow with the row."""
    prompt = (Message("user", f"question {prefix}{row}"),)
    return Example(
        subset, str(row), prompt, (f"{prefix}{row} " + "good " * (row + 1), f"{prefix}{row} " + "bad " * (row + 1))
    )


ROWS = [example(row) for row in range(10)]


def plan(
    rows: Sequence[Example] = ROWS,
    models: Sequence[Model] = (model(),),
    present: Sequence[str] = (),
    earlier: Mapping[str, Any] | None = None,
    shard_rows: int = 8,
) -> Plan:
    """A plan for one benchmark; `present` and `earlier` are those of SPEC."""
    known = {SPEC.name: earlier} if earlier is not None else {}
    return make_plan(models, {"b": rows}, {SPEC.fingerprint: frozenset(present)}, known, shard_rows)


def requests(rows: Sequence[Example]) -> list[Request]:
    return [Request("reward", row.prompt, (text,)) for row in rows for text in row.responses]


def summary(made: Plan) -> dict[str, Any]:
    """All that decides what is computed and how it is named, as JSON."""
    return {
        fingerprint: [
            stream.total,
            stream.reason,
            stream.subsets,
            [[shard.id, shard.stream, [request.digest for request in shard.requests]] for shard in stream.shards],
        ]
        for fingerprint, stream in sorted(made.streams.items())
    }


def test_what_is_owed_is_wanted_minus_present() -> None:
    everything = requests(ROWS)
    stored = [request.digest for request in everything[:7]]
    (stream,) = plan(present=[*stored, "of another benchmark"]).streams.values()
    assert {request.digest for request in stream.owed} == {request.digest for request in everything[7:]}
    assert (stream.total, len(stream.owed), stream.reused) == (20, 13, 7)
    assert plan(present=stored).owed == 13
    assert plan(present=stored).total == 20


def test_nothing_is_owed_where_all_is_present() -> None:
    (stream,) = plan(present=[request.digest for request in requests(ROWS)]).streams.values()
    assert (stream.owed, stream.shards, stream.subsets, stream.reason) == ((), (), (), "all in the store")


@pytest.mark.parametrize(("shard_rows", "sizes"), [(1, [1] * 20), (7, [6, 6, 6, 2]), (20, [20]), (21, [20])])
def test_a_shard_has_at_most_shard_rows_and_whole_prompts(shard_rows: int, sizes: list[int]) -> None:
    """Every prompt has two responses, which an engine scores best together."""
    (stream,) = plan(shard_rows=shard_rows).streams.values()
    assert [len(shard.requests) for shard in stream.shards] == sizes


def test_the_longest_come_first_and_shards_hold_like_with_like() -> None:
    (stream,) = plan(shard_rows=4).streams.values()
    order = [request for shard in stream.shards for request in shard.requests]
    longest: dict[tuple[Message, ...], int] = {}
    for request in order:
        longest[request.prompt] = max(longest.get(request.prompt, 0), request.characters)
    assert list(longest.values()) == sorted(longest.values(), reverse=True)
    assert len(set(longest.values())) == len(ROWS)


def test_responses_to_one_prompt_are_beside_each_other() -> None:
    """A prompt that two examples share, far apart and of other lengths, is one run of requests."""
    far = Example("easy", "far", ROWS[0].prompt, ("word " * 500, "short"))
    (stream,) = plan([*ROWS, far], shard_rows=4).streams.values()
    prompts = [request.prompt for request in stream.owed]
    runs = [prompt for before, prompt in zip([None, *prompts], prompts, strict=False) if prompt != before]
    assert len(runs) == len(set(runs)) == len(ROWS)
    assert prompts[0] == ROWS[0].prompt, "its longest response leads"


def test_models_that_ask_the_same_share_their_requests() -> None:
    """Of other families too, as long as these use the same function: a hundred models cost the texts of one."""
    spec = replace(SPEC, name="head", weights="sha256:3", family="armorm")
    models = [model(), model(name="other", weights="sha256:2"), Model("head", "armorm", (spec,))]
    one, other, third = plan(models=models, shard_rows=4).streams.values()
    assert one.owed is other.owed is third.owed
    for mine, theirs in zip(one.shards, third.shards, strict=True):
        assert mine.requests is theirs.requests
        assert mine.id != theirs.id


@given(st.lists(st.tuples(st.integers(0, 5), st.text(max_size=9)), max_size=40), st.integers(1, 12))
def test_a_prompt_is_divided_only_where_it_has_more_responses_than_a_shard_has_rows(
    asked: list[tuple[int, str]], shard_rows: int
) -> None:
    rows = [Example("s", str(at), (Message("user", f"q{at}"),), (text, "x")) for at, text in asked]
    for stream in plan(rows, shard_rows=shard_rows).streams.values():
        where: dict[str, list[str]] = {}
        for shard in stream.shards:
            assert 1 <= len(shard.requests) <= shard_rows
            for request in shard.requests:
                where.setdefault(request.prompt[0].content, []).append(shard.id)
        for shards in where.values():
            assert len(set(shards)) == (1 if len(shards) <= shard_rows else -(-len(shards) // shard_rows))
        assert [request for shard in stream.shards for request in shard.requests] == list(stream.owed)


def test_shard_ids_name_the_stream_and_are_unique() -> None:
    (stream,) = plan(shard_rows=8).streams.values()
    start = SPEC.fingerprint[:12]
    assert [shard.id for shard in stream.shards] == [f"{start}-00000", f"{start}-00001", f"{start}-00002"]
    assert {shard.stream for shard in stream.shards} == {SPEC.fingerprint}


def test_subsets_tell_where_each_owed_request_occurs() -> None:
    rows = [example(row, subset="easy" if row % 2 else "hard") for row in range(6)]
    (stream,) = plan(rows).streams.values()
    found = {request.digest: place for request, place in zip(stream.owed, stream.subsets, strict=True)}
    for row in rows:
        assert {found[request.digest] for request in requests([row])} == {f"b/{row.subset}"}


def test_the_order_of_rows_and_models_changes_nothing() -> None:
    models = [model(), model(name="other", weights="sha256:2"), model(name="third", dtype="float16")]
    expected = summary(plan(ROWS, models, shard_rows=3))
    for seed in range(10):
        shuffled = random.Random(seed)
        rows, order = shuffled.sample(ROWS, len(ROWS)), shuffled.sample(models, len(models))
        assert summary(plan(rows, order, shard_rows=3)) == expected


def test_the_hash_seed_of_the_process_changes_nothing() -> None:
    """Sets of texts have another order in every process; a plan must not."""
    code = "import json; from tests.test_plan import *; print(json.dumps(summary(plan(present=[], shard_rows=3))))"
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert json.loads(said[0]) == json.loads(json.dumps(summary(plan(shard_rows=3))))
    assert said[0] == said[1]


def test_a_text_in_two_benchmarks_is_asked_for_once() -> None:
    again = [replace(row, subset="copy", id=f"x{row.id}") for row in ROWS[:4]]
    made = make_plan([model()], {"b": ROWS, "c": [*again, example(99)]}, {}, {}, 8)
    (stream,) = made.streams.values()
    assert stream.total == len({request.digest for request in stream.owed}) == 22
    assert set(stream.subsets) == {"b/easy", "c/easy"}, "the first place is told"


def test_models_with_one_fingerprint_share_a_stream() -> None:
    twin = model(name="twin", path="elsewhere", gpus=2)
    other = model(name="other", weights="sha256:2")
    made = plan(models=[model(), twin, other])
    assert set(made.streams) == {SPEC.fingerprint, other.streams[0].fingerprint}
    assert made.total == made.owed == 40


def test_what_is_present_for_one_stream_is_owed_by_another() -> None:
    made = plan(models=[model(), model(name="other", weights="sha256:2")], present=[requests(ROWS)[0].digest])
    assert sorted(len(stream.owed) for stream in made.streams.values()) == [19, 20]


EARLIER = json.loads(json.dumps(SPEC.identity))


@pytest.mark.parametrize(
    ("earlier", "stored", "reason"),
    [
        (None, 0, "new model"),
        (EARLIER, 0, "new data"),
        (EARLIER, 3, "3 of 20 in the store"),
        (None, 3, "3 of 20 in the store"),
        ({**EARLIER, "dtype": "bfloat16"}, 0, "changed: dtype bfloat16 -> float32"),
        ({**EARLIER, "weights": "w", "eos": "append"}, 0, "changed: eos append -> keep, weights w -> sha256:1"),
        ({**EARLIER, "weights": "w" * 90}, 0, f"changed: weights {'w' * 61}... -> sha256:1"),
        ({**EARLIER, "weights": "hub:a/b@" + 5 * "01234567"}, 0, "changed: weights hub:a/b@01234567 -> sha256:1"),
        ({key: value for key, value in EARLIER.items() if key != "bos"}, 0, "changed: bos None -> single"),
    ],
)
def test_the_reason_is_said_in_words(earlier: Mapping[str, Any] | None, stored: int, reason: str) -> None:
    present = [request.digest for request in requests(ROWS)[:stored]]
    (stream,) = plan(present=present, earlier=earlier).streams.values()
    assert stream.reason == reason


@given(st.sets(st.integers(0, 19)), st.integers(1, 25))
def test_every_request_is_present_or_in_exactly_one_shard(stored: set[int], shard_rows: int) -> None:
    everything = [request.digest for request in requests(ROWS)]
    present = [everything[index] for index in stored]
    (stream,) = plan(present=present, shard_rows=shard_rows).streams.values()
    in_shards = [request.digest for shard in stream.shards for request in shard.requests]
    assert sorted([*present, *in_shards]) == sorted(everything)
    assert in_shards == [request.digest for request in stream.owed]
    assert stream.reused + len(stream.owed) == stream.total == 20
    assert all(1 <= len(shard.requests) <= shard_rows for shard in stream.shards)
