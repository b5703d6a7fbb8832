"""The borders between the packages, as imports and at run time; the caps on files and functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted([*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "workers").rglob("*.py")])
MAX_FILE, MAX_FUNCTION = 300, 50

ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "hydra", "omegaconf", "pyarrow", "datasets", "orchestrator", "torch"}:
            raise ImportError(f"{name} is blocked in this test")

sys.meta_path.insert(0, Blocked())
from workers.actor import Worker
from workers.protocol import Message, ModelSpec, Request, Shard

spec = ModelSpec("longest", "none", "none", "baseline", "1", "baseline", "1", (), options={"score": "longest"})
kept = []
worker = Worker(spec, lambda spec, rows, provenance: kept.extend(rows))
request = Request("reward", (Message("user", "q"),), ("12345",))
assert worker.lint([request]) == []
worker.load()
assert worker.score(Shard("s", spec.fingerprint, (request,))).rows == 1
print(kept[0].value)
"""


def test_import_contracts_hold() -> None:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_workers_score_where_nothing_of_the_orchestrator_is_installed() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "5.0"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    long = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in long.items() if lines > MAX_FUNCTION} == {}


def test_the_driver_starts_without_torch() -> None:
    code = "import sys, orchestrator.cli; print({'torch', 'transformers', 'vllm', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
