"""Merging, the index and removal: whoever reads, whenever, finds every row that was ever written."""

from __future__ import annotations

import hashlib
import math
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.stores import Stream
from orchestrator.stores.compaction import compact, removable
from orchestrator.stores.parquet import INDEX_AT, ParquetStore
from orchestrator.stores.parts import name_of, parsed, to_bytes
from tests.store_rows import FOLDER, OTHER, SPEC, held_is, row, told
from workers.errors import StoreError

INDEX = f"index/{SPEC.fingerprint}"
ALWAYS = math.inf


def collect(store: ParquetStore, before: float = ALWAYS) -> int:
    """What `rewardsweep gc` does to the parts of `SPEC`."""
    going = removable(store, SPEC.fingerprint, before)
    store.remove(*(entry.path for entry in going))
    return len(going)


def same(one: Stream, other: Stream) -> bool:
    """Whether two streams tell the same."""
    return told(list(one.rows.values())) == told(list(other.rows.values())) and (
        one.conflicts,
        one.provenance,
        one.damaged,
    ) == (other.conflicts, other.provenance, other.damaged)


def filled(store: ParquetStore, parts: int = 12) -> Stream:
    """Parts that overlap, and what they say together."""
    for number in range(parts):
        store.write(SPEC, [row(number), row(number + 1, math.nan if number == 3 else 0.5)], {"shard": str(number)})
    store.write(OTHER, [row(0)], {})
    return store.read(SPEC.fingerprint)


def test_merging_indexing_and_removing_change_nothing_that_is_read(store: ParquetStore) -> None:
    before = filled(store)
    assert before.conflicts == 1
    assert held_is(store, before)
    assert len(store.footers(SPEC.fingerprint, 5)) == 5
    assert len(before.provenance) == 12
    done = compact(store, SPEC.fingerprint)
    assert (done.parts, done.merged, done.damaged) == (12, 1, ())
    assert len(store.list(FOLDER)) == 13
    assert same(store.read(SPEC.fingerprint), before)
    assert held_is(store, before)
    assert collect(store) == 12
    assert len(store.list(FOLDER)) == 1
    assert len(store.footers(SPEC.fingerprint, 5)) == 5
    assert same(store.read(SPEC.fingerprint), before)
    assert held_is(store, before)
    store.remove(INDEX)
    assert same(store.read(SPEC.fingerprint), before)
    assert held_is(store, before)
    assert store.fingerprints() == sorted([SPEC.fingerprint, OTHER.fingerprint])


def test_many_models_are_read_at_once_as_one_by_one(store: ParquetStore) -> None:
    filled(store)
    specs = [replace(SPEC, weights=f"sha256:{number}") for number in range(20)]
    for number, spec in enumerate(specs):
        store.write(spec, [row(one) for one in range(number)], {})
    names = {SPEC.fingerprint, OTHER.fingerprint, "0" * 32, *(spec.fingerprint for spec in specs)}
    assert store.held_of([*names, SPEC.fingerprint]) == {name: store.held(name) for name in sorted(names)}
    assert list(store.held_of(names)) == sorted(names)


def test_a_second_compaction_does_nothing_and_a_third_takes_up_what_came_since(store: ParquetStore) -> None:
    filled(store)
    compact(store, SPEC.fingerprint)
    paths, index = store.list(FOLDER), store.load(INDEX)
    assert compact(store, SPEC.fingerprint).merged == 0
    assert (store.list(FOLDER), store.load(INDEX)) == (paths, index)
    store.write(SPEC, [row(99)], {})
    before = store.read(SPEC.fingerprint)
    assert compact(store, SPEC.fingerprint).parts == 2
    assert same(store.read(SPEC.fingerprint), before)
    assert collect(store) == 14
    assert len(store.list(FOLDER)) == 1
    assert same(store.read(SPEC.fingerprint), before)


