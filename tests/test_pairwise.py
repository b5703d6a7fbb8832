"""Models that compare two responses: against the formulas by hand, and the reference's own pipelines."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.parity import load_rows
from orchestrator.pin import pin_model
from tests.conftest import ROOT, Cli
from workers import plugins, tiny_pairs, tiny_zoo
from workers.checkpoint import config_of, renderer_of
from workers.engines import transformers as engine
from workers.errors import ModelError
from workers.families import pairrm
from workers.protocol import Measurement, Message, Model, ModelSpec, Request

FAMILIES = ("pairrm", "better_pairrm", "steamshp", "slic_pairpm")
STEP, LONGEST = 30, 4000
Pair = tuple[tuple[Message, ...], tuple[str, str]]
Build = Callable[[str], Path]


@pytest.fixture(scope="session")
def build(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("pairs")

    def make(family: str) -> Path:
        if family == "slic_pairpm":
            return checkpoint("llama", causal=True)
        path = folder / family
        if not path.exists():
            (tiny_pairs.build_steamshp if family == "steamshp" else tiny_pairs.build_pairrm)(path)
        return path

    return make


def pinned(path: Path, family: str, **entry: Any) -> ModelSpec:
    return pin_model("tiny", {"path": str(path), "family": family, **entry}, cuda=False).streams[0]


def made_up() -> list[Pair]:
    texts = tiny_zoo.corpus()
    single: list[Pair] = [
        ((Message("user", texts[2 * at]),), (texts[2 * at + 1][: 40 + 60 * at], texts[2 * at + 1][: 400 - 40 * at]))
        for at in range(6)
    ]
    history = (Message("user", "What is a prime?"), Message("assistant", " A number. "), Message("user", "Which?"))
    return [*single, (history, ("2, 3, 5", "4, 6, 8")), ((Message("user", "Same."),), ("Same.", "Same."))]


def asked(family: str, pairs: list[Pair]) -> list[Request]:
    module = plugins.resolve("workers.families", family)
    model = Model("m", family, ())
    return [request for prompt, responses in pairs for _, request in module.wanted(model, prompt, responses)]


def margins(spec: ModelSpec, pairs: list[Pair]) -> list[float]:
    """The preference of each pair's first response, in the order given, then in the other one."""
    return [output.value for output in engine.load(spec).run(asked(spec.family, pairs))]


