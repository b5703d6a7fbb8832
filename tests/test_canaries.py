"""Secrets of the environment are canaries here: after real runs, good and bad, none is in anything that was written."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from orchestrator.stores.parquet import ParquetStore
from tests.conftest import Cli
from tests.fake_endpoint import Endpoint, Reply, failure, serving
from tests.receiver import receiving
from workers.engines.openai import REASON_CHARACTERS

SECRETS = (
    "HF_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "RAY_AUTH_TOKEN",
)
CANARIES = {name: f"canary-{name.lower().replace('_', '-')}-7f3a+/=" for name in SECRETS}
MARK = "a-subset-that-must-be-found"
"""Stands in the data, and so in parts, records and pages: the search must see it wherever a secret could be."""


def spellings(secret: str) -> set[bytes]:
    """A secret as it is, in base64, percent-encoded, escaped for HTML and JSON, and its first half."""
    plain = secret.encode()
    html = secret.replace("&", "&amp;").replace("+", "&#43;")
    encoded = base64.b64encode(plain).rstrip(b"=")
    return {plain, encoded, quote(secret, safe="").encode(), html.encode(), plain[: len(plain) // 2]}


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder; Parquet is unpacked, its footer and schema too, since its pages are compressed."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            content += repr((table.schema.metadata, table.to_pylist())).encode()
        yield str(path.relative_to(folder)), str(path).encode() + content


def leaks(where: Mapping[str, bytes]) -> list[tuple[str, str]]:
    return [
        (name, place)
        for name, secret in CANARIES.items()
        for place, content in where.items()
        if any(spelling in content for spelling in spellings(secret))
    ]


@pytest.fixture
def pairs(write_pairs: Callable[..., Path]) -> Path:
    return write_pairs(
        [
            {"prompt": f"question {row}", "chosen": f"good {row} x", "rejected": f"bad {row}", "subset": MARK}
            for row in range(20)
        ]
    )


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as state:
        yield state


def judge(endpoint: Endpoint) -> list[str]:
    return [
        "+models.judge.path=served",
        "+models.judge.family=judge",
        "+models.judge.engine=openai",
        f"+models.judge.endpoint.url={endpoint.url}",
        "+models.judge.endpoint.key=OPENAI_API_KEY",
        "+models.judge.endpoint.retries=0",
    ]


def test_secrets_reach_no_log_part_record_or_page(cli: Cli, pairs: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    written = tmp_path / "written"
    store = f"store={written / 'store'}"
    common = [f"data.pairs={pairs}", "pool=local", store]
    commands = [
        ["run", "model=[longest,shortest,random]", *judge(endpoint), *common, "log=json"],
        ["run", "model=[longest]", *common, "output=json"],
        ["plan", "model=[longest,position]", *common],
        ["status", store, "output=json"],
        ["verify", store],
        ["scores", store, "output=jsonl"],
        ["leaderboard", store, "output=markdown"],
        ["site", str(written / "pages"), store],
        ["run", "model=[longest]", *common, "--cfg", "job"],
    ]
    said = {}
    for command in commands:
        done = cli(*command, settings=CANARIES)
        assert done.returncode == 0, (command, done.stderr)
        said[" ".join(command)] = f"{done.stdout}\n{done.stderr}".encode()
    assert set(endpoint.keys) == {f"Bearer {CANARIES['OPENAI_API_KEY']}"}, "the secret was in use"

    files = dict(contents(written))
    assert leaks(files | said) == []
    assert any(path.startswith("store/measurements/") for path in files)
    for place in ("store/benchmarks/", "store/leaderboards/", "pages/"):
        assert any(MARK.encode() in content for path, content in files.items() if path.startswith(place)), place
    assert any(path.startswith("store/runs/") and path.endswith("/run.json") for path in files)
    assert any(path.startswith("store/runs/") and "/events/" in path for path in files)


@pytest.mark.parametrize("before", [0, REASON_CHARACTERS - 42])
def test_an_endpoint_that_echoes_the_key_gives_nothing_away(
    cli: Cli, pairs: Path, endpoint: Endpoint, tmp_path: Path, before: int
) -> None:
    """At the start of the message, and where it is cut behind the first half of the key."""
    key = CANARIES["OPENAI_API_KEY"]
    endpoint.always = Reply(401, failure(f"{'x' * before}{key} is not a key, {key} is none"))
    store = f"store={tmp_path / 'store'}"
    done = cli(
        "run", *judge(endpoint), "model=[longest]", f"data.pairs={pairs}", "pool=local", store, settings=CANARIES
    )
    assert done.returncode == 1
    assert "refuses the key in OPENAI_API_KEY" in done.stderr
    status = cli("status", store, "output=json", settings=CANARIES)
    said = {"run": (done.stdout + done.stderr).encode(), "status": (status.stdout + status.stderr).encode()}
    assert leaks(dict(contents(tmp_path / "store")) | said) == []


def test_a_night_in_a_bucket_gives_nothing_away(
    cli: Cli, pairs: Path, endpoint: Endpoint, bucket: str, tmp_path: Path
) -> None:
    """Keys of the bucket, the judge and the hub, the webhook's address; a whole night and one that is not."""
    store = ParquetStore(f"s3://{bucket}/scores", {})
    settings = {name: secret for name, secret in CANARIES.items() if not name.startswith("AWS_")}
    words = ["nightly", *judge(endpoint), f"data.pairs={pairs}", "pool=local", f"store={store.uri}", "webhook=SLACK"]
    hidden = ["T00-canary-7f3a", os.environ["AWS_SECRET_ACCESS_KEY"]]
    key = CANARIES["OPENAI_API_KEY"]
    with receiving() as receiver:
        receiver.answers += [200, 403]
        settings["SLACK"] = f"{receiver.url}/{hidden[0]}"
        whole = cli(*words, "model=[longest]", settings=settings)
        endpoint.always = Reply(401, failure(f"{key} is not a key"))
        other = [word.replace("path=served", "path=other") for word in words]
        broken = cli(*other, "model=[longest,random]", "output=json", "log=json", settings=settings)
    assert (whole.returncode, broken.returncode) == (0, 20), broken.stderr
    assert "webhook: the receiver answered 403" in broken.stderr
    assert "refuses the key in OPENAI_API_KEY" in broken.stdout
    assert [path for path, _, _ in receiver.posted] == [f"/{hidden[0]}"] * 2
    for path in store.list(""):
        (tmp_path / "kept" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "kept" / path).write_bytes(store.load(path) or b"")
    said = {name: (done.stdout + done.stderr).encode() for name, done in (("whole", whole), ("broken", broken))}
    posted = {"posted": json.dumps([message for _, _, message in receiver.posted]).encode()}
    everywhere = dict(contents(tmp_path / "kept")) | said | posted
    assert leaks(everywhere) == []
    assert not [place for place, content in everywhere.items() if any(name.encode() in content for name in hidden)]
    for name in ("snapshot.json", "report.json", "report.md", "index.html"):
        assert sum(place.startswith("nightly/") and place.endswith(f"/{name}") for place in everywhere) >= 2, name
    assert any(place.startswith("nightly/") and MARK.encode() in content for place, content in everywhere.items())


@pytest.mark.parametrize(
    "words",
    [
        ["run", "model=[no-such-model]", "store=here"],
        ["run", "+models.mine.path=./nothing", "+models.mine.family=scalar", "benchmarks=[demo]", "store=here"],
        ["run", "suite=baselines", "ray.address=127.0.0.1:9", "store=/tmp/never"],
        ["leaderboard", "store=nothing-here"],
    ],
)
def test_mistakes_are_told_without_secrets(cli: Cli, words: list[str]) -> None:
    done = cli(*words, settings=CANARIES)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert leaks({"said": (done.stdout + done.stderr).encode()}) == []


def test_the_search_finds_every_spelling() -> None:
    for name, secret in CANARIES.items():
        for spelling in spellings(secret):
            assert (name, "file") in leaks({"file": b"before " + spelling + b" after"})
