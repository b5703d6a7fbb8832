"""Where the configuration lies: inside the installed wheel, or beside the package in a checkout."""

from __future__ import annotations

import re
from pathlib import Path

from workers.protocol import digest

PACKAGE = Path(__file__).resolve().parent
CONF_DIR = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())


def slug(name: str) -> str:
    """A file name that says which model it is, that no other model has, and that leads out of no folder."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80].strip(".-")
    return f"{plain or 'model'}-{digest(name)[:8]}"
