"""A server on loopback that speaks as much of Cloud Storage's XML API as a store asks for, generations included.

No emulator with that API installs by name; this one keeps to what is documented of PUT, GET, DELETE and listing:
https://cloud.google.com/storage/docs/xml-api/reference-headers (x-goog-if-generation-match, x-goog-generation).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

DAY = "2026-01-01T00:00:00.000Z"
ENTRY = f"<Contents><Key>{{}}</Key><LastModified>{DAY}</LastModified><ETag>{{}}</ETag><Size>{{}}</Size></Contents>"
PAGE = 3
"""Objects a page, so that a few objects make several."""


class Handler(BaseHTTPRequestHandler):
    """One bucket in memory."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, tuple[int, bytes]]
    tokens: set[str]
    lock: threading.Lock

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, content: bytes = b"", generation: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if generation:
            self.send_header("x-goog-generation", str(generation))
            self.send_header("ETag", f'"{generation}"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(content)

    def _asked(self) -> str:
        self.tokens.add(self.headers.get("Authorization") or "")
        return unquote(urlsplit(self.path).path).partition("/bucket")[2].lstrip("/")

    def do_PUT(self) -> None:
        """Store an object, if its generation is the one that was asked for; 0: if there is none."""
        key, content = self._asked(), self.rfile.read(int(self.headers["Content-Length"]))
        wanted = self.headers.get("x-goog-if-generation-match")
        with self.lock:
            before = self.objects.get(key, (0, b""))[0]
            if wanted is not None and int(wanted) != before:
                self._answer(412)
                return
            self.objects[key] = before + 1, content
        self._answer(200, b"", before + 1)

    def do_GET(self) -> None:
        """An object, or a page of a listing."""
        key = self._asked()
        if key:
            generation, content = self.objects.get(key, (0, b""))
            self._answer(200 if generation else 404, content, generation)
            return
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        after = query.get("continuation-token", "")
        keys = sorted(name for name in self.objects if name.startswith(query.get("prefix", "")) and name > after)
        found = [(name, self.objects[name][1]) for name in keys[:PAGE]]
        listed = "".join(ENTRY.format(escape(name), md5(value).hexdigest(), len(value)) for name, value in found)
        more = f"<NextContinuationToken>{escape(found[-1][0])}</NextContinuationToken>" if len(keys) > PAGE else ""
        self._answer(200, f"<ListBucketResult>{listed}{more}</ListBucketResult>".encode())

    def do_DELETE(self) -> None:
        """Remove an object; 404 where there is none, unlike S3."""
        self._answer(204 if self.objects.pop(self._asked(), None) else 404)


@contextmanager
def fake_gcs() -> Iterator[tuple[str, type[Handler]]]:
    """The address of a server with an empty bucket `bucket`, and its state."""
    state = type("State", (Handler,), {"objects": {}, "tokens": set(), "lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), state)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", state
    server.shutdown()
    server.server_close()
