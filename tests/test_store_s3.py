"""The store in a bucket of a real server on loopback: moto's, or the one at REWARDSWEEP_S3_ENDPOINT."""

from __future__ import annotations

import os
import pickle
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.stores.compaction import compact, removable
from orchestrator.stores.parquet import ParquetStore
from tests.conftest import Cli
from tests.faulty_proxy import FaultyProxy
from tests.moto_server import SECRET
from tests.store_rows import FOLDER, SPEC, row
from workers import buckets
from workers.errors import StoreError

WRITERS = 64
LARGE = 12 * 2**20


@pytest.fixture
def s3(bucket: str) -> ParquetStore:
    return ParquetStore(f"s3://{bucket}/a/prefix", {"host": "h"})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds between tries; their number is as ever."""
    monkeypatch.setattr(buckets, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(buckets, "LONGEST_PAUSE", 0.05)


def through(proxy: FaultyProxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> ParquetStore:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    return ParquetStore(f"s3://{bucket}/p", {})


def test_a_store_is_written_read_merged_and_cleaned(s3: ParquetStore) -> None:
    assert not s3.exists()
    s3.prepare()
    s3.prepare()
    assert s3.exists()
    for number in range(10):
        s3.write(SPEC, [row(number), row(number + 1)], {"shard": str(number)})
    before = s3.read(SPEC.fingerprint)
    assert len(before.rows) == 11
    assert compact(s3, SPEC.fingerprint).parts == 10
    going = removable(s3, SPEC.fingerprint, time.time() + 60)
    assert len(going) == 10
    s3.remove(*(entry.path for entry in going))
    assert len(s3.list(FOLDER)) == 1
    assert s3.read(SPEC.fingerprint) == before
    assert s3.fingerprints() == [SPEC.fingerprint]
    assert s3.save("x y/ü%20#+.json", b"1") == f"{s3.uri}/x y/ü%20#+.json"
    assert "x y/ü%20#+.json" in s3.list("")
    assert s3.load("x y/ü%20#+.json") == b"1"


def test_64_writers_at_once_lose_nothing(s3: ParquetStore) -> None:
    """Each with a store of its own, as it arrives on a worker."""
    packed = pickle.dumps(s3)
    assert SECRET.encode() not in packed

    def write(writer: int) -> None:
        own: ParquetStore = pickle.loads(packed)
        for turn in range(4):
            own.write(SPEC, [row(writer * 10 + turn)], {})

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    found = s3.read(SPEC.fingerprint)
    assert found.rows.keys() == {f"request {writer * 10 + turn}" for writer in range(WRITERS) for turn in range(4)}
    assert (found.damaged, len(s3.list(FOLDER))) == ((), 4 * WRITERS)


def test_listings_come_in_pages(s3: ParquetStore) -> None:
    paths = [f"many/{number:05}" for number in range(2100)]
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda path: s3.save(path, b""), paths))
    s3.save("manyfold/x", b"")
    assert s3.list("many") == paths


def test_models_are_named_by_one_request_and_their_parts_by_one_each(
    server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyProxy(server, lambda *_: "") as proxy:
        store = through(proxy, bucket, monkeypatch)
        paths = sorted(f"measurements/{model}/{part}.parquet" for model in range(40) for part in range(5))
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda path: store.save(path, b""), paths))
        proxy.asked.clear()
        assert store.fingerprints() == sorted(map(str, range(40)))
        assert len(proxy.asked) == 1
        proxy.asked.clear()
        assert [entry.path for entry in store.all_parts()] == paths
        assert len(proxy.asked) == 41
        proxy.asked.clear()
        assert store.unfinished() == []
        assert len(proxy.asked) == 1


def test_conditional_writes_exclude(s3: ParquetStore) -> None:
    s3.check_exclusive()
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda who: s3.create("lease", str(who).encode()), range(16))) == 1
        holder = s3.load("lease") or b""
        assert sum(pool.map(lambda who: s3.replace("lease", b"taken %d" % who, holder), range(16))) == 1
    s3.remove("lease")
    s3.remove("lease")
    assert s3.load("lease") is None
    assert not s3.replace("lease", b"x", holder)


FAULTS = ("500", "503", "429", "drop", "lose", "cut")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_fault_is_tried_again(
    server: str, bucket: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    seen: Counter[tuple[str, str]] = Counter()

    def twice(method: str, path: str) -> str:
        seen[method, path] += 1
        return fault if seen[method, path] <= 2 else ""

    with FaultyProxy(server, twice) as proxy:
        store = through(proxy, bucket, monkeypatch)
        store.save("x/y.json", b"some content" * 100)
        assert store.load("x/y.json") == b"some content" * 100
        assert store.list("x") == ["x/y.json"]
        store.remove("x/y.json")
        assert store.load("x/y.json") is None
    assert max(seen.values()) >= 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", ["500", "503", "429", "drop", "lose"])
def test_a_conditional_write_whose_answer_is_lost_knows_its_own_success(
    server: str, bucket: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    faults = iter([fault, fault])
    with FaultyProxy(server, lambda method, _: next(faults, "") if method == "PUT" else "") as proxy:
        store = through(proxy, bucket, monkeypatch)
        assert store.create("lease", b"mine")
        assert not store.create("lease", b"mine")
        faults = iter([fault])
        assert not store.create("lease", b"theirs")
        faults = iter([fault, fault])
        assert store.replace("lease", b"still mine", b"mine")
        assert store.load("lease") == b"still mine"


@pytest.mark.usefixtures("quick")
def test_a_bad_day_costs_no_row(server: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three requests of ten fail, in every way there is, while many write and read."""
    dice = random.Random(7)

    def bad(method: str, path: str) -> str:
        return dice.choice(FAULTS) if dice.random() < 0.3 else ""

    with FaultyProxy(server, bad) as proxy:
        store = through(proxy, bucket, monkeypatch)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: store.write(SPEC, [row(number)], {}), range(64)))
        assert len(store.read(SPEC.fingerprint).rows) == 64
        compact(store, SPEC.fingerprint)
        assert len(store.read(SPEC.fingerprint).rows) == 64
    assert sum(fault != "" for _, _, fault in proxy.asked) > 10


