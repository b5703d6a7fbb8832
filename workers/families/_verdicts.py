"""From what a judge wrote to its verdict. Pure; None is a text that holds none.

The rules are those of rewardbench 0.1.4 (`process_judgement`, `con_j_evaluate` and the rating parsers of
`generative.py` and `generative_v2.py`). Where one is plainly wrong it is mended; `reference` asks for it as it was.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

MARKERS = ("[[A]]", "[[B]]", "[[C]]", "[[D]]")
OUTPUTS = ("Output (a)", "Output (b)")
BETTER = "更好的回答"
"""The field of Con-J's JSON."""

FIELDS = (
    BETTER, "更好回答", "更好得回答", "更好地回答", "better_answer", "better answer", "更好答案", "更好得答案",
    "更好的答案", "更好地答案", "更佳回答", "更佳答案", "更好答", "最佳答案", "更好答 案", "更好 的 回答",
    "betterAnswer", "更好 的 回应", "更好得回应回答", "答案", "回答",
)  # fmt: skip
"""How Con-J's field is spelled where its JSON is broken, in the order of the search."""

DIGITS = "12\uff11\uff12"
"""The numbers of Con-J's two responses, also full-width."""

RATING = re.compile(r"(?<![^\W_])(?<![.,/-])(\d+(?:\.\d+)?)\s*(?:/\s*10|out of 10)?$")
AROUND = " \t\r\n*_`."
"""White space, markup and full stops that may follow a rating."""

REFERENCE_RATING = re.compile(r"\b([1-9]|10)\b\s*$")
LEAST, MOST = 1, 10

Answer = TypeVar("Answer", bound=Hashable)


def compared(prompt: str, shown: int, text: str, reference: bool) -> int | None:
    """The place of the better one of `shown` responses: 0 is the first, which prompts call A, (a) or 1.

    `prompt` names the judge's prompt; of more than two responses each judge is asked in the same words.
    """
    text = text if reference else concluded(text)
    if shown != 2:
        return _first(MARKERS[:shown], text)
    if prompt == "prometheus":
        return _prometheus(text if reference else text.rstrip())
    if prompt == "con_j":
        return _con_j(text)
    if prompt == "atla":
        found = re.search(r"\*\*Result:\*\*\s*(\w+)", text)
        return _place("AB", found.group(1) if found else "")
    return _first(OUTPUTS if prompt == "offsetbias" else MARKERS[:2], text)


def rated(text: str, reference: bool) -> float | None:
    """The rating from 1 to 10 at the end of a text.

    `8/10`, `8 out of 10`, `**8**` and `8.` are an 8, `9.5` is itself and `-7` is none. The reference reads the last
    whole number alone: 10, 10, none, none, 5 and 7.
    """
    if reference:
        whole = REFERENCE_RATING.search(text.strip())
        return float(whole.group(1)) if whole else None
    found = RATING.search(concluded(text).rstrip(AROUND))
    value = float(found.group(1)) if found else 0.0
    return value if LEAST <= value <= MOST else None


def concluded(text: str) -> str:
    """What follows a reasoning model's thoughts; nothing where they were cut off."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def majority(answers: Iterable[Answer | None]) -> Answer | None:
    """The most common answer, None where two are equally common; no answer counts as one."""
    ranked = Counter(answers).most_common(2)
    counts = [count for _, count in ranked]
    return None if not ranked or counts == counts[:1] * 2 else ranked[0][0]


def _first(markers: Sequence[str], text: str) -> int | None:
    """The first of the markers that the text holds anywhere: their order counts, not the text's."""
    return next((place for place, marker in enumerate(markers) if marker in text), None)


def _place(names: str, name: str) -> int | None:
    return names.index(name) if len(name) == 1 and name in names else None


def _prometheus(text: str) -> int | None:
    """The very last character; a line break after it hides it from the reference."""
    return _place("AB", text[-1:]) if "[RESULT]" in text else None


def _con_j(text: str) -> int | None:
    """The JSON object that names the better answer, else the field wherever it is spelled."""
    text = text.replace("\n", " ").strip()
    blocks = re.findall(r"```json(.*?)```", text)
    for candidate in (*blocks, text, *re.findall(r"{.*?}", text)):
        found = _object(candidate)
        if BETTER in found:
            return _number(str(found[BETTER]))
    return _number(_spelled(text))


def _object(text: str) -> dict[str, object]:
    """A JSON object; empty where the text is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # a judge writes what it likes
        return {}
    return found if isinstance(found, dict) else {}


def _spelled(text: str) -> str:
    """The digit near the first spelling that has one: quoted and with a colon, then after it, then before it."""
    for field in FIELDS:
        if field not in text:
            continue
        digit = f"([{DIGITS}])"
        for pattern in (rf'"{field}"\s*:\s*.*?{digit}', rf"{field}.*?{digit}", rf"{digit}.*?{field}"):
            if found := re.search(pattern, text):
                return found.group(1)
    return ""


def _number(digit: str) -> int | None:
    place = _place(DIGITS, digit)
    return None if place is None else place % 2
