"""The leaderboard as one self-contained page: no script, no request, everything from outside escaped."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from orchestrator import __version__
from orchestrator.reducer import Leaderboard
from orchestrator.tables import notes_on, percent


def page(board: Leaderboard) -> str:
    """The HTML of a leaderboard."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["percent"] = percent
    template = environment.get_template("leaderboard.html.jinja")
    return template.render(board=board, notes=notes_on(board), version=__version__)