@pytest.mark.usefixtures("quick")
def test_what_lasts_ends_with_one_line_after_a_bounded_number_of_tries(
    server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyProxy(server, lambda *_: "503") as proxy:
        store = through(proxy, bucket, monkeypatch)
        attempts = (lambda: store.save("x", b""), lambda: store.create("x", b""), lambda: store.list(""))
        for attempt in attempts:
            proxy.asked.clear()
            with pytest.raises(StoreError, match="check the network and the endpoint") as caught:
                attempt()
            assert len(proxy.asked) == buckets.RETRIES + 1
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "remedy"), [("403", "access denied; these credentials need"), ("404", "no such bucket; create it")]
)
def test_what_trying_again_cannot_mend_is_said_at_once(
    server: str, bucket: str, monkeypatch: pytest.MonkeyPatch, fault: str, remedy: str
) -> None:
    with FaultyProxy(server, lambda *_: fault) as proxy:
        store = through(proxy, bucket, monkeypatch)
        attempts = (
            store.exists,
            store.prepare,
            lambda: store.write(SPEC, [row(1)], {}),
            lambda: store.create("x", b""),
            lambda: store.read(SPEC.fingerprint),
            lambda: store.list("x"),
        )
        for attempt in attempts:
            proxy.asked.clear()
            with pytest.raises(StoreError, match=remedy) as caught:
                attempt()
            assert len(proxy.asked) == 1
            assert "\n" not in str(caught.value)
            assert SECRET not in str(caught.value)


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    with pytest.raises(StoreError, match=rf"store=s3://{bucket}-no/x: .*no such bucket"):
        ParquetStore(f"s3://{bucket}-no/x", {}).prepare()


def test_a_large_file_goes_in_pieces_that_appear_together(
    server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = random.Random(1).randbytes(LARGE)
    with FaultyProxy(server, lambda *_: "") as proxy:
        store = through(proxy, bucket, monkeypatch)
        store.save("large", content)
        assert store.load("large") == content
        pieces = [path for method, path, _ in proxy.asked if method == "PUT" and "partNumber" in path]
    assert len(pieces) == 3


def test_no_credentials_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(StoreError, match="no AWS credentials were found; set AWS_PROFILE"):
        ParquetStore(f"s3://{bucket}/x", {})


def test_a_profile_gives_keys_region_and_endpoint(
    server: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    profile = tmp_path / "config"
    profile.write_text(
        f"[profile lab]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        f"region = us-east-1\nendpoint_url = {server}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    store = ParquetStore(f"s3://{bucket}/x", {})
    store.save("a", b"1")
    assert store.load("a") == b"1"


def test_the_endpoint_travels_to_workers_and_the_keys_do_not(s3: ParquetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.save("a", b"1")
    packed = pickle.dumps(s3)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert pickle.loads(packed).load("a") == b"1"
    assert SECRET.encode() not in packed


def test_the_command_line_sweeps_into_a_bucket_and_leaves_no_secret(cli: Cli, bucket: str, s3: ParquetStore) -> None:
    words = ["model=[longest,random]", "benchmarks=[demo]", f"store={s3.uri}"]
    first = cli("run", "pool=local", *words)
    assert first.returncode == 0, first.stderr
    again = cli("run", "pool=local", *words)
    assert "nothing to score" in again.stderr
    assert again.stdout == first.stdout
    for verb in ("verify", "compact", "gc", "status"):
        done = cli(verb, f"store={s3.uri}")
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stdout + done.stderr
    paths = s3.list("")
    assert len(paths) > 8
    assert not [path for path in paths if SECRET.encode() in (s3.load(path) or b"")]
    assert SECRET not in first.stdout + first.stderr
    wrong = cli("leaderboard", f"store=s3://{bucket}-no/x")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "no such bucket" in wrong.stderr
