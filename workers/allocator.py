"""What the C library does with the memory that a pass on a CPU gives back: it keeps it for the next one.

glibc maps large tensors anew for each use (above 32 MiB always), and cuts its heap where much of it is free, so that
every pass pays for fresh pages: 7% to 16% of the time of a classifier 768 wide. Other libraries are left alone.
"""

from __future__ import annotations

import ctypes
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's `malloc.h`."""

MAPPED, KEPT = 2**26, 2**30
"""Bytes from which an allocation is mapped by itself still, as a large layer's weights are, and of free heap kept."""


def keep() -> bool:
    """Let this process keep what is freed; False where its C library cannot be told."""
    found = _function("mallopt")
    return found is not None and all(
        found(name, value) == 1 for name, value in ((M_MMAP_THRESHOLD, MAPPED), (M_TRIM_THRESHOLD, KEPT))
    )


def give_back() -> None:
    """Give the system what is free now."""
    if (found := _function("malloc_trim")) is not None:
        found(0)


def _function(name: str) -> Any:
    """A function of the C library, None where it has none of that name."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # no library to ask by that way
        return None
