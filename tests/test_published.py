"""The rules on published numbers: subsets of the first paper's tables in, its sections out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.benchmarks import rewardbench
from orchestrator.metrics import dot, normalised

ROUNDING = 0.1
"""Subsets and sections were published with one decimal."""


@pytest.fixture(scope="module")
def published(shared: Path) -> list[dict[str, Any]]:
    """Models with subset and section numbers of Tables 8 to 11 (arXiv:2403.13787)."""
    entries = json.loads((shared / "reference" / "published-results.json").read_text(encoding="utf-8"))["entries"]
    return [entry for entry in entries if "sections_published_tables_8_11" in entry]


def deviations(rule: str, entries: list[dict[str, Any]]) -> dict[str, float]:
    """The largest deviation of each section, in points."""
    weights = rewardbench.WEIGHTS[rule]
    found = {section: 0.0 for section in weights}
    for entry in entries:
        for section, counts in weights.items():
            ours = dot(normalised(counts), entry["subsets"])
            found[section] = max(found[section], abs(ours - entry["sections_published_tables_8_11"][section]))
    return found


def test_the_first_papers_sections_follow_from_its_subsets_under_the_rule_of_its_time(
    published: list[dict[str, Any]],
) -> None:
    assert len(published) > 20
    then = deviations("rewardbench-v1-before-2024-09-10", published)
    assert max(then.values()) <= ROUNDING
    today = deviations("rewardbench-v1", published)
    assert today["Safety"] > 5, "today's weights are not those of the paper"
    assert {name: value for name, value in today.items() if name != "Safety"} == {
        name: value for name, value in then.items() if name != "Safety"
    }
