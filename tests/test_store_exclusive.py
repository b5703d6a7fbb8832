"""Conditional writes: of many who want one thing, one has it, also when answers are lost."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.stores import folder, objects
from orchestrator.stores.parquet import ParquetStore
from workers.errors import StoreError

WRITERS, ROUNDS = 16, 20


def test_create_replace_and_remove(store: ParquetStore) -> None:
    assert not store.replace("lease/night", b"a", b"")
    assert store.create("lease/night", b"a")
    assert not store.create("lease/night", b"a")
    assert not store.replace("lease/night", b"c", b"b")
    assert store.load("lease/night") == b"a"
    assert store.replace("lease/night", b"b", b"a")
    assert store.load("lease/night") == b"b"
    assert store.list("lease") == ["lease/night"]
    store.remove("lease/night")
    store.remove("lease/night")
    assert (store.load("lease/night"), store.list("")) == (None, [])
    assert store.create("lease/night", b"d")


def test_of_many_threads_one_creates_and_one_replaces(store: ParquetStore) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        for turn in range(ROUNDS):
            start = threading.Barrier(WRITERS)

            def race(number: int, turn: int = turn, start: threading.Barrier = start) -> tuple[bool, bool]:
                own = str(number).encode()
                start.wait()
                created = store.create(f"lease/{turn}", own)
                holder = store.load(f"lease/{turn}") or b""
                start.wait()
                return created, store.replace(f"lease/{turn}", b"taken by " + own, holder)

            found = list(pool.map(race, range(WRITERS)))
            assert sum(created for created, _ in found) == 1
            assert sum(replaced for _, replaced in found) == 1
            winner = next(number for number, (_, replaced) in enumerate(found) if replaced)
            assert store.load(f"lease/{turn}") == f"taken by {winner}".encode()


def _count(uri: str, times: int) -> None:
    """Add 1 to a number, by compare and swap, until it was done so many times."""
    store = ParquetStore(uri, {})
    while times:
        before = store.load("number") or b"0"
        times -= store.replace("number", str(int(before) + 1).encode(), before)


def test_processes_that_compare_and_swap_lose_no_step(local: ParquetStore) -> None:
    local.save("number", b"0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(local.uri, 50)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert local.load("number") == b"200"


def test_a_store_that_excludes_says_so_and_leaves_nothing(store: ParquetStore) -> None:
    store.check_exclusive()
    assert store.list("") == []
    if "://" not in store.uri:
        assert {path.name for path in Path(store.uri).rglob("*")} == {folder.LOCK}


def test_a_store_that_does_not_exclude_is_refused(store: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrites(self: object, path: str, content: bytes) -> bool:
        store.save(path, content)
        return True

    monkeypatch.setattr(folder.FolderFiles, "create", overwrites)
    monkeypatch.setattr(objects.ObjectFiles, "create", overwrites)
    with pytest.raises(StoreError, match="has no conditional writes"):
        store.check_exclusive()


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", "a//x", "", ".", "a/", "a\\x", "a\0x", "a\nx"])
def test_a_path_cannot_leave_the_store(store: ParquetStore, path: str) -> None:
    attempts = (
        lambda: store.save(path, b"x"),
        lambda: store.load(path),
        lambda: store.create(path, b"x"),
        lambda: store.replace(path, b"x", b""),
        lambda: store.remove(path),
    )
    for attempt in attempts:
        with pytest.raises(StoreError, match="no path within a store"):
            attempt()
    if path:
        with pytest.raises(StoreError, match="no path within a store"):
            store.list(path)
    assert store.list("") == []


@pytest.mark.parametrize(
    "uri", ["s3://AKIAKEY:canary@bucket/x", "s3://bucket/x?secret=canary", "gs://bucket/x#canary", "memory://a@canary/"]
)
def test_a_key_in_the_address_is_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(StoreError, match="keys belong into the environment") as caught:
        ParquetStore(uri, {})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "gs://", "s3://bucket/../x", "nosuchscheme://x"])
def test_an_address_that_names_nothing_is_refused(uri: str) -> None:
    with pytest.raises(StoreError):
        ParquetStore(uri, {})


@pytest.mark.parametrize(("package", "uri"), [("botocore", "s3://bucket/x"), ("google.auth", "gs://bucket/x")])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, package: str, uri: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "obstore" or name.startswith(package)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StoreError, match=r"is not installed; pip install 'rewardsweep\[(s3|gcs)\]'"):
        ParquetStore(uri, {})
