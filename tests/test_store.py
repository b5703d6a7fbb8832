"""The store: a part is there whole or not at all, and what is damaged is named and left out."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.stores import SCHEMA, Stream, folder, open_store
from orchestrator.stores.parquet import ParquetStore
from orchestrator.stores.parts import FOOTER, check_keys, read_part
from tests.conftest import ROOT
from tests.store_rows import FOLDER, OTHER, SPEC, held_is, row, told
from workers.errors import StoreError
from workers.protocol import Measurement, measurement_key

KILLS = 10

ROWS = [
    row(0, math.nan),
    row(1, math.inf, ""),
    row(2, -math.inf, "日本語 🎉\r\n\0\t"),
    row(3, -0.0),
    row(4, 5e-324),
    row(5, 0.1 + 0.2),
    replace(row(2**31 - 1, sys.float_info.max), truncated=True, kind="preference"),
]


def test_what_is_written_is_read(store: ParquetStore) -> None:
    store.write(SPEC, ROWS, {})
    stream = store.read(SPEC.fingerprint)
    assert told(list(stream.rows.values())) == told(ROWS)
    assert all(request == found.request for request, found in stream.rows.items())
    assert (stream.damaged, stream.conflicts) == ((), 0)
    assert store.read("nobody") == Stream()


@settings(deadline=None)
@given(values=st.lists(st.tuples(st.floats(), st.none() | st.text()), min_size=1, max_size=8))
def test_any_float_and_any_text_is_read_as_written(values: list[tuple[float, str | None]]) -> None:
    store = ParquetStore(f"memory://{uuid.uuid4().hex}", {})
    rows = [row(number, value, text) for number, (value, text) in enumerate(values)]
    store.write(SPEC, rows, {})
    assert told(list(store.read(SPEC.fingerprint).rows.values())) == told(rows)


def test_a_part_is_named_after_its_bytes_so_that_writing_twice_is_harmless(store: ParquetStore) -> None:
    store.write(SPEC, ROWS, {"device": "cpu"})
    store.write(SPEC, ROWS, {"device": "cpu"})
    (path,) = store.list("measurements")
    assert path == f"{FOLDER}/{hashlib.sha256(store.load(path) or b'').hexdigest()}.parquet"
    store.write(SPEC, ROWS[:2], {"device": "cpu"})
    assert len(store.list("measurements")) == 2
    assert told(list(store.read(SPEC.fingerprint).rows.values())) == told(ROWS)


def test_parts_are_united_and_duplicates_dropped(store: ParquetStore) -> None:
    for numbers in ([0, 1], [1, 2, 0], [3, 3]):
        store.write(SPEC, [row(number, math.nan if number == 1 else number) for number in numbers], {})
    store.write(OTHER, [replace(row(9), key=measurement_key(OTHER.fingerprint, "request 9"))], {})
    stream = store.read(SPEC.fingerprint)
    assert held_is(store, stream)
    assert [part["model"] for part in store.footers(SPEC.fingerprint, 2)] == ["small", "small"]
    assert sorted(stream.rows) == [f"request {number}" for number in range(4)]
    assert (stream.damaged, stream.conflicts) == ((), 0)
    assert store.fingerprints() == sorted([SPEC.fingerprint, OTHER.fingerprint])
    assert list(store.read(OTHER.fingerprint).rows) == ["request 9"]


def test_all_parts_are_listed_by_model_and_a_folder_without_one_is_none(store: ParquetStore) -> None:
    assert (store.fingerprints(), store.all_parts()) == ([], [])
    for number in range(3):
        store.write(SPEC, [row(number)], {})
    store.write(OTHER, [row(0)], {})
    paths = store.list("measurements")
    store.save("measurements/stray", b"")
    if "://" not in store.uri:
        Path(store.uri, "measurements", "empty").mkdir()
        Path(store.uri, "measurements", "begun").mkdir()
        Path(store.uri, "measurements", "begun", ".x-unfinished").touch()
    assert store.fingerprints() == sorted([SPEC.fingerprint, OTHER.fingerprint])
    assert [entry.path for entry in store.all_parts()] == paths


def test_what_a_killed_probe_left_is_unfinished_and_no_file(store: ParquetStore) -> None:
    store.save(".probe-1", b"")
    store.save("x/y", b"")
    assert (store.list(""), [entry.path for entry in store.unfinished()]) == (["x/y"], [".probe-1"])


CONFLICTS = [row(1, 2.0), row(1, math.nan), row(1, token_hash="other"), row(1, text=""), row(1, math.inf)]


@pytest.mark.parametrize("different", CONFLICTS, ids=repr)
def test_parts_that_disagree_are_counted_and_content_decides_which_counts(
    store: ParquetStore, different: Measurement
) -> None:
    store.write(SPEC, [row(0), row(1)], {})
    store.write(SPEC, [row(0), different, row(2)], {})
    stream = store.read(SPEC.fingerprint)
    assert (stream.conflicts, len(stream.rows), held_is(store, stream)) == (1, 3, True)
    kept = row(1) if different.value != 0.5 or different.text is not None else different
    assert told([stream.rows["request 1"]]) == told([kept])


def test_a_key_with_three_different_values_is_one_conflict(store: ParquetStore) -> None:
    for value in (1.0, 2.0, 3.0):
        store.write(SPEC, [row(0, value)], {})
    assert store.read(SPEC.fingerprint).conflicts == 1


def as_parquet(*rows: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def named(content: bytes) -> str:
    return f"{FOLDER}/{hashlib.sha256(content).hexdigest()}.parquet"


def with_footer(content: bytes) -> bytes:
    table = pq.read_table(io.BytesIO(content)).replace_schema_metadata({FOOTER: b'{"schema": 7}'})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


STRANGE = as_parquet({"a": 1})
# what happened -> (path, content) of the damaged part, from those of a sound one; what the message holds
DAMAGE: dict[str, tuple[Callable[[str, bytes], tuple[str, bytes]], str]] = {
    "truncated": (lambda path, content: (path, content[:-7]), "no longer match its name"),
    "flipped byte": (lambda path, content: (path, content[:40] + bytes([content[40] ^ 1]) + content[41:]), "damaged"),
    "emptied": (lambda path, content: (path, b""), "no longer match its name"),
    "renamed": (lambda path, content: (f"{FOLDER}/{'0' * 64}.parquet", content), "no longer match its name"),
    "foreign": (lambda path, content: (f"{FOLDER}/notes.txt", b"hello"), "no longer match its name"),
    "garbage": (lambda path, content: (named(b"hello"), b"hello"), "not a part of a rewardsweep store"),
    "empty, well named": (lambda path, content: (named(b""), b""), "not a part of a rewardsweep store"),
    "no footer": (lambda path, content: (named(STRANGE), STRANGE), "not a part of a rewardsweep store"),
    "columns": (lambda path, content: (named(with_footer(STRANGE)), with_footer(STRANGE)), "schema 7"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_part_is_absent_and_named_while_others_are_read(store: ParquetStore, what: str) -> None:
    spoil, problem = DAMAGE[what]
    store.write(SPEC, [row(0), row(1)], {})
    (victim,) = store.list(FOLDER)
    store.write(SPEC, [row(1), row(2)], {})
    path, content = spoil(victim, store.load(victim) or b"")
    store.save(path, content)
    stream = store.read(SPEC.fingerprint)
    assert (len(stream.damaged), held_is(store, stream)) == (1, True)
    assert stream.damaged[0].startswith(f"{path}: ")
    assert problem in stream.damaged[0]
    assert sorted(stream.rows)[-2:] == ["request 1", "request 2"]
    assert ("request 0" in stream.rows) == (path != victim)
    store.write(SPEC, [row(0), row(1)], {})
    assert store.read(SPEC.fingerprint).damaged == (stream.damaged if path != victim else ())


def test_the_footer_holds_schema_fingerprint_identity_and_provenance(store: ParquetStore) -> None:
    store.write(OTHER, ROWS, {"device": "cpu", "host": "worker"})
    (path,) = store.list("measurements")
    rows, footer = read_part(store.load(path) or b"", path)
    assert told(rows) == told(ROWS)
    identity = json.loads(json.dumps(OTHER.identity))
    provenance = {"rewardsweep": "1.0", "host": "worker", "device": "cpu", "model": "other", "path": "models/small"}
    expected = {"schema": SCHEMA, "fingerprint": OTHER.fingerprint, "identity": identity, "provenance": provenance}
    assert footer == expected


def test_keys_that_do_not_belong_are_counted() -> None:
    rows = [row(0), replace(row(1), key="0" * 32), replace(row(2), request="request 3"), row(4)]
    assert check_keys(rows, SPEC.fingerprint) == 2
    assert check_keys(rows, OTHER.fingerprint) == 4
    assert check_keys([], SPEC.fingerprint) == 0


def test_a_store_travels_to_other_processes(store: ParquetStore) -> None:
    pickle.loads(pickle.dumps(store)).write(SPEC, ROWS, {})
    store.write(SPEC, ROWS, {})
    assert len(store.list("measurements")) == 1


def test_small_files_are_replaced_whole_and_listed(store: ParquetStore) -> None:
    assert (store.load("a/b.json"), store.list("a"), store.list(""), store.exists()) == (None, [], [], False)
    for content in (b"a longer content", b"x"):
        assert store.save("a/b.json", content).endswith("a/b.json")
        assert store.load("a/b.json") == content
    store.save("a/.b-unfinished", b"half")
    store.save("a/a.json", b"")
    assert store.list("a") == ["a/a.json", "a/b.json"]
    store.prepare()
    store.prepare()
    assert store.exists()
    assert store.list("") == ["a/a.json", "a/b.json", "store.json"]


@pytest.mark.parametrize("content", [b'{"schema": 2}', b'{"schema": "1"}', b"{}", b"", b"{", b"[]", b"\xff"])
def test_a_store_of_another_schema_or_a_damaged_one_is_refused(store: ParquetStore, content: bytes) -> None:
    store.save("store.json", content)
    with pytest.raises(StoreError) as caught:
        store.prepare()
    assert f"store={store.uri}: " in str(caught.value)
    assert store.load("store.json") == content


def test_a_uri_that_no_filesystem_knows_is_refused() -> None:
    with pytest.raises(StoreError, match=r"store=nosuch://x: .*give a folder, s3://"):
        open_store("nosuch://x")


def test_a_store_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = ParquetStore(str(tmp_path / "file" / "store"), {})
    for attempt in (store.prepare, lambda: store.save("x", b""), lambda: store.write(SPEC, ROWS, {})):
        with pytest.raises(StoreError, match="Not a directory; check that folder and its rights") as caught:
            attempt()
        assert f"store={tmp_path / 'file' / 'store'}: cannot " in str(caught.value)


@pytest.mark.parametrize("broken", ["open", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_leaves_nothing_behind(
    local: ParquetStore, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    local.save("models/x.json", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(folder if broken == "open" else os, broken, fail, raising=broken != "open")
        for attempt in (lambda: local.save("models/x.json", b"new"), lambda: local.write(SPEC, ROWS, {})):
            with pytest.raises((StoreError, KeyboardInterrupt)) as caught:
                attempt()
            assert isinstance(error, KeyboardInterrupt) or "cannot write m" in str(caught.value)
            assert isinstance(error, KeyboardInterrupt) or "No space left on device" in str(caught.value)
    assert [str(path.relative_to(local.uri)) for path in Path(local.uri).rglob("*") if path.is_file()] == [
        "models/x.json"
    ]
    assert local.load("models/x.json") == b"old"


WRITER = """
import io, os, random, signal, sys
from orchestrator.stores import folder, open_store
from tests.store_rows import SPEC, row

