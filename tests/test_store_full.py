"""A full disk: what is there stays whole, nothing half-written is left, and the message names the remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.stores.parquet import ParquetStore
from tests.conftest import ROOT, Cli
from tests.store_rows import SPEC, row
from workers.errors import StoreError

SIZE = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of one mebibyte; the test is skipped where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small filesystem takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(store: ParquetStore) -> int:
    """Write until it no longer goes; how many rows were kept."""
    written = 0

    def more() -> None:
        nonlocal written
        while True:
            store.write(SPEC, [row(written, text=os.urandom(8000).hex())], {})
            written += 1

    with pytest.raises(StoreError, match="No space left on device; free some space, or give another store"):
        more()
    return written


def test_a_full_disk_keeps_what_it_has_and_takes_more_when_there_is_room(small_disk: Path) -> None:
    store = ParquetStore(str(small_disk / "store"), {})
    store.prepare()
    kept = fill(store)
    assert kept > 10
    found = store.read(SPEC.fingerprint)
    assert (len(found.rows), found.damaged, store.unfinished()) == (kept, (), [])
    for attempt in (lambda: store.create("lease", b"x" * SIZE), lambda: store.save("big", b"x" * SIZE)):
        with pytest.raises(StoreError, match="No space left on device; free some space"):
            attempt()
    assert store.unfinished() == []
    store.remove(store.list("measurements")[0])
    store.write(SPEC, [row(9999)], {})
    assert len(store.read(SPEC.fingerprint).rows) == kept


def test_a_sweep_on_a_full_disk_stops_with_one_line_and_goes_on_later(cli: Cli, small_disk: Path) -> None:
    filler = small_disk / "filler"
    words = ["run", "model=[longest,random]", "benchmarks=[demo]", f"store={small_disk / 'store'}", "pool=local"]
    filler.write_bytes(b"x" * (SIZE - 16 * 1024))
    done = cli(*words)
    assert done.returncode in (1, 2)
    assert "No space left on device; free some space" in done.stderr
    assert "Traceback" not in done.stderr
    filler.unlink()
    again = cli(*words)
    assert again.returncode == 0, again.stderr
    assert cli("verify", f"store={small_disk / 'store'}").returncode == 0


LIMITED = """
import resource, signal, sys
from orchestrator.stores.parquet import ParquetStore
from tests.store_rows import SPEC, row
from workers.errors import StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = ParquetStore(sys.argv[1], {})
store.write(SPEC, [row(1)], {})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.write(SPEC, [row(2)], {})
except StoreError as error:
    print(error)
print(len(store.read(SPEC.fingerprint).rows), store.unfinished())
"""


def test_a_limit_on_file_sizes_acts_like_a_full_disk(tmp_path: Path) -> None:
    """Needs no rights: a write of which a part went through leaves nothing."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "store")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "File too large; raise the limit on file sizes" in done.stdout
    assert done.stdout.endswith("1 []\n")
