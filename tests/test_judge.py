"""LLM judges: prompts to the byte, the order in which responses are shown, scores from verdicts, ensembles."""

from __future__ import annotations

import hashlib
import json
import random
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.benchmarks import Example, Judged
from orchestrator.metrics import credit
from orchestrator.pin import pin_model
from orchestrator.plan import make_plan
from tests.conftest import reference_judge
from tests.test_verdicts import MODIFIERS
from workers.errors import InputError
from workers.families import _prompts, judge
from workers.protocol import Measurement, Message, Model, ModelSpec, Request

SHA256 = {
    "generative.prompt_v2": "c3fbb61119533727d0d82252b8b3201a9bbcfc7ca0d5eb1a0dfc85266d4a6c00",
    "generative.prompt_multi_v2": "4a39e7ba8e571456edd995fff0a3ae016a10e97f00018b60c54577016df9869d",
    "generative.prompt_v2_gemini": "c55a9cd22b7325d36de6f9ce6814cf61839014d12fa4cf522ace9f959b0cd1de",
    "generative.MTBENCH_V2": "22f93e573bf9343e52c3dd0a36b1a033a47a6dc0045ab3d40357da8d3c613d57",
    "generative.MTBENCH_MULTI_V2": "a962ad885e77f79a229c88cff6fe258f829ceed6188370743217032f3c8d8ca9",
    "generative.REL_SYSTEM_PROMPT": "2d7f53af02b6a37c5701ed6a821289874a82615c0a6af9d181dc465b2fb5df20",
    "generative.RELATIVE_PROMPT": "21aa5c504dea0ca6d3ec98c3adf7b3abc476763469dd135b88fef56d4ecaae25",
    "generative.AUTOJ_COARSE_SCORE_RUBRIC": "b7ab0578cdab00bac2c5eba789e6c9b28cbc16af379e845e569451fef2764e91",
    "generative.OFFSETBIAS_PROMPT": "d51780925935f35e99e91ae8a66c15c935390b28999a12df90bad2816e7debf9",
    "generative.CON_J_PROMPT": "c56bb922c2d98ec2236fd8df021b9a36c1bc228c62fb1a1e0d52b845fad5b756",
    "generative.Atla_PROMPT": "320206c5f2bf44a2396841bc14a21ff7639a1c60a45dac371be1a8036839dad2",
    "generative.RISE_Judge_PROMPT": "3c6479d30ae905701929638a9740f21f00c1491b21cb1a9995798933d065577f",
    "generative_v2.prompt_v2": "cc81b612789438e858efeee67de4087ac07d451c750915b79b73d470ed36a5ff",
    "generative_v2.prompt_v2_gemini": "bbb18673721094746b8faeece0bbcfdd123d56777fb51102656a0c31fe3a294f",
    "generative_v2.MTBENCH_V2": "0b53abc0dd92074fcf9351fb8edab886a23bc29ee68172e7592bd08bfe0e6221",
    "generative_v2.ratings_prompt": "dd94ed65b24c00d411e65e8a671611ed2cba7154e97ff457b96183112b99ee14",
    "generative_v2.ratings_prompt_ties": "86b62377fd01e9697fd87f04ef6d1163ee694a006b838d532d1866267d9722b4",
}
"""Of the texts of rewardbench 0.1.4, by module and name."""

QUESTION = (Message("user", "What is {a} prime?\n"),)
TWO_TURNS = (Message("user", "q1"), Message("assistant", "a1"), Message("user", "q2"))
PAIR = ("two {divisors}", "no idea")
FOUR = (*PAIR, "three", "")
SPEC = ModelSpec("", "", "", "judge", "1", "transformers", "1", ())


def model(*members: dict[str, Any], protocol: Any = "own", **scoring: Any) -> Model:
    streams = tuple(SPEC for _ in members) or (SPEC,)
    if protocol != "own":
        streams = tuple(
            ModelSpec("", "", "", "judge", "1", "transformers", "1", (), protocol=protocol) for _ in streams
        )
    return Model("m", "judge", streams, {**scoring, **({"members": list(members)} if members else {})})


