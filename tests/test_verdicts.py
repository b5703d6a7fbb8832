"""From a judge's text to a verdict: the reference's tables, its own functions on random texts, and what is mended."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import reference_judge
from workers.families import _prompts
from workers.families._verdicts import LEAST, MOST, compared, concluded, majority, rated

MODIFIERS = {
    "mtbench": None,
    "gemini": "gemini",
    "prometheus": "prometheus",
    "offsetbias": "offsetbias",
    "con_j": "Con-J",
    "atla": "Atla",
    "rise": "RISE-Judge",
}
"""Our names of the prompts, and the reference's."""

PLACES = {"A": 0, "B": 1, "C": 2, "D": 3}
TEXTS = 4000

TABLE = [
    ("mtbench", "I think [[B]] but also [[A]]", 0),
    ("mtbench", "[[C]]", None),
    ("mtbench", "A wins", None),
    ("gemini", "[[B]]\n", 1),
    ("prometheus", "Feedback: ok [RESULT] A", 0),
    ("prometheus", "Feedback: ok [RESULT] Response B", 1),
    ("prometheus", "Feedback: ok B", None),
    ("prometheus", "[RESULT] A or B?", None),
    ("offsetbias", "Output (b) beats Output (a)", 0),
    ("offsetbias", "Output (b)", 1),
    ("atla", "**Result:** Response A", None),
    ("atla", "**Reasoning:** A is short.\n\n**Result:** B", 1),
    ("atla", "Result: A", None),
    ("con_j", "回答2更好", 1),
    ("con_j", '{"原因": "x", "更好的回答": 1}', 0),
    ("con_j", '说明 ```json\n{"原因": "回答1", "更好的回答": 2}\n``` 回答1', 1),
    ("con_j", 'so {"a": 1} then {"更好的回答": "\uff12"}', 1),
    ("con_j", '"better_answer": "response 2"', 1),
    ("con_j", '{"更好的回答": 3, "better_answer": 1}', None),
    ("con_j", "both", None),
    ("rise", "所以选择 '[[B]]'", 1),
]
"""Prompt, text, place; the reference says the same of all of them."""


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize(("prompt", "text", "place"), TABLE)
def test_the_verdict_of_a_pair(prompt: str, text: str, place: int | None, reference: bool) -> None:
    assert compared(prompt, 2, text, reference) == place


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("prompt", _prompts.NAMES)
def test_the_verdict_of_four(prompt: str, reference: bool) -> None:
    assert compared(prompt, 4, "[[D]] then [[B]]", reference) == 1
    assert compared(prompt, 4, "**[[D]]**", reference) == 3
    assert compared(prompt, 4, "D", reference) is None


def test_a_line_break_after_prometheus_verdict_hides_it_from_the_reference_alone() -> None:
    assert compared("prometheus", 2, "Feedback: ok [RESULT] A\n", reference=False) == 0
    assert compared("prometheus", 2, "Feedback: ok [RESULT] A\n", reference=True) is None


