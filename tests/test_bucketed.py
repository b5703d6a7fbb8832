"""Checkpoints that lie in a bucket: named without reading them, fetched once, and scored as those of a folder."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest

from orchestrator.pin import pin_model
from tests.conftest import ROOT, Cli
from tests.fake_gcs import fake_gcs
from tests.faulty_proxy import FaultyProxy
from tests.moto_server import SECRET, use
from workers import bucketed, buckets
from workers.errors import InputError, ModelError, StoreError, UnavailableError
from workers.fetch import fetch, local
from workers.protocol import ModelSpec

ROW = {"prompt": "Which is it?", "chosen": "The first one.", "rejected": "The second."}
ALL = ("*",)


@dataclass
class Bucket:
    """A bucket behind a proxy that counts, and fails where `decide` says so."""

    name: str
    proxy: FaultyProxy

    def put(self, prefix: str, folder: Path) -> str:
        """Upload a folder's files; their address."""
        for file in folder.iterdir():
            self.write(f"{prefix}/{file.name}", file.read_bytes())
        return f"s3://{self.name}/{prefix}"

    def write(self, key: str, content: bytes) -> None:
        boto3.client("s3").put_object(Bucket=self.name, Key=key, Body=content)

    def sent(self) -> Counter[str]:
        """How often each file was asked for, listings left out."""
        files = [path.partition("?")[0] for method, path, _ in self.proxy.asked if method == "GET"]
        return Counter(path.rpartition("/")[2] for path in files if path.count("/") > 1)


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    use(monkeypatch, server)
    monkeypatch.setenv("REWARDSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(buckets, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(buckets, "LONGEST_PAUSE", 0.05)
    name = f"b-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    with FaultyProxy(server, lambda *_: "") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield Bucket(name, proxy)


@pytest.fixture
def llama(bucket: Bucket, checkpoint: Callable[..., Path]) -> str:
    """The address of a tiny classifier."""
    return bucket.put("models/llama", checkpoint("llama"))


def spec_of(uri: str, **entry: Any) -> ModelSpec:
    return pin_model("m", {"path": uri, "family": "scalar", **entry}, cuda=False).streams[0]


def parts(store: Path) -> dict[str, list[Path]]:
    """The parts of a store, by the name of the stream that they were written for."""
    found: dict[str, list[Path]] = {}
    for path in sorted(store.glob("measurements/*/*.parquet")):
        found.setdefault(provenance(path)["model"], []).append(path)
    return found


def provenance(part: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(pq.read_schema(part).metadata[b"rewardsweep"])["provenance"]
    return found


def test_scores_are_those_of_the_folder_and_nothing_is_fetched_twice(
    cli: Cli,
    tmp_path: Path,
    bucket: Bucket,
    llama: str,
    checkpoint: Callable[..., Path],
    write_pairs: Callable[..., Path],
) -> None:
    """A classifier, and a policy with its reference, both in the bucket, tokenizers too."""
    policy, base = checkpoint("gpt-neox", causal=True), checkpoint("gpt-neox", causal=True, seed=1)
    models = {
        "here": {"path": f"file://{checkpoint('llama')}", "family": "scalar"},
        "there": {"path": llama, "family": "scalar"},
        "dpo-here": {"path": policy, "reference": base, "family": "dpo"},
        "dpo-there": {
            "path": bucket.put("p/policy", policy),
            "reference": bucket.put("p/base", base),
            "family": "dpo",
        },
    }
    words = [f"+models.{name}.{key}={value}" for name, entry in models.items() for key, value in entry.items()]
    words += [f"data.pairs={write_pairs([ROW])}", "benchmarks=[pairs]", "pool=local", "output=json"]
    done = cli("run", *words, "store=s")
    assert done.returncode == 0, done.stderr
    found = parts(tmp_path / "cwd" / "s")
    scores = {
        name: {row["request"]: row["value"] for path in paths for row in pq.read_table(path).to_pylist()}
        for name, paths in found.items()
    }
    assert len(scores["here"]) == 2
    assert scores["there"] == scores["here"]
    assert scores["dpo-there"] == scores["dpo-here"]
    assert scores["dpo-there.reference"] == scores["dpo-here.reference"] != scores["dpo-here"]
    assert {provenance(path)["path"] for path in found["there"]} == {llama}
    assert not any(SECRET.encode() in file.read_bytes() for file in (tmp_path / "cwd").rglob("*") if file.is_file())
    assert SECRET not in done.stdout + done.stderr

    assert bucket.sent()["model.safetensors"] == 3
    bucket.proxy.asked.clear()
    again = cli("run", *words, "store=t")
    assert again.returncode == 0, again.stderr
    assert not bucket.sent(), "only listings"
    bucket.write("models/llama/model.safetensors", b"others")
    planned = json.loads(cli("plan", *words, "store=s").stdout)
    owed = {stream["model"]: stream["owed"] for stream in planned["streams"]}
    assert owed == {name: 2 if name == "there" else 0 for name in scores}


def test_a_name_follows_the_content(bucket: Bucket, llama: str, checkpoint: Callable[..., Path]) -> None:
    first = spec_of(llama)
    assert spec_of(f"{llama}/") == first
    assert first.addresses == {"s3": {"region": "us-east-1", "endpoint": bucket.proxy.url}}
    for name in ("README.md", ".hidden", "deeper/model.safetensors"):
        bucket.write(f"models/llama/{name}", b"counts for nothing")
    assert spec_of(llama).fingerprint == first.fingerprint
    bucket.write("models/llama/generation_config.json", b"{}")
    assert spec_of(llama).fingerprint != first.fingerprint
    copied = spec_of(bucket.put("models/copy", checkpoint("llama")))
    assert copied.weights != first.weights, "as with repositories of the hub, the address is part of the name"
    assert SECRET not in json.dumps(first.to_json())


def test_a_tokenizer_counts_by_its_files(bucket: Bucket, llama: str, checkpoint: Callable[..., Path]) -> None:
    folder = str(checkpoint("llama"))
    names = [spec_of(folder, tokenizer=place).tokenizer_files for place in (llama, folder)]
    assert names[0] == names[1]
    assert "model.safetensors" not in bucket.sent()


def test_a_revision_that_is_named_must_be_there(bucket: Bucket, llama: str) -> None:
    revision = spec_of(llama).revision
    assert spec_of(llama, revision=revision, trust_remote_code=True).revision == revision
    with pytest.raises(InputError, match=f"remote code runs only .* set models.m.revision={revision}"):
        spec_of(llama, trust_remote_code=True)
    bucket.write("models/llama/more.txt", b"x")
    with pytest.raises(InputError, match=rf"models.m.path={llama}: holds revision \w+ now, not {revision}; put"):
        spec_of(llama, revision=revision)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://{}/models/no", "models.m.path=s3://{}/models/no: nothing lies there; check the bucket and the prefix"),
        ("s3://{}-no/x", "models.m.path=s3://{}-no/x: no such bucket; create it, or correct its name"),
        ("s3://{}/half", "models.m.path=s3://{}/half: no config.json lies there; it is not a checkpoint"),
        ("s3://key:canary@{}/x", "models.m.path=s3://...: holds more than a bucket and a prefix"),
        ("s3://{}/../x", "models.m.path=s3://{}/../x: a part of it is empty"),
        ("ftp://{}/x", "models.m.path=ftp://{}/x: no such kind; give a folder, s3://bucket/prefix"),
    ],
)
def test_what_is_not_there_is_one_line(bucket: Bucket, uri: str, said: str) -> None:
    bucket.write("half/model.safetensors", b"x")
    with pytest.raises(InputError) as caught:
        spec_of(uri.format(bucket.name))
    assert str(caught.value).startswith(said.format(bucket.name))
    assert "\n" not in str(caught.value)
    assert "canary" not in str(caught.value)


