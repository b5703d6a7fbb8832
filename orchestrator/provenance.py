"""Who computed what, with what: captured once by the driver and stored in the footer of every part."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from orchestrator import __version__


@cache
def code_commit() -> str:
    """The commit of a checkout, `+` behind it where files differ; empty outside one."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return ""
    try:
        git = ["git", "-C", str(folder)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed.strip() else "")


def capture(run_id: str) -> dict[str, str]:
    """The driver's facts. Nothing of the environment's variables: they may hold secrets."""
    return {
        "run": run_id,
        "rewardsweep": __version__,
        "commit": code_commit(),
        "python": platform.python_version(),
        "host": socket.gethostname(),
    }


def new_run_id() -> str:
    """A name that sorts by time and is unique: `20260131T235959-3f2a9c`."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(3).hex()}"


def now() -> str:
    """The current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
