"""A hub on this machine that serves checkpoints as the real one does, as slowly as a test wants."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a folder, all at one commit; a file of weights takes `seconds` to send.

    `sent` holds the files that were sent, each with the time when that ended.
    """

    def __init__(self, checkpoints: Mapping[str, Path], seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.checkpoints, self.seconds = checkpoints, seconds
        self.commit = COMMIT
        self.sent: dict[str, float] = {}

    @property
    def url(self) -> str:
        """For `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """The few addresses of the hub's API that a download needs."""

    server: Hub

    def do_GET(self) -> None:
        words = unquote(urlsplit(self.path).path).strip("/").split("/")
        if words[:2] in (["api", "models"], ["api", "datasets"]):
            self._about("/".join(words[2:4]), words[4:])
        else:
            self._file("/".join(words[:2]), "/".join(words[4:]))

    do_HEAD = do_GET

    def _about(self, name: str, more: list[str]) -> None:
        tree = more[:1] == ["tree"]
        if name not in self.server.checkpoints or (tree and len(more) > 2):
            self._missing("EntryNotFound" if tree else "RepoNotFound")
            return
        files = sorted(self.server.checkpoints[name].iterdir())
        about: Any = {"id": name, "sha": self.server.commit, "siblings": [{"rfilename": file.name} for file in files]}
        if tree:
            about = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"} for file in files]
        self._send(json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, file: str) -> None:
        path = self.server.checkpoints.get(name, Path()) / file
        if name not in self.server.checkpoints or not path.is_file():
            self._missing("EntryNotFound")
            return
        body = path.read_bytes()
        if self.command == "GET" and file.endswith(".safetensors"):
            time.sleep(self.server.seconds)
        self._send(body, {"X-Repo-Commit": self.server.commit, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'})
        if self.command == "GET":
            self.server.sent[f"{name}/{file}"] = time.monotonic()

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(200)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Says nothing."""


@contextmanager
def hub(checkpoints: Mapping[str, Path], seconds: float = 0.0) -> Iterator[Hub]:
    """A hub that runs meanwhile."""
    server = Hub(checkpoints, seconds)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