def test_an_endpoint_with_a_key_in_it_is_refused_and_not_shown(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{SECRET}@127.0.0.1:1")
    with pytest.raises(InputError, match=r"models.m.path=s3://.*: the endpoint holds a user or a key") as caught:
        spec_of(f"s3://{bucket.name}/x")
    assert SECRET not in str(caught.value)


def test_a_plan_for_a_cluster_that_is_described_asks_nobody(bucket: Bucket, llama: str) -> None:
    model = pin_model("m", {"path": llama, "family": "scalar"}, cuda=True, hub=False)
    assert model.streams[0].weights == f"unpinned:{llama}"
    assert not [path for method, path, _ in bucket.proxy.asked if method == "GET"]


def test_nothing_but_what_a_model_needs_is_fetched(bucket: Bucket, llama: str) -> None:
    for name in ("pytorch_model.bin", "optimizer.pt", "modeling_m.py", "README.md", "picture.png"):
        bucket.write(f"models/llama/{name}", b"x")
    spec = spec_of(llama)
    fetch(spec, weights=False)
    assert "model.safetensors" not in bucket.sent()
    fetch(spec)
    folder = Path(local(spec).path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    assert not {"pytorch_model.bin", "modeling_m.py", "README.md"} & bucket.sent().keys()
    allowed = spec_of(llama, revision=spec.revision, allow_pickle=True, trust_remote_code=True)
    fetch(allowed)
    assert {"pytorch_model.bin", "modeling_m.py"} <= bucket.sent().keys()
    assert not {"optimizer.pt", "README.md", "picture.png"} & bucket.sent().keys()
    assert set(bucket.sent().values()) == {1}


@pytest.mark.parametrize("fault", ["500", "503", "429", "drop", "cut"])
def test_every_kind_of_fault_is_tried_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, fault: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(bucketed, "PIECE", 1000)
    content = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 20, "empty.txt": b""}
    for name, value in content.items():
        bucket.write(f"m/{name}", value)
    seen: Counter[str] = Counter()

    def twice(method: str, path: str) -> str:
        seen[path] += 1
        return fault if seen[path] <= 2 else ""

    bucket.proxy.decide = twice
    uri = f"s3://{bucket.name}/m"
    folder = bucketed.bring(uri, bucketed.manifest(uri).revision, ALL)
    assert {name: (folder / name).read_bytes() for name in content} == content
    assert not list(folder.glob("*.part"))


def test_a_bucket_that_does_not_answer_may_do_so_later(bucket: Bucket, llama: str) -> None:
    spec = spec_of(llama)
    bucket.proxy.decide = lambda method, path: "503" if "safetensors" in path else ""
    with pytest.raises(UnavailableError, match=f"model 'm': {llama}: .*; check the network and the endpoint") as caught:
        fetch(spec)
    assert "\n" not in str(caught.value)
    assert max(bucket.sent().values()) == buckets.RETRIES + 1
    bucket.proxy.decide = lambda *_: ""
    fetch(spec)


def test_what_lasts_gives_up_the_model_with_one_line(bucket: Bucket, llama: str) -> None:
    spec = spec_of(llama)
    bucket.proxy.decide = lambda method, path: "403" if "safetensors" in path else ""
    with pytest.raises(ModelError, match=f"model 'm': {llama}: access denied; these credentials need") as caught:
        fetch(spec)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_file_that_is_replaced_meanwhile_is_not_mixed_with_the_old_one(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucketed, "PIECE", 1000)
    monkeypatch.setattr(bucketed, "AT_ONCE", 1)
    uri = f"s3://{bucket.name}/m"
    bucket.write("m/model.safetensors", b"a" * 3000)
    revision = bucketed.manifest(uri).revision
    client, replaced = boto3.client("s3", endpoint_url=bucket.proxy.url), []

    def replace(method: str, path: str) -> str:
        if method == "GET" and "safetensors" in path and len(replaced) < 2:
            replaced.append(path)
            if len(replaced) == 2:
                client.put_object(Bucket=bucket.name, Key="m/model.safetensors", Body=b"b" * 3000)
        return ""

    bucket.proxy.decide = replace
    with pytest.raises(StoreError, match=f"{uri}: was written to while it was fetched; run the same command again"):
        bucketed.bring(uri, revision, ALL)
    assert not list(bucketed.folder_of(uri, revision).glob("[!.]*"))
    shutil.rmtree(bucketed.folder_of(uri, revision))
    with pytest.raises(StoreError, match=f"holds revision .* now, not {revision}"):
        bucketed.bring(uri, revision, ALL)


def test_a_bucket_of_google_is_read_alike(
    tmp_path: Path, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARDSWEEP_CACHE", str(tmp_path))
    monkeypatch.setattr(bucketed, "PIECE", 10_000)
    folder = checkpoint("llama")
    with fake_gcs() as (address, state):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        for file in folder.iterdir():
            state.objects[f"models/llama/{file.name}"] = 1, file.read_bytes()
        state.objects["models/llama/deeper/model.safetensors"] = 1, b"another"
        spec = spec_of("gs://bucket/models/llama")
        assert spec.addresses == {"gs": {"endpoint": f"http://{address}"}}
        fetch(spec)
        found = Path(local(spec).path)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            assert (found / name).read_bytes() == (folder / name).read_bytes()
        state.objects["models/llama/model.safetensors"] = 2, b"others"
        assert spec_of("gs://bucket/models/llama").fingerprint != spec.fingerprint


KILLED = """
import sys, time
from workers import bucketed
bucketed.PIECE, bucketed.AT_ONCE = 1000, 1
bucketed.bring(sys.argv[1], sys.argv[2], ("*",))
"""


def test_a_killed_fetch_goes_on_with_the_files_that_were_whole(bucket: Bucket) -> None:
    content = {"a.json": b"{}" * 700, "b.safetensors": b"b" * 5000, "c.safetensors": b"c" * 2500}
    for name, value in content.items():
        bucket.write(f"m/{name}", value)
    uri = f"s3://{bucket.name}/m"
    revision = bucketed.manifest(uri).revision
    stuck = [True]

    def hang(method: str, path: str) -> str:
        while stuck and bucket.sent()["b.safetensors"] >= 2:
            time.sleep(0.01)
        return ""

    bucket.proxy.decide = hang
    folder = bucketed.folder_of(uri, revision)
    command = [sys.executable, "-c", KILLED, uri, revision]
    with subprocess.Popen(command, cwd=ROOT) as process:
        while not (folder / ".b.safetensors.part").exists() or (folder / ".b.safetensors.part").stat().st_size < 2000:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    stuck.clear()
    assert [file.name for file in folder.glob("[!.]*")] == ["a.json"]
    before = bucket.sent()["a.json"]
    assert bucketed.bring(uri, revision, ALL) == folder
    assert {name: (folder / name).read_bytes() for name in content} == content
    assert bucket.sent()["a.json"] == before
    assert not list(folder.glob(".*.part"))


def test_two_that_fetch_the_same_wait_for_each_other(bucket: Bucket, llama: str) -> None:
    revision = str(spec_of(llama).revision)
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: bucketed.bring(llama, revision, ALL), range(8)))
    assert len(folders) == 1
    assert set(bucket.sent().values()) == {1}


