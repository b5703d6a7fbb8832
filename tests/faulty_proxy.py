"""An HTTP proxy on loopback that fails on purpose: errors, slow-downs, dropped connections, cut and lost answers."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "429": (429, "TooManyRequests"),
    "403": (403, "AccessDenied"),
    "404": (404, "NoSuchBucket"),
}
Decide = Callable[[str, str], str]


class FaultyProxy:
    """Forwards to `target` what `decide(method, path)` lets pass: an empty word, or the name of a fault.

    A number: answer so, without asking the target. `drop`: close the connection without an answer.
    `lose`: let the target do it, then close without an answer. `cut`: close in the middle of the answer.
    """

    def __init__(self, target: str, decide: Decide) -> None:
        self.decide = decide
        self.asked: list[tuple[str, str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, urlsplit(target).netloc))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: FaultyProxy, target: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.decide(self.command, self.path)
            proxy.asked.append((self.command, self.path, fault))
            if fault in ERRORS:
                status, code = ERRORS[fault]
                self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(), {})
                return
            if fault != "drop":
                upstream = http.client.HTTPConnection(target, timeout=60)
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                content = answer.read()
                upstream.close()
            if fault in ("drop", "lose"):
                self.close_connection = True
                return
            self._answer(answer.status, content, dict(answer.headers), cut=fault == "cut")

        def _answer(self, status: int, content: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = self.close_connection or cut

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    return Handler
