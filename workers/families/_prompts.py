"""The words in which a judge is asked. All texts are in `judge_prompts.toml`, which names their source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workers.protocol import Message

FILE = Path(__file__).with_name("judge_prompts.toml")

NAMES = ("mtbench", "gemini", "prometheus", "offsetbias", "con_j", "atla", "rise")
"""The reference's prompts for a pair; the first one is for every judge that has none of its own."""

RANKED = 4
"""The only number of responses, besides two, that can be shown at once."""


@dataclass(frozen=True)
class Prompt:
    """Format strings; `system` is None where there is no system message, which is not the same as an empty one."""

    system: str | None
    user: str

    def messages(self, **fields: str) -> tuple[Message, ...]:
        """The conversation up to the judge's answer."""
        system = () if self.system is None else (Message("system", self.system),)
        return (*system, Message("user", self.user.format(**fields)))


def compare(name: str, prompt: Sequence[Message], shown: Sequence[str]) -> tuple[Message, ...]:
    """Which of two or of four responses is better? The reference's `format_judge_answers`."""
    if len(shown) == RANKED:
        letters = {f"answer_{letter}": text for letter, text in zip("abcd", shown, strict=True)}
        return _ranking(name).messages(question=question(prompt), **letters)
    one, other = shown
    if name in ("mtbench", "gemini") and [turn.role for turn in prompt] == ["user", "assistant", "user"]:
        first, answer, second = (turn.content for turn in prompt)
        history = {"question_1": first, "answer_a_1": answer, "answer_b_1": answer, "question_2": second}
        return _two_turns(name).messages(answer_a_2=one, answer_b_2=other, **history)
    asked, words = question(prompt), _texts()["generative"]
    return _pair(name).messages(
        **dict.fromkeys(("question", "instruction", "orig_instruction", "user_input"), asked),
        **dict.fromkeys(("answer_a", "output_1", "response_A", "assistant_response_a"), one),
        **dict.fromkeys(("answer_b", "output_2", "response_B", "assistant_response_b"), other),
        score_rubric=words["AUTOJ_COARSE_SCORE_RUBRIC"],
    )


def rate(prompt: Sequence[Message], response: str, ties: bool) -> tuple[Message, ...]:
    """How good is a response, from 1 to 10? With `ties`, depth and level of detail do not count."""
    text = _texts()["generative_v2"]["ratings_prompt_ties" if ties else "ratings_prompt"]
    return Prompt(None, text).messages(prompt=question(prompt), completion=response)


def question(prompt: Sequence[Message]) -> str:
    """What the responses answer: the user's message, or all turns under their roles' names."""
    if [turn.role for turn in prompt] == ["user"]:
        return prompt[0].content
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in prompt)


def placed(messages: tuple[Message, ...], system: str) -> tuple[Message, ...]:
    """The conversation with its system message `separate`, `merged` into the user's, or `dropped`."""
    if system == "dropped":
        return tuple(turn for turn in messages if turn.role != "system")
    if system == "merged":
        return (Message("user", "\n\n".join(turn.content for turn in messages if turn.content)),)
    return messages


@cache
def _texts() -> Mapping[str, Mapping[str, str]]:
    """By module of the reference and name there."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@cache
def _pair(name: str) -> Prompt:
    words = _texts()["generative"]
    return {
        "mtbench": Prompt(words["prompt_v2"], words["MTBENCH_V2"]),
        "gemini": Prompt(None, words["prompt_v2_gemini"] + words["MTBENCH_V2"]),
        "prometheus": Prompt(words["REL_SYSTEM_PROMPT"], words["RELATIVE_PROMPT"]),
        "offsetbias": Prompt("", words["OFFSETBIAS_PROMPT"]),
        "con_j": Prompt("", words["CON_J_PROMPT"]),
        "atla": Prompt("", words["Atla_PROMPT"]),
        "rise": Prompt("", words["RISE_Judge_PROMPT"]),
    }[name]


@cache
def _two_turns(name: str) -> Prompt:
    words = _texts()["generative"]
    if name == "gemini":
        return Prompt(None, words["prompt_v2_gemini"] + words["MTBENCH_MULTI_V2"])
    return Prompt(words["prompt_multi_v2"], words["MTBENCH_MULTI_V2"])


@cache
def _ranking(name: str) -> Prompt:
    """No judge but Gemini has words of its own for four."""
    words = _texts()["generative_v2"]
    if name == "gemini":
        return Prompt(None, words["prompt_v2_gemini"] + words["MTBENCH_V2"])
    return Prompt(words["prompt_v2"], words["MTBENCH_V2"])
