"""Seconds to list, read, index, merge and clean a store of many parts, in a folder and on moto's S3 server.

Listings are timed with all parts, what opens parts with a tenth of them: python -m bench.store FOLDER [PARTS] [MODELS].
On moto the parts of one model in `OPENED` are real and the others empty, as a listing opens none.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from orchestrator.stores.compaction import compact, removable
from orchestrator.stores.parquet import ParquetStore
from orchestrator.stores.parts import to_bytes
from workers.protocol import Measurement, ModelSpec, measurement_key

ROWS = 4
OPENED = 20
TAIL = 10
"""Parts of each model that came after its index."""

MODEL = ModelSpec("m", "models/m", "sha256:1", "scalar", "1", "transformers", "1", (("torch", "2.7"),))


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something took."""
    started = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - started:.1f} s", flush=True)


def parts(count: int, models: int) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of parts of a few rows."""
    specs = [replace(MODEL, weights=f"sha256:{number}") for number in range(models)]
    for number in range(count):
        spec = specs[number % models]
        name = spec.fingerprint
        asked = [f"{number * ROWS + one:032x}" for one in range(ROWS)]
        rows = [
            Measurement(measurement_key(name, request), request, "reward", 0.5, 100, False, "0" * 32, None)
            for request in asked
        ]
        told = {"model": "m", "path": "models/m", "shard": str(number), "compute_seconds": f"{number / 7:.3f}"}
        content = to_bytes(rows, {"fingerprint": name, "identity": spec.identity, "provenance": told})
        yield f"measurements/{name}/{hashlib.sha256(content).hexdigest()}.parquet", content


def listed(folder: Path, count: int, models: int) -> None:
    """A listing opens no part, so that these are empty."""
    for number in range(models):
        (folder / f"measurements/{number:032x}").mkdir(parents=True)
    for number in range(count):
        name = hashlib.sha256(str(number).encode()).hexdigest()
        (folder / f"measurements/{number % models:032x}/{name}.parquet").touch()
    store = ParquetStore(str(folder), {})
    with timed(f"folder: {count} parts listed in one go"):
        assert len(store.list("measurements")) == count
    with timed(f"folder: {count} parts listed model by model"):
        assert len(store.all_parts()) == count


def in_folder(folder: Path, count: int, models: int) -> None:
    """Written without flushing each file to disk, which is the disk's time and not ours."""
    store = ParquetStore(str(folder), {})
    with timed(f"folder: {count} parts written, unflushed"):
        for path, content in parts(count, models):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    names = store.fingerprints()
    with timed("folder: all models read, part by part"):
        rows = sum(len(store.read(name).rows) for name in names)
    assert rows == count * ROWS
    with timed("folder: all indexes written"):
        assert all([store.index(name) for name in names])
    size = sum(entry.size for entry in store.entries("index"))
    print(f"folder: indexes of {size / 2**20:.1f} MiB, {size / rows:.1f} bytes a row")
    with timed("folder: all models read, through the index"):
        assert sum(len(store.read(name).rows) for name in names) == rows
    with timed("folder: compacted"):
        for name in names:
            compact(store, name)
    with timed("folder: old parts removed"):
        for name in names:
            store.remove(*(entry.path for entry in removable(store, name, time.time() + 60)))
    assert len(store.list("measurements")) == models
    with timed("folder: all models read, compacted"):
        assert sum(len(store.read(name).rows) for name in names) == rows


def on_s3(count: int, models: int) -> None:
    """The objects are put into moto directly; all that is timed goes through its socket.

    moto goes through all keys for every page, and sorts those below the prefix: many pages of one prefix take it long.
    """
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "any")
    os.environ.update(AWS_ENDPOINT_URL=f"http://{host}:{port}", **keys)
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket("bucket", "us-east-1")
    put = partial(backend.put_object, "bucket")
    opened = models // OPENED
    each = count // models
    for number in range(each * (models - opened)):
        name = hashlib.sha256(str(number).encode()).hexdigest()
        put(f"p/measurements/{number % (models - opened):032x}/{name}.parquet", b"")
    made = list(parts(each * opened, opened))
    for path, content in made[: -TAIL * opened]:
        put(f"p/{path}", content)
    store = ParquetStore("s3://bucket/p", {})
    names = sorted({path.split("/")[1] for path, _ in made})
    with timed(f"moto: indexes of {opened} models of {each} parts written, from the parts"):
        assert all([store.index(name) for name in names])
    for path, content in made[-TAIL * opened :]:
        put(f"p/{path}", content)
    with timed(f"moto: {opened} models read, through the index and {TAIL} parts after it each"):
        assert sum(len(store.read(name).rows) for name in names) == each * opened * ROWS
    with timed(f"moto: {models} models named"):
        assert len(store.fingerprints()) == models
    with timed(f"moto: {each} parts of one model listed"):
        assert len(store.list(f"measurements/{names[0]}")) == each
    with timed(f"moto: {each * models} parts listed model by model, many at a time"):
        assert len(store.all_parts()) == each * models
    with timed(f"moto: {each * models} parts listed in one go"):
        assert len(store.list("measurements")) == each * models
    server.stop()


if __name__ == "__main__":
    size, kinds = (int(word) for word in [*sys.argv[2:], "100000", "100"][:2])
    listed(Path(sys.argv[1]) / "listed", size, kinds)
    on_s3(size, kinds)
    in_folder(Path(sys.argv[1]) / "read", size // 10, kinds // 10)
