"""Named chat templates for checkpoints whose tokenizer brings none: one Jinja file each."""

from __future__ import annotations

from pathlib import Path

from workers.errors import InputError
from workers.plugins import unknown

FOLDER = Path(__file__).parent


def named_template(name: str) -> str:
    """The text of the template `<name>.jinja` in this folder; `InputError` lists what exists."""
    path = FOLDER / f"{name}.jinja"
    known = sorted(file.stem for file in FOLDER.glob("*.jinja"))
    if name not in known:
        raise InputError(unknown(name, known, "chat template"))
    return path.read_text(encoding="utf-8")