RATINGS: list[tuple[str, float | None, float | None]] = [
    ("It is good.\n\n9", 9, 9),
    ("Score: 10\n", 10, 10),
    ("Rating: 8/10", 8, 10),
    ("Rating: 8 / 10.", 8, None),
    ("7 out of 10", 7, 10),
    ("9.5", 9.5, 5),
    ("9.5/10", 9.5, 10),
    ("-7", None, 7),
    ("**8**", 8, None),
    ("8.", 8, None),
    ("_8_", 8, None),
    ("0", None, None),
    ("11", None, None),
    ("100", None, None),
    ("1 0", None, None),
    ("8/100", None, None),
    ("v2", None, None),
    ("2026-10-01", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("text", "own", "reference"), RATINGS)
def test_a_rating(text: str, own: float | None, reference: float | None) -> None:
    assert rated(text, reference=False) == own
    assert rated(text, reference=True) == reference


def test_thoughts_are_no_verdict() -> None:
    thinking = "<think>First [[A]], no. Rating: 3</think>"
    assert compared("mtbench", 2, f"{thinking}\n[[B]]", reference=False) == 1
    assert compared("mtbench", 2, f"{thinking}\n[[B]]", reference=True) == 0
    assert rated(f"{thinking}\n7", reference=False) == 7
    assert concluded("the template opened them: [[A]] 3</think> [[B]]") == " [[B]]"
    assert compared("mtbench", 2, "<think>First [[A]], and then the tokens ran", reference=False) is None
    assert rated("no thoughts at all: 4", reference=False) == 4


@pytest.mark.parametrize(
    ("text", "place"), [("[" * 100_000, None), ('{"更好的回答": ' + "2" * 5000 + "}", 1), ("```json" * 50, None)]
)
def test_broken_json_is_a_text_like_any_other(text: str, place: int | None) -> None:
    """Brackets too deep and numbers too long for the parser, blocks without an end."""
    assert compared("con_j", 2, text, reference=False) == place


FRAGMENTS = (
    "[[A]]", "[[B]]", "[[C]]", "[[D]]", "Output (a)", "Output (b)", "[RESULT]", "A", "B", " ", "\n", "**Result:**",
    "**", "Response", "```json", "```", "{", "}", '"更好的回答"', "更好的回答", '"better_answer"', "答案", "回答",
    ":", "1", "2", "\uff11", "\uff12", '"1"', ",", "原因", "10", "7", "/", ".", "-", " out of 10", "Rating:",
    "word", "_",
)  # fmt: skip


def random_texts(count: int) -> list[str]:
    """Texts of pieces that matter to one parser or another, the same at every call."""
    draw = random.Random(0)
    return ["".join(draw.choices(FRAGMENTS, k=draw.randrange(1, 9))) for _ in range(count)]


@given(st.lists(st.sampled_from([*FRAGMENTS, "<think>", "</think>", "é"]), max_size=12).map("".join), st.booleans())
def test_any_text_has_a_verdict_or_none(text: str, reference: bool) -> None:
    for prompt in _prompts.NAMES:
        assert compared(prompt, 2, text, reference) in (0, 1, None)
        assert compared(prompt, 4, text, reference) in (0, 1, 2, 3, None)
    rating = rated(text, reference)
    assert rating is None or LEAST <= rating <= MOST


@pytest.mark.reference
def test_verdicts_and_ratings_are_the_references_own(reference_venv: Path) -> None:
    texts = random_texts(TEXTS)
    asked = [(text, modifier) for modifier in MODIFIERS.values() for text in texts]
    theirs = reference_judge(reference_venv, verdicts=asked, ranked=texts, rated=texts)
    ours: list[Any] = [compared(name, 2, text, reference=True) for name in MODIFIERS for text in texts]
    assert ours == [PLACES.get(word) if word in ("A", "B") else None for word in theirs["verdicts"]]
    assert min(Counter(ours).values()) > TEXTS / 10, "every verdict occurs"
    assert [compared("mtbench", 4, text, reference=True) for text in texts] == [
        PLACES.get(word) for word in theirs["ranked"]
    ]
    numbers = [rated(text, reference=True) for text in texts]
    assert [[-1 if number is None else number] * 2 for number in numbers] == theirs["rated"]
    assert len(set(numbers)) > 4


votes = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=9)


@given(votes, st.randoms())
def test_a_majority_does_not_depend_on_the_order_of_the_votes(cast: list[str | None], draw: random.Random) -> None:
    found = majority(cast)
    others = [cast.count(vote) for vote in {*cast} - {found}]
    if found is not None:
        assert all(cast.count(found) > count for count in others)
    shuffled = draw.sample(cast, len(cast))
    assert majority(shuffled) == found


def test_an_even_split_is_a_tie_and_no_verdict_is_a_vote() -> None:
    assert majority(["a", "b"]) is None
    assert majority(["a", "a", "b"]) == "a"
    assert majority(["a", None, None]) is None
    assert majority(["a", "b", None]) is None
    assert majority(["a", "a", "b", "b", "c"]) is None
    assert majority([]) is None
