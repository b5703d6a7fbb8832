"""The leaderboard as one self-contained page: no script, no request, everything from outside escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from orchestrator import __version__
from orchestrator.benchmarks import OVERALL
from orchestrator.reducer import Leaderboard
from orchestrator.tables import notes_on, percent, placed, ranks, span

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that reorder text, and halves of surrogate pairs (which no file can hold)."""


def page(board: Leaderboard) -> str:
    """The HTML of a leaderboard."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "span": span, "ranks": ranks}
    ranked = [entry for entry in board.entries if entry.complete]
    shown = [(rank, entry) for rank, entry in placed(board) if entry.complete]
    sections = list(dict.fromkeys(name for entry in board.entries for name in entry.sections))
    html = environment.get_template("leaderboard.html.jinja").render(
        board=board,
        ranked=ranked,
        shown=shown,
        incomplete=[entry for entry in board.entries if not entry.complete],
        sections=sections,
        best_overall=_best(entry.overall for entry in ranked),
        best={name: _best(entry.sections.get(name) for entry in ranked) for name in sections},
        notes=[_about(note, board) for note in notes_on(board)],
        overall=OVERALL,
        version=__version__,
    )
    return UNPRINTABLE.sub("\ufffd", html)


def _best(values: Iterable[float | None]) -> float | None:
    """The highest of the values that exist."""
    return max((value for value in values if value is not None), default=None)


def _about(note: str, board: Leaderboard) -> tuple[str, str]:
    """The model that a note begins with, empty if none, and the rest: a name must not reorder the words after it."""
    name = max((entry.name for entry in board.entries if note.startswith(entry.name)), key=len, default="")
    return name, note.removeprefix(name)
