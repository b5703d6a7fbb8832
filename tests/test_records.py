"""What a run leaves in the store beside its measurements, read back as it was written or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import records
from orchestrator.benchmarks import Example, data_hash
from orchestrator.records import Account, Failure, Outcome, Run
from orchestrator.stores.parquet import ParquetStore
from tests.test_store import OTHER, SPEC, STRANGE
from workers.errors import StoreError
from workers.protocol import Message, Model

MODELS = (Model("small", "scalar", (SPEC,)), Model("pair", "implicit", (OTHER, SPEC)))
RUN = Run("r1", "2025-01-01", MODELS, {"pairs": "a" * 32}, 5, 2, {"host": "ü"})
ENDED = Outcome("done", "2025-01-02", Account(5, 3, 1, 1, 0), (Failure("pair", 1, "out of memory: 日本"),))
CONVERSATION = (
    Message("system", "s"),
    Message("user", "日本語 🎉"),
    Message("assistant", ""),
    Message("user", "q\r\n\0"),
)
EXAMPLES = [
    Example("hep-go", "1", CONVERSATION, ("a", "b", "")),
    Example("hep-go", "1", CONVERSATION[1:2], ("x", "y", "z"), num_chosen=2, position=1),
]


def test_runs_are_loaded_as_saved_oldest_first(store: ParquetStore) -> None:
    later = replace(RUN, id="r2", models=MODELS[:1], benchmarks={}, facts={})
    for run in (later, RUN):
        records.save_run(store, run)
    assert records.load_runs(store) == [RUN, later]
    records.save_outcome(store, "r1", ENDED)
    assert records.load_runs(store) == [replace(RUN, outcome=ENDED), later]
    store.save("runs/r3/outcome.json", b"{}")
    assert len(records.load_runs(store)) == 2, "a run exists once its run.json does"


RECORDS = {
    "runs/r1/run.json": [b"", b"{", b"[]", b"null", b"{}", b"\xff", b'{"models": [1]}', b'{"models": [], "new": 1}'],
    f"models/{SPEC.fingerprint}.json": [b"", b"[]", b"{}", b'{"environment": [1]}', b'{"environment": [], "new": 1}'],
    "runs/r1/outcome.json": [b"", b"[]", b"null", b"{}", b'{"failures": [1]}', b'{"failures": [], "state": "done"}'],
}


@pytest.mark.parametrize(("path", "content"), [(path, content) for path, all_ in RECORDS.items() for content in all_])
def test_a_damaged_record_is_named_with_the_remedy(local: ParquetStore, path: str, content: bytes) -> None:
    records.save_run(local, RUN)
    records.save_outcome(local, "r1", ENDED)
    local.save(path, content)
    with pytest.raises(StoreError) as caught:
        records.load_runs(local)
    message = str(caught.value)
    assert message.startswith(f"store={local.uri}: ")
    assert path in message or "runs/r1 is damaged" in message
    assert "remove" in message


def test_a_missing_spec_is_named_with_the_remedy(local: ParquetStore) -> None:
    records.save_run(local, RUN)
    path = f"models/{OTHER.fingerprint}.json"
    Path(local.uri, path).unlink()
    with pytest.raises(StoreError, match=f"{path} is missing.*remove that run's folder"):
        records.load_runs(local)


def test_the_newest_form_of_a_model_and_its_last_failure_count() -> None:
    newer = replace(MODELS[0], streams=(OTHER,))
    resumed = replace(RUN, id="r2", models=(MODELS[1],), outcome=replace(ENDED, failures=()))
    changed = replace(RUN, id="r3", models=(newer,), benchmarks={"pairs": "b", "demo": "c"})
    failed = replace(RUN, outcome=ENDED)
    assert records.latest_models([failed, resumed, changed], "pairs") == {"small": newer, "pair": MODELS[1]}
    assert records.latest_models([failed, resumed, changed], "demo") == {"small": newer}
    assert records.latest_failures([failed, changed]) == {"pair": "out of memory: 日本"}
    assert records.latest_failures([failed, resumed]) == {}
    assert records.latest_failures([resumed, failed]) == {"pair": "out of memory: 日本"}
    assert records.latest_failures([failed, replace(resumed, outcome=None)]) == {}


def test_examples_are_loaded_as_saved(store: ParquetStore) -> None:
    name = records.save_examples(store, "own", EXAMPLES)
    assert (name, records.save_examples(store, "own", EXAMPLES[::-1])) == (data_hash(EXAMPLES), name)
    assert store.list("benchmarks") == [f"benchmarks/own/{name}.parquet"]
    assert records.load_examples(store, "own", name) == EXAMPLES


def cut(content: bytes, _: bytes) -> bytes:
    return content[:-9]


# what happened -> the new content, from the sound one and that of other rows; what the message holds
SPOILT: dict[str, tuple[Callable[[bytes, bytes], bytes], str]] = {
    "truncated": (cut, "is damaged"),
    "emptied": (lambda content, other: b"", "is damaged"),
    "foreign": (lambda content, other: STRANGE, "is damaged"),
    "other rows": (lambda content, other: other, "does not match its name"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_damaged_examples_are_named_with_the_remedy(store: ParquetStore, what: str) -> None:
    spoil, problem = SPOILT[what]
    path, other = (
        f"benchmarks/own/{records.save_examples(store, 'own', rows)}.parquet" for rows in (EXAMPLES, EXAMPLES[:1])
    )
    store.save(path, spoil(store.load(path) or b"", store.load(other) or b""))
    with pytest.raises(StoreError) as caught:
        records.load_examples(store, "own", data_hash(EXAMPLES))
    assert str(caught.value) == f"store={store.uri}: {path} {problem}; give the data again: data.own=FILE"


def test_giving_the_data_again_repairs_damaged_examples(store: ParquetStore) -> None:
    path = f"benchmarks/own/{records.save_examples(store, 'own', EXAMPLES)}.parquet"
    store.save(path, cut(store.load(path) or b"", b""))
    records.save_examples(store, "own", EXAMPLES)
    assert records.load_examples(store, "own", data_hash(EXAMPLES)) == EXAMPLES


def test_missing_examples_are_named_with_the_remedy(store: ParquetStore) -> None:
    with pytest.raises(StoreError, match=r"benchmarks/own/gone.parquet is missing; give the data again: data.own=FILE"):
        records.load_examples(store, "own", "gone")
