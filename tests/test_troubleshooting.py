"""docs/troubleshooting.md quotes messages that exist: each one stands in the sources, `…` where a value is put in."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
FOLDERS = ("orchestrator", "workers", "deploy")
VALUE = "…"
ENOUGH = 8
"""Letters of a quotation without its values."""


def template(node: ast.AST) -> str | None:
    """A text of the sources, with `…` for every value that is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return None if left is None or right is None else left + right
    return None


@cache
def templates() -> tuple[str, ...]:
    """Every text of the sources but docstrings, which no user sees."""
    found: list[str] = []
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found += [text for node in ast.walk(tree) if id(node) not in silent and (text := template(node))]
    return tuple(found)


def quotations() -> list[str]:
    """The first cell of every row of the page's tables, without its words of explanation."""
    cells = re.findall(r"^\| `(.+?)`(?: (?:with|after) [^|]+)? \|", PAGE, re.MULTILINE)
    assert len(cells) == len(re.findall(r"^\| (?!message|---)", PAGE, re.MULTILINE)), "a row that quotes nothing"
    return cells


def occurs(quotation: str) -> bool:
    """Whether some text of the sources holds it; a value at either end may be anything."""
    wanted = quotation.strip(f"{VALUE} ")
    return any(wanted in text for text in templates())


@pytest.mark.parametrize("quotation", quotations())
def test_a_quoted_message_is_one_of_the_sources(quotation: str) -> None:
    assert len(re.sub(rf"[^a-z]|{VALUE}", "", quotation)) >= ENOUGH, "too little to find it by"
    assert occurs(quotation), f"no source says {quotation!r}"


def test_the_check_itself_finds_a_message_that_is_gone() -> None:
    assert not occurs("no store here; run")
    assert not occurs(Path(__file__).read_text(encoding="utf-8").splitlines()[0].strip('"'))
