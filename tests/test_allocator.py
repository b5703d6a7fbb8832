"""Memory that a pass gives back is there for the next one, and the system's again when asked."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from workers import allocator

ROUNDS, PAGES = 10, 12_288
CODE = """
import resource, sys, torch
from pathlib import Path
from workers import allocator
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
if sys.argv[1] == "kept":
    assert allocator.keep()
for number in range(30):
    if number == 20:  # the heap has its size
        before = pages()
    torch.empty(12 * 2**20).fill_(1)  # 48 MiB, 12,288 pages
held = resident()
allocator.give_back()
print(pages() - before, held - resident())
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def measured(way: str) -> tuple[int, int]:
    """Fresh pages, and bytes that were given back in the end."""
    command = [sys.executable, "-c", CODE, way]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    pages, given = map(int, done.stdout.split())
    return pages, given


@glibc
def test_a_pass_takes_the_pages_of_the_one_before_it() -> None:
    usual, kept = measured("usual"), measured("kept")
    assert usual[0] > 0.9 * ROUNDS * PAGES
    assert kept[0] < PAGES
    assert kept[1] > 40 * 2**20


@glibc
def test_an_engine_on_a_cpu_keeps_its_memory_and_gives_it_back(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_packed import pinned
    from workers.engines import transformers as engine

    said: list[str] = []
    monkeypatch.setattr(allocator, "keep", lambda: said.append("keep"))
    monkeypatch.setattr(allocator, "give_back", lambda: said.append("give back"))
    loaded = engine.load(pinned(checkpoint("llama")))
    loaded.close()
    assert said == ["keep", "give back"]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not allocator.keep()
    allocator.give_back()

    def none(name: None) -> None:
        raise OSError("no such library")

    monkeypatch.setattr("ctypes.CDLL", none)
    assert not allocator.keep()
