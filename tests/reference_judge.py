"""Runs in the reference's own interpreter: what rewardbench 0.1.4 itself makes of conversations and of judges' texts.

Reads a JSON object from standard input and writes one to standard output. The libraries of APIs that the reference
imports, and that nothing here calls, need not be installed.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from typing import Any
from unittest.mock import MagicMock

APIS = ("anthropic", "openai", "together", "google.generativeai", "google.generativeai.types")


def load(name: str) -> Any:
    """A module of the reference without the package around it, which imports torch."""
    package = importlib.util.find_spec("rewardbench")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = f"{package.submodule_search_locations[0]}/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rating(module: Any, text: str) -> int:
    """The number that the reference's own function reads from a text, -1 if none."""
    module.chat_completion = lambda **arguments: text
    return int(module._get_single_rating("q", "a", module.OPENAI_MODEL_LIST[0])[0])


def rating_prompts(module: Any, question: str, answer: str) -> dict[str, str]:
    return {
        name: getattr(module, name).format(prompt=question, completion=answer)
        for name in ("ratings_prompt", "ratings_prompt_ties")
        if hasattr(module, name)
    }


def main() -> None:
    for name in APIS:
        sys.modules.setdefault(name, MagicMock())
    pairs, ranking = load("generative"), load("generative_v2")
    asked = json.load(sys.stdin)
    texts = {
        f"{module.__name__}.{name}": value["prompt_template"] if isinstance(value, dict) else value
        for module in (pairs, ranking)
        for name, value in vars(module).items()
        if re.search("prompt|PROMPT|MTBENCH|RUBRIC", name) and isinstance(value, str | dict)
    }
    found = {
        "texts": texts,
        "pairs": [pairs.format_judge_answers(*row) for row in asked["pairs"]],
        "ranking": [ranking.format_judge_answers(*row) for row in asked["ranking"]],
        "ratings": [rating_prompts(ranking, *row) for row in asked["ratings"]],
        "verdicts": [pairs.process_judgement(*row) for row in asked["verdicts"]],
        "ranked": [ranking.process_judgement(text, None) for text in asked["ranked"]],
        "rated": [[rating(module, text) for module in (pairs, ranking)] for text in asked["rated"]],
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