def asked(made: Model, responses: Sequence[str] = PAIR, prompt: tuple[Message, ...] = QUESTION) -> list[Request]:
    return [request for _, request in judge.wanted(made, prompt, tuple(responses))]


def scored(
    made: Model,
    texts: Sequence[str | None],
    responses: Sequence[str] = PAIR,
    prompt: tuple[Message, ...] = QUESTION,
) -> list[float]:
    return judge.values(made, written(texts), prompt, tuple(responses))


def written(texts: Sequence[str | None]) -> list[Measurement]:
    return [Measurement("k", f"r{at}", "generate", 0.0, 9, False, "h", text) for at, text in enumerate(texts)]


def flat(messages: Sequence[Message]) -> list[list[str]]:
    return [[turn.role, turn.content] for turn in messages]


def test_prompts_are_the_references_to_the_byte() -> None:
    found = tomllib.loads(_prompts.FILE.read_text(encoding="utf-8"))
    sums = {
        f"{module}.{name}": hashlib.sha256(text.encode()).hexdigest()
        for module, texts in found.items()
        for name, text in texts.items()
    }
    assert sums == SHA256
    head = _prompts.FILE.read_text(encoding="utf-8").partition("[generative]")[0]
    assert "Apache License, Version 2.0" in head
    assert "0.1.4" in head


@pytest.mark.reference
def test_conversations_are_the_references_to_the_byte(reference_venv: Path) -> None:
    """Every prompt object of the reference, and what its functions make of pairs, two turns, four and ratings."""
    one, two = ([{"content": "q1"}, {"content": text}] for text in PAIR)
    long = [[{"content": "q1"}, {"content": "a1"}, {"content": "q2"}, {"content": text}] for text in PAIR]
    four = [[{"content": "q"}, {"content": text}] for text in FOUR]
    question = QUESTION[0].content
    pairs = [[question, one, two, False, modifier] for modifier in MODIFIERS.values()]
    pairs += [["q1", *long, True, MODIFIERS[name]] for name in ("mtbench", "gemini")]
    ranking = [[question, *four, False, modifier] for modifier in (None, "gemini")]
    theirs = reference_judge(reference_venv, pairs=pairs, ranking=ranking, ratings=[[question, PAIR[0]]])
    assert {name: hashlib.sha256(theirs["texts"][name].encode()).hexdigest() for name in SHA256} == SHA256
    ours = [_prompts.compare(name, QUESTION, PAIR) for name in MODIFIERS]
    ours += [_prompts.compare(name, TWO_TURNS, PAIR) for name in ("mtbench", "gemini")]
    assert list(map(flat, ours)) == list(map(conversation, theirs["pairs"]))
    assert [flat(_prompts.compare(name, QUESTION, FOUR)) for name in ("mtbench", "gemini")] == [
        conversation(row) for row in theirs["ranking"]
    ]
    for name, ties in (("ratings_prompt", False), ("ratings_prompt_ties", True)):
        assert flat(_prompts.rate(QUESTION, PAIR[0], ties)) == [["user", theirs["ratings"][0][name]]]


def conversation(row: tuple[str | None, str]) -> list[list[str]]:
    system, user = row
    return [*([] if system is None else [["system", system]]), ["user", user]]


@pytest.mark.parametrize("name", _prompts.NAMES)
def test_a_conversation_holds_the_question_and_both_responses_as_they_are(name: str) -> None:
    *_, user = _prompts.compare(name, QUESTION, PAIR)
    for text in (QUESTION[0].content, *PAIR):
        assert text in user.content
    assert user.content.index(PAIR[0]) < user.content.index(PAIR[1])


def test_longer_conversations_and_other_roles_are_shown_whole() -> None:
    """The reference drops rows of more than four messages; no row is dropped here."""
    longer = (Message("system", "be brief"), *TWO_TURNS)
    text = "System: be brief\n\nUser: q1\n\nAssistant: a1\n\nUser: q2"
    assert text in asked(model(), prompt=longer)[0].prompt[-1].content
    assert text in asked(model(), FOUR, longer)[0].prompt[-1].content
    assert text in asked(model(task="ratings"), PAIR, longer)[0].prompt[-1].content
    text = "User: q1\n\nAssistant: a1\n\nUser: q2"
    assert text in asked(model(prompt="con_j"), prompt=TWO_TURNS)[0].prompt[-1].content
    assert text not in asked(model(), prompt=TWO_TURNS)[0].prompt[-1].content


