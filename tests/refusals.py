"""What every refusal of the command must be: one line on standard error, and nothing written."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

ROW: dict[str, Any] = {"prompt": "question", "chosen": "a good answer", "rejected": "an answer"}


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The only line of standard error."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def nothing_written(tmp_path: Path) -> None:
    """Neither a store nor anything in the working directory."""
    assert not (tmp_path / "store").exists()
    assert files_below(tmp_path / "cwd") == {}


def files_below(folder: Path) -> dict[str, bytes]:
    """The content of every file, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