def test_a_full_disk_is_seen_before_anything_is_fetched(
    bucket: Bucket, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(llama)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ModelError, match=r"model 'm': s3://.*: 0\.\d+ GB more are needed in .*set REWARDSWEEP_CACHE"):
        fetch(spec)
    assert "model.safetensors" not in bucket.sent()


def test_the_next_model_comes_while_one_computes(
    cli: Cli, tmp_path: Path, bucket: Bucket, checkpoint: Callable[..., Path], write_pairs: Callable[..., Path]
) -> None:
    """Weights take two seconds to send, a shard four to score: the second model waits for nothing."""

    def slow(method: str, path: str) -> str:
        time.sleep(2.0 * (method == "GET" and "safetensors" in path))
        return ""

    bucket.proxy.decide = slow
    words = [f"data.pairs={write_pairs([ROW])}", "benchmarks=[pairs]", "pool=local", "store=s", "output=json"]
    for name, architecture in {"a": "llama", "b": "gpt-neox"}.items():
        uri = bucket.put(f"m/{name}", checkpoint(architecture))
        words += [f"+models.{name}.path={uri}", f"+models.{name}.family=scalar"]
        words.append(f"+models.{name}.engine=tests.slow_engine")
    done = cli("run", *words)
    assert done.returncode == 0, done.stderr
    paths = [path for found in parts(tmp_path / "cwd" / "s").values() for path in found]
    found = sorted(float(provenance(path)["fetch_seconds"]) for path in paths)
    assert found[0] < 1.0, "it was there before it was asked for"
    assert found[1] >= 2.0
    assert set(bucket.sent().values()) == {2}, "each file once for each model"