def test_a_system_message_can_be_merged_into_the_question() -> None:
    system, user = asked(model())[0].prompt
    (merged,) = asked(model(system="merged"))[0].prompt
    assert merged == Message("user", f"{system.content}\n\n{user.content}")
    empty, user = asked(model(prompt="offsetbias"))[0].prompt
    assert empty == Message("system", "")
    assert asked(model(prompt="offsetbias", system="merged"))[0].prompt == (user,)


@pytest.mark.parametrize(
    ("task", "responses", "questions", "words"),
    [
        ("auto", 2, 1, "two AI assistants"),
        ("auto", 4, 1, "four AI assistants"),
        ("auto", 3, 3, "need not consider depth"),
        ("auto", 7, 7, "need not consider depth"),
        ("pairs", 4, 6, "two AI assistants"),
        ("ratings", 2, 2, "accuracy, depth"),
        ("ratings", 4, 4, "accuracy, depth"),
        ("ratings", 5, 5, "need not consider depth"),
        ("ratings_ties", 4, 4, "need not consider depth"),
    ],
)
def test_the_number_of_responses_decides_what_is_asked(task: str, responses: int, questions: int, words: str) -> None:
    texts = tuple(f"text {number}" for number in range(responses))
    found = asked(model(task=task), texts)
    assert len(found) == questions
    assert all(any(words in turn.content for turn in request.prompt) for request in found)
    assert all(request.kind == "generate" and request.responses == () for request in found)
    compared = task == "pairs" or (task == "auto" and responses in (2, 4))
    assert len(asked(model(task=task, orders="both"), texts)) == questions * (2 if compared else 1)


class Knows:
    """A judge that knows which response is best: it finds it in the question, and says where it stood."""

    def __init__(self, best: str) -> None:
        self.best = best

    def __call__(self, request: Request) -> str:
        shown = request.prompt[-1].content
        at = shown.index(f"Answer]\n{self.best}\n[") if f"Answer]\n{self.best}\n[" in shown else -1
        letters = {letter: shown.find(f"[The Start of Assistant {letter}'s Answer]") for letter in "ABCD"}
        before = [letter for letter, start in letters.items() if 0 <= start < at]
        return f"[[{before[-1]}]]" if before else "neither"


@given(
    st.lists(st.text(st.characters(codec="ascii"), min_size=1, max_size=9), min_size=2, max_size=4, unique=True),
    st.integers(0, 9),
    st.sampled_from(["seeded", "both"]),
    st.data(),
)
def test_the_order_in_which_responses_are_shown_is_taken_back(
    texts: list[str], seed: int, orders: str, data: st.DataObject
) -> None:
    responses = tuple(f"<{text}>" for text in texts)
    best = data.draw(st.sampled_from(responses))
    task = "pairs" if len(responses) == 3 else "auto"
    made = model(seed=seed, orders=orders, task=task)
    found = scored(made, list(map(Knows(best), asked(made, responses))), responses)
    assert responses[found.index(max(found))] == best
    assert found.count(max(found)) == 1
    assert sum(found) == pytest.approx(len(asked(made, responses)) / (2 if orders == "both" else 1))


def test_the_order_is_drawn_from_the_content_and_not_from_what_is_right() -> None:
    made, first = model(), Counter[int]()
    for number in range(2000):
        prompt = (Message("user", f"q{number}"),)
        (request,) = asked(made, FOUR[:2], prompt)
        assert [request] == asked(made, FOUR[:2][::-1], prompt), "exchanged labels ask the very same question"
        first[scored(made, ["[[A]]"], PAIR, prompt).index(1.0)] += 1
    assert 900 < first[0] < 1100
    assert asked(made) == asked(model(orders="both"))[:1]
    seeds = {asked(model(seed=seed))[0] for seed in range(10)}
    assert len(seeds) == 2
    ranked = {asked(made, responses)[0] for responses in permutations(FOUR)}
    assert len(ranked) == 1


