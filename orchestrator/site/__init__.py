"""Leaderboards as self-contained pages: no request leaves them, everything from outside is escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from orchestrator import __version__
from orchestrator.benchmarks import OVERALL
from orchestrator.insights import type_of
from orchestrator.reducer import Leaderboard
from orchestrator.tables import amount, notes_on, percent, placed, ranks, span

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that reorder text, and halves of surrogate pairs (which no file can hold)."""

Links = Sequence[tuple[str, str]]
"""Labels and addresses."""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "span": span, "ranks": ranks, "amount": amount}
    return environment


def render(template: str, title: str, nav: Links = (), script: str = "", **values: Any) -> str:
    """The HTML of a page; only a script with the hash that the page names may run."""
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = (
        _environment()
        .get_template(f"{template}.html.jinja")
        .render(
            **values,
            title=title,
            nav=nav,
            script=script,
            script_hash=f"sha256-{hashed}",
            overall=OVERALL,
            version=__version__,
        )
    )
    return UNPRINTABLE.sub("\ufffd", html)


def page(
    board: Leaderboard,
    links: Mapping[str, str] | None = None,
    sizes: Mapping[str, float] | None = None,
    nav: Links = (),
    script: str = "",
) -> str:
    """The HTML of a leaderboard: one page with all subsets, or one of a site, where `links` lead to models' pages."""
    ranked = [entry for entry in board.entries if entry.complete]
    shown = [(rank, entry) for rank, entry in placed(board) if entry.complete]
    sections = list(dict.fromkeys(name for entry in board.entries for name in entry.sections))
    return render(
        "leaderboard",
        f"{board.benchmark} leaderboard",
        nav,
        script,
        board=board,
        ranked=ranked,
        shown=shown,
        incomplete=[entry for entry in board.entries if not entry.complete],
        sections=sections,
        best_overall=_best(entry.overall for entry in ranked),
        best={name: _best(entry.sections.get(name) for entry in ranked) for name in sections},
        notes=[_about(note, board) for note in notes_on(board)],
        types={entry.name: type_of(entry.family) for _, entry in shown},
        sizes=sizes or {},
        costs=any(entry.dollars is not None for _, entry in shown),
        links=links or {},
    )


def _best(values: Iterable[float | None]) -> float | None:
    """The highest of the values that exist."""
    return max((value for value in values if value is not None), default=None)


def _about(note: str, board: Leaderboard) -> tuple[str, str]:
    """The model that a note begins with, empty if none, and the rest: a name must not reorder the words after it."""
    name = max((entry.name for entry in board.entries if note.startswith(entry.name)), key=len, default="")
    return name, note.removeprefix(name)