seed = int(sys.argv[2])
moments = random.Random(seed)
share, whole = moments.random(), moments.randrange(4)

class Stream(io.FileIO):
    def write(self, content):
        global whole
        whole -= 1
        if whole >= 0:
            return super().write(content)
        super().write(content[: int(len(content) * share)])
        os.kill(os.getpid(), signal.SIGKILL)

folder.open = Stream
for part in range(8):
    open_store(sys.argv[1]).write(SPEC, [row(seed * 1000 + part * 10 + number) for number in range(10)], {})
    print("written", flush=True)
"""


def test_a_writer_that_is_killed_leaves_whole_parts_only(local: ParquetStore) -> None:
    """Killed by itself after a seeded number of bytes, so that every kill lands inside a write."""
    written = 0
    for seed in range(KILLS):
        command = [sys.executable, "-c", WRITER, local.uri, str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        written += done.stdout.count("written")
        stream = local.read(SPEC.fingerprint)
        assert (stream.damaged, len(stream.rows), len(local.list(""))) == ((), 10 * written, written)
        unfinished = [path for path in Path(local.uri).rglob("*") if path.is_file() and path.suffix != ".parquet"]
        assert len(unfinished) == seed + 1
    assert written > KILLS
    assert check_keys(list(stream.rows.values()), SPEC.fingerprint) == 0