def test_every_position_of_four_is_as_likely() -> None:
    first = Counter(
        scored(model(), ["[[C]]"], FOUR, (Message("user", f"q{number}"),)).index(1.0) for number in range(2000)
    )
    assert all(400 < first[position] < 600 for position in range(4))


def test_a_verdict_counts_where_it_survives_the_other_order() -> None:
    made = model(orders="both")
    knows = list(map(Knows(PAIR[1]), asked(made)))
    assert sorted(knows) == ["[[A]]", "[[B]]"]
    assert scored(made, knows) == [0.0, 1.0]
    assert scored(made, ["[[A]]", "[[A]]"]) == [0.5, 0.5], "the position decided"
    assert scored(made, [knows[0], "cannot say"]) == [0.5, 0.5]


def test_no_verdict_is_a_tie_that_is_shared_and_counted() -> None:
    for texts, responses, share in ((["neither"], PAIR, 0.5), (["[[E]]"], FOUR, 0.25), ([None], PAIR, 0.5)):
        values = tuple(scored(model(), texts, responses))
        assert len({*values}) == 1
        assert credit(Judged(Example("s", "1", QUESTION, responses), values, shared=judge.TIES == "share")) == share
        assert judge.unreadable(model(), written(texts), QUESTION, responses)
    assert not judge.unreadable(model(), written(["[[A]]"]), QUESTION, PAIR)
    assert judge.unreadable(model(), written(["[[C]]"]), QUESTION, PAIR), "there is no C in a pair"
    assert not judge.unreadable(model(), written(["[[C]]"]), QUESTION, FOUR)


def test_ratings() -> None:
    made = model(task="ratings")
    assert scored(made, ["fine. 8", "7/10"]) == [8, 7]
    assert scored(made, ["fine. 8", "no number"]) == [-1, -1], "of a pair, both must be rated"
    assert scored(made, ["8", "none", "10", "3"], FOUR) == [8, -1, 10, 3]
    assert scored(model(task="ratings", protocol="reference"), ["8/10", "9.5"]) == [10, 5]
    many = tuple(f"r{number}" for number in range(6))
    assert scored(model(), [str(number) for number in range(1, 7)], many) == [1, 2, 3, 4, 5, 6]


def test_an_ensemble_votes() -> None:
    made = model({}, {"prompt": "gemini"}, {"prompt": "prometheus"})
    (one, other, third) = asked(made)
    assert [turn.role for turn in one.prompt] == ["system", "user"]
    assert [turn.role for turn in other.prompt] == ["user"], "each member is asked in its own words"
    assert "###Score Rubric" in third.prompt[-1].content
    best = scored(made, ["[[A]]", "[[A]]", "[RESULT] B"])
    assert sorted(best) == [0.0, 1.0]
    assert best == scored(model(), ["[[A]]"])
    assert scored(made, ["[[A]]", "[[B]]", "[RESULT] neither"]) == [0.5, 0.5]
    assert scored(made, ["[[A]]", "error", "error"]) == [0.5, 0.5]
    assert scored(model({}, {}), ["[[A]]", "[[B]]"]) == [0.5, 0.5], "an even split is a tie"
    both = model({}, {}, {}, orders="both")
    turned, biased = ["[[A]]", "[[B]]"], ["[[A]]", "[[A]]"]
    assert scored(both, [*turned, *turned, *biased]) == scored(model(), ["[[A]]"])
    assert scored(both, [*turned, *biased, *biased]) == [0.5, 0.5]
    rated = model({}, {}, task="ratings")
    assert scored(rated, ["8", "6", "9", "none"]) == [8.5, 6.0]


