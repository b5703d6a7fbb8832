"""The store on gs://, against a server on loopback that keeps generations."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.stores.compaction import compact, removable
from orchestrator.stores.parquet import ParquetStore
from tests.fake_gcs import Handler, fake_gcs
from tests.store_rows import FOLDER, SPEC, row
from workers.errors import StoreError

Served = tuple[ParquetStore, type[Handler]]


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with fake_gcs() as (address, state):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        yield ParquetStore("gs://bucket/a/prefix", {}), state


def test_a_store_is_written_read_merged_and_cleaned(gcs: Served) -> None:
    store, state = gcs
    store.prepare()
    store.prepare()
    assert store.exists()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.write(SPEC, [row(number)], {"shard": str(number)}), range(16)))
    before = store.read(SPEC.fingerprint)
    assert len(before.rows) == 16
    assert compact(store, SPEC.fingerprint).parts == 16
    store.remove(f"{FOLDER}/none.parquet", *(one.path for one in removable(store, SPEC.fingerprint, float("inf"))))
    assert len(store.list(FOLDER)) == 1
    assert store.read(SPEC.fingerprint) == before
    assert state.tokens == {"Bearer emulator"}
    assert all(key.startswith("a/prefix/") for key in state.objects)


def test_conditional_writes_go_by_generation(gcs: Served) -> None:
    store, _ = gcs
    store.check_exclusive()
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda who: store.create("lease", str(who).encode()), range(16))) == 1
        holder = store.load("lease") or b""
        assert sum(pool.map(lambda who: store.replace("lease", b"taken %d" % who, holder), range(16))) == 1


def test_the_endpoint_travels_to_workers(gcs: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = gcs
    store.save("a", b"1")
    packed = pickle.dumps(store)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    assert pickle.loads(packed).load("a") == b"1"


def test_no_credentials_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nonexistent")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(StoreError, match="no Google credentials were found; run `gcloud auth") as caught:
        ParquetStore("gs://bucket/x", {})
    assert "\n" not in str(caught.value)