def test_equal_parts_are_merged_to_equal_bytes(tmp_path: Path) -> None:
    stores = [ParquetStore(str(tmp_path / name), {}) for name in "ab"]
    for store, order in zip(stores, (range(9), reversed(range(9))), strict=True):
        for number in order:
            store.write(SPEC, [row(number), row(number + 1)], {})
        compact(store, SPEC.fingerprint)
        collect(store)
    assert stores[0].list(FOLDER) == stores[1].list(FOLDER)
    assert len(stores[0].list(FOLDER)) == 1


def test_parts_that_are_large_stay_and_groups_are_bounded(store: ParquetStore) -> None:
    before = filled(store)
    size = max(entry.size for entry in store.entries(FOLDER))
    assert compact(store, SPEC.fingerprint, large=1).merged == 0
    assert compact(store, SPEC.fingerprint, large=4 * size).merged == 3
    collect(store)
    assert len(store.list(FOLDER)) == 3
    assert same(store.read(SPEC.fingerprint), before)


def test_a_damaged_part_is_left_and_named_and_goes_into_no_other(store: ParquetStore) -> None:
    filled(store)
    victim = store.list(FOLDER)[0]
    store.save(victim, b"spoilt")
    before = store.read(SPEC.fingerprint)
    assert compact(store, SPEC.fingerprint).damaged == before.damaged
    collect(store)
    assert victim in store.list(FOLDER)
    assert same(store.read(SPEC.fingerprint), before)
    assert len(before.damaged) == 1


def test_a_part_with_a_false_identity_is_not_hidden_in_another_one(store: ParquetStore) -> None:
    filled(store)
    false = to_bytes([row(70)], {"fingerprint": SPEC.fingerprint, "identity": {}, "provenance": {"shard": "x"}})
    path = store.keep(SPEC.fingerprint, false)
    before = store.read(SPEC.fingerprint)
    assert compact(store, SPEC.fingerprint).parts == 12
    collect(store)
    assert path in store.list(FOLDER)
    assert same(store.read(SPEC.fingerprint), before)


def test_nothing_goes_while_the_part_that_holds_it_is_damaged_gone_or_young(store: ParquetStore) -> None:
    filled(store)
    plain = set(store.list(FOLDER))
    compact(store, SPEC.fingerprint)
    (merged,) = set(store.list(FOLDER)) - plain
    assert collect(store, time.time() - 60) == 0
    content = store.load(merged) or b""
    store.save(merged, content[:-1])
    assert collect(store) == 0
    store.remove(merged)
    assert collect(store) == 0
    store.save(merged, content)
    assert collect(store) == 12


def test_the_time_of_grace_is_counted_from_the_first_merge(store: ParquetStore) -> None:
    """Else a compaction every night would put off every removal for ever."""
    filled(store)
    compact(store, SPEC.fingerprint)
    first = max(entry.modified for entry in store.entries(FOLDER))
    time.sleep(0.05)
    store.write(SPEC, [row(50)], {})
    compact(store, SPEC.fingerprint)
    assert collect(store, first) == 12
    assert collect(store, first) == 0
    assert collect(store) == 2


