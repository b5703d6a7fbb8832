"""The documentation's pages and the blocks of commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
SHELL = ("sh", "bash", "shell", "console")
PROGRAMS = "rewardsweep python python3 make pip pipx ray docker kubectl helm sbatch scancel ssh curl export source cd"
COMMAND = re.compile(rf"({'|'.join(PROGRAMS.split())}) |[A-Z_]+=\S+ \w")
"""How a block without a language begins when it holds commands, and not a tree or what a command prints."""
FENCED = re.compile(r"(?:<!-- (?P<mark>[^>]+?) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)


class Block(NamedTuple):
    """A fenced block of shell commands and the comment right before it, empty where there is none."""

    page: str
    mark: str
    text: str

    @property
    def commands(self) -> list[str]:
        """One a line, continued lines joined, comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

    @property
    def name(self) -> str:
        """For the eyes of who reads a test's output."""
        return f"{self.page}:{' '.join(self.commands[0].split()[:3])}"


def name_of(page: Path) -> str:
    """The page's path from the root."""
    return str(page.relative_to(ROOT))


def blocks(name: str, text: str) -> list[Block]:
    """The blocks of commands of a page."""
    return [
        Block(name, match["mark"] or "", match["text"])
        for match in FENCED.finditer(text)
        if match["language"] in SHELL or (not match["language"] and COMMAND.match(match["text"]))
    ]


def words(command: str) -> list[str]:
    """The command's words as a shell splits them, without its comment."""
    return shlex.split(command, comments=True)


BLOCKS = [block for page in PAGES for block in blocks(name_of(page), page.read_text(encoding="utf-8"))]
