"""Old stores stay readable: `data/store-schema-1` was written by the first layout, before merged parts and indexes."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest

from orchestrator.stores import open_store
from orchestrator.stores.parts import read_part
from tests.conftest import ROOT, Cli

OLD = ROOT / "tests" / "data" / "store-schema-1"
SCORES = {"longest": 2 / 3, "random": 2 / 3, "shortest": 1 / 3}
"""What the code that wrote the store made of it; the null baseline `position` is worked out besides."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_every_part_of_schema_1_is_read(old: Path) -> None:
    store = open_store(str(old))
    assert store.exists()
    assert len(store.fingerprints()) == 3
    for fingerprint in store.fingerprints():
        found = store.read(fingerprint)
        assert (len(found.rows), found.damaged, found.conflicts, len(found.provenance)) == (6, (), 0, 1)
    for path in store.list("measurements"):
        assert read_part(store.load(path) or b"", path)[1]["schema"] == 1


@pytest.mark.parametrize("compacted", [False, True])
def test_a_store_of_schema_1_makes_its_leaderboard(cli: Cli, old: Path, compacted: bool) -> None:
    if compacted:
        assert cli("compact", f"store={old}").returncode == 0
    done = cli("leaderboard", f"store={old}", "output=csv")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(done.stdout))}
    assert {name: float(rows[name]["overall"]) for name in SCORES} == pytest.approx(SCORES, rel=1e-15)
    assert {row["data_hash"] for row in rows.values()} == {"6c501c026608cdc57ba12adaea11955e"}
    checked = cli("verify", f"store={old}")
    assert checked.returncode == 0, checked.stderr
    assert "3 parts, 18 rows, tokens of 18 rows rendered again: 0 problems" in checked.stdout