def by_hand(family: str, folder: Path, request: Request) -> float:
    """The published formula, one pair at a time, from text on."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, DebertaV2Model, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(folder)
    first, second = request.responses
    asks = [turn.content for turn in request.prompt if turn.role == "user"]
    answers = [turn.content for turn in request.prompt if turn.role == "assistant"]
    if family == "slic_pairpm":
        who = ["user", "assistant"]
        turns = "".join(f"\n<turn> {who[at % 2]}\n {turn.content}" for at, turn in enumerate(request.prompt))
        text = f"[CONTEXT] \n{turns}\n [RESPONSE A] {first} [RESPONSE B] {second} \n"
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
        ids = tokenizer(rendered.replace("<s>", ""), add_special_tokens=False, return_tensors="pt")["input_ids"]
        logits = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits[0, -1]
        a, b = (logits[tokenizer(letter, add_special_tokens=False)["input_ids"][0]].exp() for letter in "AB")
        return float(a / (a + b))
    if family == "steamshp":
        post = " ".join(turn.content for turn in request.prompt)
        text = f"POST: {post}\n\n RESPONSE A: {first}\n\n RESPONSE B: {second}\n\n Which response is better? RESPONSE"
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        written = tokenizer.decode(model.generate(ids, max_new_tokens=1)[0], skip_special_tokens=True)
        return 1.0 if written == "A" else -1.0
    if family == "pairrm":
        source = "\n".join(f"USER: {ask}\nAssistant: <Response {at}>" for at, ask in enumerate(asks, 1))
        sides = [
            "\n".join(f"<Response {at}>: {text}" for at, text in enumerate([*answers, response], 1))
            for response in (first, second)
        ]
        texts = ["<|source|>" + pairrm.INSTRUCTION + source, "<|candidate1|>" + sides[0], "<|candidate2|>" + sides[1]]
    else:
        names = {"user": "USER", "assistant": "ASSISTANT"}
        blocks = [f"{names[turn.role]}: {turn.content.strip()}" for turn in request.prompt]
        history = "\n    \n    ".join([*blocks, "ASSISTANT: "])
        encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (history, first, second)]
        plain = [tokenizer.decode(ids) for ids in encoded]
        texts = ["<|source|>", plain[0], "<|candidate1|>" + plain[1], "<|candidate2|>" + plain[2]]
    ids = [token for text in texts for token in tokenizer(text)["input_ids"]]
    model = DebertaV2Model.from_pretrained(folder, dtype=torch.float32, key_mapping={r"^pretrained_model\.": ""})
    states = model(torch.tensor([ids])).last_hidden_state[0]
    source, *candidates = (states[ids.index(tokenizer.convert_tokens_to_ids(marker))] for marker in tiny_pairs.MARKERS)
    from safetensors.torch import load_file

    head = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if "head_layer" in name}
    scores = [
        head["head_layer.4.weight"]
        @ (head["head_layer.1.weight"] @ torch.cat([source, one]) + head["head_layer.1.bias"]).tanh()
        + head["head_layer.4.bias"]
        for one in candidates
    ]
    return float((scores[0] - scores[1]).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_preferences_are_those_of_the_published_formula(family: str, build: Build) -> None:
    pairs = made_up()
    ours = margins(pinned(build(family), family), pairs)
    with torch.inference_mode():
        theirs = [by_hand(family, build(family), request) for request in asked(family, pairs)]
    if family == "steamshp":
        assert [value > 0 for value in ours] == [value > 0 for value in theirs]
        assert len({value > 0 for value in ours}) == 2, "one verdict for all compares nothing"
    else:
        assert ours == pytest.approx(theirs, abs=1e-4)
        assert max(ours) - min(ours) > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_a_preference_does_not_depend_on_its_batch(family: str, build: Build) -> None:
    spec, pairs = pinned(build(family), family), made_up()
    alone = margins(spec, pairs)
    batched = margins(replace(spec, token_budget=20_000), pairs)
    assert batched == pytest.approx(alone, abs=1e-4)


@pytest.fixture(scope="session")
def real(shared: Path) -> list[Pair]:
    """Real pairs of one turn, and some of several."""
    pairs: list[Pair] = [
        ((Message("user", row["prompt"]),), (row["chosen"], row["rejected"]))
        for row in load_rows(shared, STEP)
        if sum(len(row[key]) for key in ("prompt", "chosen", "rejected")) < LONGEST
    ]
    with gzip.open(shared / "data" / "hh_harmless_multiturn_pairs.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:12]
    several: list[Pair] = [
        (tuple(Message(turn["role"], turn["content"]) for turn in row["prompt"]), (row["chosen"], row["rejected"]))
        for row in rows
    ]
    assert len(pairs) >= 30
    assert any(len(prompt) > 1 for prompt, _ in several)
    return pairs + several


@pytest.fixture(scope="session")
def reference(
    reference_venv: Path, real: list[Pair], build: Build, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    """What the reference's pipelines say of the real pairs, in the order given, by family."""
    folder = tmp_path_factory.mktemp("reference-pairs")

    def conversation(prompt: tuple[Message, ...], response: str) -> list[dict[str, str]]:
        turns = [*prompt, Message("assistant", response)]
        return [{"role": turn.role, "content": turn.content} for turn in turns]

    both = [[conversation(prompt, response) for response in responses] for prompt, responses in real]
    jobs = {family: {"path": str(build(family)), "pairs": both} for family in FAMILIES}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = ROOT / "tests" / "reference_pairs.py"
    command = [reference_venv / "bin" / "python", script, folder / "jobs.json", folder / "out.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[float]] = json.loads((folder / "out.json").read_text())
    return found


@pytest.mark.reference
@pytest.mark.parametrize("family", FAMILIES)
def test_verdicts_equal_the_references_own_pipeline(
    family: str,
    real: list[Pair],
    build: Build,
    reference: dict[str, list[float]],
    record_property: Callable[[str, object], None],
) -> None:
    ours = margins(pinned(build(family), family, truncation_side="right"), real)
    forward, backward = ours[::2], ours[1::2]
    if family == "steamshp":
        assert [value > 0 for value in forward] == [bool(verdict) for verdict in reference[family]]
        return
    differences = [one - other for one, other in zip(forward, backward, strict=True)]
    if family == "slic_pairpm":
        assert [value > 0 for value in differences] == [bool(verdict) for verdict in reference[family]]
        return
    largest = max(abs(one - other) for one, other in zip(differences, reference[family], strict=True))
    record_property("largest difference", largest)
    assert largest <= 1e-4
    assert [value > 0 for value in differences] == [value > 0 for value in reference[family]]


def measured(values: list[float]) -> list[Measurement]:
    return [Measurement("k", "r", "preference", value, 1, False, "t", None) for value in values]


NUMBERS = st.floats(-100, 100, allow_nan=False)


@given(NUMBERS, NUMBERS)
def test_of_a_pair_the_better_is_who_wins_both_orders_together(forward: float, backward: float) -> None:
    first, second = pairrm.values(Model("m", "pairrm", ()), measured([forward, backward]), (), ("a", "b"))
    assert (first > second) == (forward - backward > 0)
    assert first == -second


@given(st.integers(2, 5), st.data())
def test_a_round_robin_adds_up_to_nothing_and_follows_the_responses(count: int, data: st.DataObject) -> None:
    size = count * (count - 1)
    preferences = data.draw(st.lists(NUMBERS, min_size=size, max_size=size))
    model, names = Model("m", "pairrm", ()), tuple("abcde"[:count])
    values = pairrm.values(model, measured(preferences), (), names)
    assert sum(values) == pytest.approx(0, abs=1e-9 * max(1.0, *map(abs, preferences)))
    order = [(i, j) for i in range(count) for j in range(count) if i != j]
    table = dict(zip(order, preferences, strict=True))
    turned = [table[count - 1 - i, count - 1 - j] for i, j in order]
    assert pairrm.values(model, measured(turned), (), names) == pytest.approx(values[::-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_too_long_is_cut_and_said(family: str, build: Build) -> None:
    limit = {"max_length": 300} if family in ("steamshp", "slic_pairpm") else {}
    spec = pinned(build(family), family, **limit)
    long = Request("preference", (Message("user", "word " * 4000),), ("value " * 3000, "short"))
    short = Request("preference", (Message("user", "q"),), ("a", "b"))
    rows = renderer_of(spec, config_of(spec, "preference")).render([long, short])
    assert [row.truncated for row in rows] == [True, False]
    most = {"pairrm": 2048, "better_pairrm": 3370}.get(family, 300)
    assert len(rows[0].ids) <= most
    assert most - len(rows[0].ids) < 2 or family.endswith("pairrm")
    if family == "steamshp":
        assert rows[0].ids[-30:] == renderer_of(spec, config_of(spec, "preference")).render([long])[0].ids[-30:]
    assert engine.load(spec).run([long])[0].truncated


@pytest.mark.parametrize("family", ["pairrm", "better_pairrm"])
def test_a_conversation_out_of_turn_is_one_line(family: str, build: Build) -> None:
    spec = pinned(build(family), family)
    odd = Request("preference", (Message("user", "q"), Message("user", "q")), ("a", "b"))
    with pytest.raises(ModelError, match="roles user user; this family takes turns") as error:
        engine.load(spec).run([odd])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("pairrm", "is not a model of family 'pairrm': it has no weights for head_layer"),
        ("better_pairrm", "is not a model of family 'better_pairrm': it has no weights for head_layer"),
        ("steamshp", "cannot load"),
        ("slic_pairpm", "is not a model of family 'slic_pairpm'"),
    ],
)
def test_another_checkpoint_is_one_line(family: str, message: str, checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("deberta-v2") if family.endswith("pairrm") else checkpoint("llama")
    with pytest.raises(ModelError) as error:
        engine.load(pinned(folder, family))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pairwise_model_stands_in_the_leaderboard(cli: Cli, tmp_path: Path, build: Build) -> None:
    words = [
        f"+models.pairs.path={build('pairrm')}",
        "+models.pairs.family=pairrm",
        "model=[longest]",
        "benchmarks=[demo]",
    ]
    where = f"store={tmp_path / 's'}"
    done = cli("run", *words, "pool=local", "device=cpu", where, "output=json")
    assert done.returncode == 0, done.stderr
    entry = next(model for model in json.loads(done.stdout)["models"] if model["name"] == "pairs")
    assert (entry["rows"], entry["rows_missing"]) == (101, 0)
    lines = [json.loads(line) for line in cli("scores", where, "output=jsonl").stdout.splitlines()]
    mine = [line for line in lines if line["model"] == "pairs"]
    assert {line["kind"] for line in mine} == {"preference"}
    assert sum(line["score"] for line in mine) == pytest.approx(0, abs=1e-6)
    assert cli("verify", where).returncode == 0
