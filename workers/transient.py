"""Whether an error may pass: a network that did not answer, a hub that is overloaded. All others come again.

No library is imported for it: an error of one that nobody has imported cannot have been raised.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from socket import gaierror

ERRNOS = frozenset(
    {
        *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH),
        *(errno.EAGAIN, errno.ESTALE),
    }
)
"""Of `OSError`s about a network; ESTALE is what a network file system says whose server came back."""
STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Of answers of a server that asks to come again later, or failed (RFC 9110, 6585, 8470)."""
LIBRARIES = {
    "httpx": ("TransportError",),
    "httpx2": ("TransportError",),
    "requests": ("ConnectionError", "Timeout"),
    "urllib3.exceptions": ("ProtocolError", "TimeoutError"),
    "obstore.exceptions": ("GenericError",),
}
"""The errors of HTTP libraries that are about the way to a server; obstore has no other name for those, and for 5xx."""
NEVER = {"httpx": ("UnsupportedProtocol",), "httpx2": ("UnsupportedProtocol",)}


def passes(error: BaseException) -> bool:
    """Whether an error, or one that it comes from, may not come again.

    A hub that must not be asked (`HF_HUB_OFFLINE`), and a file that it says it does not have, stay as they are.
    """
    chain = tuple(_chain(error))
    if any(type(one).__name__ == "OfflineModeIsEnabled" or _is_of(one, NEVER) for one in chain):
        return False
    statuses = [status for one in chain if (status := _status(one)) is not None]
    if statuses:
        return statuses[0] in STATUSES
    return any(_is_of_a_network(one) for one in chain)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it comes from, as a traceback shows them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _status(error: BaseException) -> int | None:
    """The status of the answer that an HTTP library's error holds."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_of_a_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | gaierror | HTTPException) or _is_of(error, LIBRARIES):
        return True
    return isinstance(error, OSError) and error.errno in ERRNOS


def _is_of(error: BaseException, libraries: Mapping[str, tuple[str, ...]]) -> bool:
    return any(
        isinstance(error, getattr(sys.modules[module], name, ()))
        for module, names in libraries.items()
        if module in sys.modules
        for name in names
    )
