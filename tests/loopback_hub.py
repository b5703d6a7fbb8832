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



@contextmanager
def hub(checkpoints: Mapping[str, Path], seconds: float = 0.0) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """The address of a hub with these repositories, and its log: files that were sent, each with the time of its end.

    A file of weights takes `seconds` to send.
    """
    log: list[tuple[str, float]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            words = unquote(urlsplit(self.path).path).strip("/").split("/")
            if words[:2] == ["api", "models"]:
                self._about("/".join(words[2:4]), words[4:])
            else:
                self._file("/".join(words[:2]), "/".join(words[4:]))

        do_HEAD = do_GET

        def _about(self, name: str, more: list[str]) -> None:
            if name not in checkpoints:
                return self._missing("RepoNotFound")
            files = sorted(checkpoints[name].iterdir())
            about: Any = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]}
            if more[:1] == ["tree"]:
                if len(more) > 2:
                    return self._missing("EntryNotFound")
                about = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"} for file in files]
            self._send(json.dumps(about).encode(), {"Content-Type": "application/json"})

        def _file(self, name: str, file: str) -> None:
            path = checkpoints.get(name, Path()) / file
            if name not in checkpoints or not path.is_file():
                return self._missing("EntryNotFound")
            body = path.read_bytes()
            self._send(body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, f"{name}/{file}")

        def _missing(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, body: bytes, headers: Mapping[str, str], named: str = "") -> None:
            self.send_response(200)
            for header, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if named.endswith(".safetensors"):
                time.sleep(seconds)
            self.wfile.write(body)
            log.append((named, time.monotonic()))

        def log_message(self, *words: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", log
    finally:
        server.shutdown()
        server.server_close()