def test_an_index_spares_the_reading_of_parts(store: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = filled(store)
    assert store.index(SPEC.fingerprint)
    assert not store.index(SPEC.fingerprint)
    loaded: list[str] = []
    load = store._files.read
    monkeypatch.setattr(store._files, "read", lambda path: (loaded.append(path), load(path))[1])
    assert same(store.read(SPEC.fingerprint), before)
    assert loaded == [INDEX]
    store.write(SPEC, [row(77)], {})
    assert "request 77" in store.read(SPEC.fingerprint).rows
    assert len(loaded) == 3


def test_few_parts_are_not_worth_an_index(store: ParquetStore) -> None:
    for number in range(INDEX_AT - 1):
        store.write(SPEC, [row(number)], {})
    assert not store.index(SPEC.fingerprint)
    store.write(SPEC, [row(INDEX_AT)], {})
    assert store.index(SPEC.fingerprint)


@pytest.mark.parametrize("spoil", ["removed", "damaged", "replaced"])
def test_an_index_is_never_the_truth(store: ParquetStore, spoil: str) -> None:
    """What happens to a part shows, whatever the index says."""
    filled(store)
    store.index(SPEC.fingerprint)
    victim = store.list(FOLDER)[0]
    if spoil == "removed":
        store.remove(victim)
    else:
        store.save(victim, b"spoilt" if spoil == "damaged" else (store.load(store.list(FOLDER)[1]) or b""))
    found = store.read(SPEC.fingerprint)
    store.remove(INDEX)
    assert same(found, store.read(SPEC.fingerprint))
    assert len(found.damaged) == (spoil != "removed")


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100, None, "other"])
def test_a_damaged_index_is_ignored_with_a_note(store: ParquetStore, content: bytes | str | None) -> None:
    before = filled(store)
    store.index(SPEC.fingerprint)
    whole = store.load(INDEX) or b""
    if content == "other":  # sound, but of another model
        store.write(OTHER, [row(1)], {})
        assert store.index(OTHER.fingerprint, at=1)
        content = store.load(f"index/{OTHER.fingerprint}") or b""
    store.save(INDEX, whole[:-1] if content is None else bytes(content))
    found = store.read(SPEC.fingerprint)
    assert same(found, before)
    assert found.notes == (f"{INDEX}: damaged, so it is not used; `rewardsweep compact` writes it again",)
    compact(store, SPEC.fingerprint)
    assert store.read(SPEC.fingerprint).notes == ()
    assert same(store.read(SPEC.fingerprint), before)


