"""An OpenAI-compatible endpoint on loopback that does what a test says, in order, and then answers `[[A]]`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text: str | None = "[[A]]", **message: Any) -> dict[str, Any]:
    """The body of an answer: 11 prompt tokens and 3 completion tokens."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "served-1",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    }


def failure(message: str, code: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "type": "error", "code": code}}


@dataclass(frozen=True)
class Reply:
    """One answer; `body` is sent as it is where it is bytes."""

    status: int = 200
    body: Mapping[str, Any] | bytes = field(default_factory=completion)
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Endpoint:
    """What a test plans, and what was asked: `bodies`, `keys`, `times`; `most` requests at a time."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    always: Reply = field(default_factory=Reply)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    now: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: str, body: dict[str, Any]) -> Reply:
        with self.lock:
            self.keys.append(key)
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.now += 1
            self.most = max(self.most, self.now)
            return self.replies.pop(0) if self.replies else self.always


@contextmanager
def serving() -> Iterator[Endpoint]:
    """A running endpoint."""
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = state.take(self.headers.get("Authorization", ""), asked)
            time.sleep(reply.seconds)
            with state.lock:
                state.now -= 1
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
