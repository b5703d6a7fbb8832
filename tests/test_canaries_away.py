"""The same search where secrets are used: at a hub, at a bucket, and in the processes of Ray."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest

from tests.conftest import Cli
from tests.moto_server import moto_server
from tests.test_canaries import CANARIES, contents, leaks

BUCKET = "canaries"


class Echo(BaseHTTPRequestHandler):
    """A service that refuses everybody and repeats in its answer what it was sent, as some do."""

    status: ClassVar[int] = 401
    heard: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.heard.append(given)
        body = (
            f"<Error><Code>InvalidAccessKeyId</Code><Message>{given} is refused: {CANARIES}</Message></Error>".encode()
        )
        self.send_response(self.status)
        for name, value in {"Content-Length": str(len(body)), "X-Error-Message": f"{given} is refused"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *words: Any) -> None:
        """Says nothing."""


@contextmanager
def echoing(status: int) -> Iterator[str]:
    """The address of a service that refuses with this status."""
    Echo.status = status
    Echo.heard.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def pairs(write_pairs: Callable[..., Path]) -> str:
    rows = [{"prompt": f"question {row}", "chosen": f"good {row} x", "rejected": f"bad {row}"} for row in range(20)]
    return f"data.pairs={write_pairs(rows)}"


@pytest.fixture
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A bucket of a server that speaks S3; the settings with which a command reaches it."""
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as url:
        settings = {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
        boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="setup",
            aws_secret_access_key="setup",
        ).create_bucket(Bucket=BUCKET)
        yield CANARIES | settings | {"AWS_CONFIG_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}


def downloaded(settings: dict[str, str], folder: Path) -> Path:
    """Everything in the bucket, as files."""
    client = boto3.client(
        "s3",
        endpoint_url=settings["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="setup",
        aws_secret_access_key="setup",
    )
    for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]:
        path = folder / item["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, item["Key"], str(path))
    return folder


def test_a_bucket_holds_no_key_that_opened_it(cli: Cli, pairs: str, bucket: dict[str, str], tmp_path: Path) -> None:
    store = f"store=s3://{BUCKET}/prefix"
    said = {}
    for words in (
        ["run", "model=[longest,random]", pairs, "pool=local", store, "log=json"],
        ["status", store, "output=json"],
        ["verify", store],
    ):
        done = cli(*words, settings=bucket)
        assert done.returncode == 0, done.stderr
        said[words[0]] = (done.stdout + done.stderr).encode()
    files = dict(contents(downloaded(bucket, tmp_path / "bucket")))
    for place in ("measurements/", "runs/", "leaderboards/"):
        assert any(path.startswith(f"prefix/{place}") for path in files), place
    assert leaks(files | said) == []


@pytest.mark.parametrize("log", ["text", "json"])
def test_a_bucket_that_refuses_and_repeats_the_keys_gives_nothing_away(
    cli: Cli, pairs: str, bucket: dict[str, str], log: str
) -> None:
    with echoing(403) as url:
        words = ["run", "model=[longest]", pairs, "pool=local", f"store=s3://{BUCKET}/prefix", f"log={log}"]
        done = cli(*words, settings=bucket | {"AWS_ENDPOINT_URL": url})
    assert done.returncode == 2, done.stderr
    assert any(CANARIES["AWS_ACCESS_KEY_ID"] in heard for heard in Echo.heard), "the key was in use"
    assert "Traceback" not in done.stderr
    assert leaks({"said": (done.stdout + done.stderr).encode()}) == []


def test_a_hub_that_refuses_and_repeats_the_token_gives_nothing_away(cli: Cli, pairs: str, tmp_path: Path) -> None:
    store = f"store={tmp_path / 'store'}"
    model = ["+models.gated.path=org/gated", "+models.gated.family=scalar"]
    with echoing(401) as url:
        settings = CANARIES | {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        done = cli("run", "model=[longest]", *model, pairs, "pool=local", store, "log=json", settings=settings)
    assert done.returncode == 1, done.stderr
    assert f"Bearer {CANARIES['HF_TOKEN']}" in Echo.heard, "the token was in use"
    shown = cli("leaderboard", store, "output=json", settings=CANARIES)
    said = {"run": (done.stdout + done.stderr).encode(), "leaderboard": (shown.stdout + shown.stderr).encode()}
    assert "gated" in shown.stdout
    assert leaks(dict(contents(tmp_path / "store")) | said) == []


@pytest.mark.ray
def test_logs_of_ray_and_its_workers_hold_no_secret(cli: Cli, pairs: str, tmp_path: Path) -> None:
    """Ray's own files of a session too; its token is Ray's to keep, and an embedded Ray has none."""
    session = Path(tempfile.mkdtemp(prefix="rs"))  # Ray's sockets need a short path
    secrets = {name: value for name, value in CANARIES.items() if name != "RAY_AUTH_TOKEN"}
    try:
        settings = secrets | {"RAY_TMPDIR": str(session)}
        done = cli("run", "model=[longest,random]", pairs, f"store={tmp_path / 'store'}", "log=json", settings=settings)
        assert done.returncode == 0, done.stderr
        logs = {str(path): path.read_bytes() for path in session.rglob("*") if path.is_file() and not path.is_symlink()}
    finally:
        shutil.rmtree(session, ignore_errors=True)
    assert any("worker-" in path for path in logs)
    assert leaks(logs | {"said": (done.stdout + done.stderr).encode()}) == []
