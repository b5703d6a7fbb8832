"""Secrets of the environment are canaries here: after real runs, good and bad, none is in anything that was written."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from tests.conftest import Cli
from tests.fake_endpoint import Endpoint, Reply, failure, serving
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