@pytest.fixture
def ensemble(checkpoint: Callable[..., Path]) -> Callable[..., Model]:
    def build(**entry: Any) -> Model:
        paths = [str(checkpoint("llama", causal=True, seed=seed)) for seed in (0, 1, 2)]
        members = {f"m{at}": {"path": path, "engine": "transformers"} for at, path in enumerate(paths)}
        return pin_model("jury", {"family": "judge", "members": members, **entry}, cuda=False)

    return build


def test_a_member_shares_its_texts_with_the_same_model_alone(
    ensemble: Callable[..., Model], checkpoint: Callable[..., Path]
) -> None:
    jury = ensemble()
    path = str(checkpoint("llama", causal=True, seed=1))
    alone = pin_model("alone", {"path": path, "family": "judge", "engine": "transformers"}, cuda=False)
    assert [spec.name for spec in jury.streams] == [f"jury.members.m{at}" for at in range(3)]
    assert jury.streams[1].fingerprint == alone.streams[0].fingerprint
    rows = [Example("s", "1", QUESTION, PAIR)]
    assert make_plan([jury, alone], {"pairs": rows}, {}, {}, 256).owed == 3
    assert json.loads(json.dumps(jury.scoring)) == jury.scoring == {"members": [{}, {}, {}]}


def test_choices_change_what_is_asked_and_not_the_model(ensemble: Callable[..., Model]) -> None:
    one, other = ensemble(), ensemble(scoring={"orders": "both", "seed": 3})
    assert [spec.fingerprint for spec in one.streams] == [spec.fingerprint for spec in other.streams]
    assert {*asked(one)} <= {*asked(ensemble(scoring={"orders": "both"}))}
    assert one.asks != other.asks


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"members": {"one": {"path": "x"}}}, "models.jury.members: must name at least two members"),
        ({"members": {"one": {"path": "x"}, "two": "y"}}, "models.jury.members: must name at least two"),
        ({"members": {"one": {"path": "x"}, "two": {"family": "dpo"}}}, "must name at least two members"),
        ({"members": ["x", "y"]}, "models.jury.members=['x', 'y']: must hold keys and values"),
        ({"path": "x"}, "models.jury.path: an ensemble has none; move it to models.jury.members.NAME.path"),
        ({"family": "scalar"}, "models.jury.members: family scalar takes no members"),
        ({"scoring": {"task": "rank"}}, "models.jury.scoring.task=rank: must be one of auto, pairs, ratings"),
        ({"scoring": {"prompts": "x"}}, "models.jury.scoring: unknown key 'prompts': did you mean 'prompt'?"),
        (
            {"members": {"one": {"path": "x"}, "two": {"path": "y", "scoring": {"orders": "both"}}}},
            "models.jury.members.two.scoring.orders: the same for all members; set models.jury.scoring.orders",
        ),
        (
            {"members": {"one": {"path": "x"}, "two": {"path": "y", "scoring": {"prompt": "gpt"}}}},
            "models.jury.members.two.scoring.prompt=gpt: must be one of mtbench",
        ),
        ({"members": {"one": {"path": "x"}, "two": {"paht": "y"}}}, "models.jury.members.two: unknown key 'paht'"),
    ],
)
def test_a_wrong_ensemble_is_one_line(
    entry: dict[str, Any], words: str, checkpoint: Callable[..., Path], ensemble: Callable[..., Model]
) -> None:
    with pytest.raises(InputError) as caught:
        ensemble(**entry)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_engine_that_cannot_judge_is_refused(checkpoint: Callable[..., Path]) -> None:
    entry = {"path": str(checkpoint("llama", causal=True)), "family": "judge", "engine": "baseline"}
    with pytest.raises(InputError, match="family judge is served by vllm and transformers"):
        pin_model("m", entry, cuda=False)


def test_random_judges_score_a_half() -> None:
    """What a coin says of pairs is worth a half, whatever the order."""
    draw, total = random.Random(0), 0.0
    for number in range(1000):
        prompt = (Message("user", f"q{number}"),)
        values = tuple(scored(model(), [draw.choice(["[[A]]", "[[B]]", "hm"])], PAIR, prompt))
        total += credit(Judged(Example("s", "1", prompt, PAIR), values, shared=True))
    assert total / 1000 == pytest.approx(0.5, abs=0.05)