def test_a_reader_that_listed_before_is_served(store: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a reader listed is merged and removed before it reads the first part."""
    before = filled(store)
    listing = store.parts
    turns = iter([True, False])

    def then_vanishes(fingerprint: str) -> object:
        found = listing(fingerprint)
        if next(turns, False):
            other = ParquetStore(store.uri, {})
            compact(other, fingerprint)
            assert collect(other) == 12
        return found

    monkeypatch.setattr(store, "parts", then_vanishes)
    assert same(store.read(SPEC.fingerprint), before)


def test_a_part_that_is_listed_but_never_there_is_damaged(store: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(store)
    ghost = replace(store.entries(FOLDER)[0], path=f"{FOLDER}/{'0' * 64}.parquet")
    listing = store.parts
    monkeypatch.setattr(store, "parts", lambda name: {**listing(name), name_of(ghost.path): ghost})
    assert store.read(SPEC.fingerprint).damaged == (f"{ghost.path}: listed, but not there",)


def test_parts_that_vanish_without_end_are_an_error(store: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(store)
    one = store.entries(FOLDER)[0]

    def ghosts(fingerprint: str) -> dict[str, object]:
        path = f"{FOLDER}/{uuid.uuid4().hex * 2}.parquet"
        return {name_of(path): replace(one, path=path)}

    monkeypatch.setattr(store, "parts", ghosts)
    with pytest.raises(StoreError, match="keep vanishing"):
        store.read(SPEC.fingerprint)


def test_a_merged_part_is_read_by_what_reads_parts_alone(store: ParquetStore) -> None:
    """Its columns and its footer are those of every part, with one entry more."""
    filled(store)
    compact(store, SPEC.fingerprint)
    collect(store)
    (path,) = store.list(FOLDER)
    content = store.load(path) or b""
    part = parsed(content, path, SPEC.fingerprint)
    assert hashlib.sha256(content).hexdigest() == name_of(path)
    assert {name: facts["shard"] for name, facts in part.merged.items()}.keys() == part.merged.keys()
    assert sorted(facts["shard"] for facts in part.merged.values()) == sorted(map(str, range(12)))


VALUES = st.sampled_from([0.5, math.nan, 0.0, -0.0, math.inf])
WRITTEN = st.lists(st.tuples(st.integers(0, 6), VALUES), min_size=1, max_size=3)


@settings(deadline=None, max_examples=60)
@given(parts=st.lists(WRITTEN, min_size=2, max_size=6), cut=st.integers(0, 6))
def test_any_order_of_merging_gives_the_same_scores(parts: list[list[tuple[int, float]]], cut: int) -> None:
    store = ParquetStore(f"memory://{uuid.uuid4().hex}", {})
    whole = ParquetStore(f"memory://{uuid.uuid4().hex}", {})
    for turn, rows in enumerate(parts):
        found = [row(number, value) for number, value in rows]
        whole.write(SPEC, found, {"shard": str(turn)})
        store.write(SPEC, found, {"shard": str(turn)})
        if turn == cut:
            compact(store, SPEC.fingerprint)
            collect(store)
    compact(store, SPEC.fingerprint)
    collect(store)
    assert same(store.read(SPEC.fingerprint), whole.read(SPEC.fingerprint))


class Interleaving(RuleBasedStateMachine):
    """Writers, compactions, removals, indexes and damage to the index, in any order; two handles on one store."""

    @initialize()
    def begin(self) -> None:
        """A store that nothing was written to."""
        self.uri = f"memory://{uuid.uuid4().hex}"
        self.stores = [ParquetStore(self.uri, {}), ParquetStore(self.uri, {})]
        self.written: set[str] = set()
        self.shards: set[str] = set()

    @rule(who=st.integers(0, 1), rows=WRITTEN)
    def write(self, who: int, rows: list[tuple[int, float]]) -> None:
        shard = str(len(self.shards))
        self.stores[who].write(SPEC, [row(number, value) for number, value in rows], {"shard": shard})
        self.shards.add(shard)
        self.written |= {f"request {number}" for number, _ in rows}

    @rule(who=st.integers(0, 1), large=st.sampled_from([2**26, 12_000]))
    def merge(self, who: int, large: int) -> None:
        compact(self.stores[who], SPEC.fingerprint, large)

    @rule(who=st.integers(0, 1))
    def remove(self, who: int) -> None:
        collect(self.stores[who])

    @rule(who=st.integers(0, 1), at=st.integers(1, 4))
    def index(self, who: int, at: int) -> None:
        self.stores[who].index(SPEC.fingerprint, at=at)

    @rule()
    def lose_the_index(self) -> None:
        self.stores[0].remove(INDEX)

    @rule()
    def damage_the_index(self) -> None:
        content = self.stores[0].load(INDEX)
        if content is not None:
            self.stores[0].save(INDEX, content[:-3])

    @invariant()
    def every_row_is_there(self) -> None:
        for store in getattr(self, "stores", ()):
            found = store.read(SPEC.fingerprint)
            assert found.rows.keys() == self.written
            assert {facts["shard"] for facts in found.provenance} == self.shards
            assert found.damaged == ()
            assert held_is(store, found)


TestInterleaving = Interleaving.TestCase
TestInterleaving.settings = settings(deadline=None, max_examples=40, stateful_step_count=25)


def test_threads_that_write_merge_remove_and_read_lose_no_row(local: ParquetStore) -> None:
    """For some seconds, with a grace of half a second: a listing of a folder is no snapshot."""
    done = threading.Event()
    written: list[int] = []

    def write(writer: int) -> None:
        for turn in range(60):
            number = writer * 1000 + turn
            local.write(SPEC, [row(number)], {"shard": str(number)})
            written.append(number)

    def maintain(_: int) -> int:
        removed = 0
        while not done.is_set():
            compact(local, SPEC.fingerprint)
            removed += collect(local, time.time() - 0.5)
        return removed

    def read(_: int) -> int:
        turns = 0
        while not done.is_set():
            wanted = {f"request {number}" for number in list(written)}
            found = local.read(SPEC.fingerprint)
            assert wanted <= found.rows.keys()
            assert found.damaged == ()
            turns += 1
        return turns

    with ThreadPoolExecutor(7) as pool:
        others = [pool.submit(maintain, 0), pool.submit(maintain, 1), pool.submit(read, 0), pool.submit(read, 1)]
        for writer in [pool.submit(write, number) for number in range(3)]:
            writer.result()
        time.sleep(1)
        done.set()
        turns = [other.result() for other in others]
    assert min(turns[2:]) > 0
    assert sum(turns[:2]) > 0
    compact(local, SPEC.fingerprint)
    collect(local)
    assert len(local.list(FOLDER)) == 1
    assert local.read(SPEC.fingerprint).rows.keys() == {f"request {number}" for number in written}
