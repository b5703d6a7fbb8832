"""The benchmarks beside RewardBench: their files' own forms, bad rows, and golden figures of the length baseline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.benchmarks import OVERALL, Example, Judged, Rule, Scores, find
from orchestrator.metrics import means, score
from tests.conftest import Cli
from workers.errors import InputError

PAIR = {"prompt": "q", "chosen": "right", "rejected": "wrong"}
STYLED = {"id": "1", "prompt": "q", "chosen": ["a", "bb", "ccc"], "rejected": ["d", "ee", "fff"], "domain": "chat"}
BEST = {
    "bon_uid": "7",
    "conversation_input": [{"role": "user", "content": "q", "language": "English"}],
    "bon_best": {"llm_name": "m", "answer": "right"},
    "loser_list": [{"llm_name": "n", "answer": "wrong"}, {"llm_name": "o", "answer": "worse"}],
    "category_path": "BoN_set/Helpfulness/Open QA/Factual",
}
TWO = {
    "pair_uid": "8",
    "conversation_input": [{"role": "user", "content": "q"}],
    "chosen": {"answer": "right"},
    "reject": {"answer": "wrong"},
    "category_path": "Pairwise_set/Harmlessness/S10",
}
VOTE = {"question_id": "9", "prompt": "q", "response_1": "one", "response_2": "two", "winner": "model_b"}
CHECKED = {
    "question_id": "10",
    "model_name": "m",
    "prompt": "q",
    "response_1": "a",
    "response_2": "b",
    "response_10": "c",
    "scores": [False, True, False],
    "subset": "gpqa",
}
BIASED = {"instruction": "q", "response1": "one", "response2": "two", "label": "2", "bias": "content_continuation"}


def write(folder: Path, name: str, rows: object) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows) if name.endswith(".json") else "".join(f"{json.dumps(row)}\n" for row in rows)  # type: ignore[attr-defined]
    path.write_text(text, encoding="utf-8")
    return str(path)


def lengths(benchmark: str, data: Path | str) -> tuple[Rule, list[Judged], Scores]:
    """The rows of a file as the length of a response judges them."""
    found = find(benchmark)
    rule = found.rule(None)
    judged = [Judged(row, tuple(float(len(text)) for text in row.responses)) for row in found.load(str(data))]
    return rule, judged, score(judged, rule)


def test_a_list_of_responses_is_a_best_of_n(tmp_path: Path) -> None:
    rows = [
        {**PAIR, "rejected": ["worse", "wrong"], "id": 1},
        {**PAIR, "chosen": ["x", "y"], "rejected": ["zz"], "prompt": [{"role": "user", "content": "q"}], "id": 2},
    ]
    one, two = find("pairs").load(write(tmp_path, "rows.jsonl", rows))
    assert (one.responses, one.num_chosen) == (("right", "worse", "wrong"), 1)
    assert (two.responses, two.num_chosen) == (("x", "y", "zz"), 2)
    rule = find("pairs").rule(None)
    assert score([Judged(two, (1.0, 3.0, 0.5))], rule).overall == 1
    assert score([Judged(two, (1.0, 3.0, 2.0))], rule).overall == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": []}, "'rejected'"),
        ({"rejected": ["a", 1]}, "'rejected' must hold at least one text, and nothing else"),
        ({"prompt": None, "rejected": ["a"]}, "'prompt' is missing; a list of texts in 'chosen' needs it"),
    ],
)
def test_a_bad_list_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [PAIR, {**PAIR, "chosen": ["right"], **change}]
    with pytest.raises(InputError) as error:
        find("pairs").load(write(tmp_path, "rows.jsonl", rows))
    assert "line 2: " in str(error.value)
    assert message in str(error.value)


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    write(tmp_path, "set/b.jsonl", [PAIR])
    write(tmp_path, "set/deeper/a.json", {"one": [PAIR | {"prompt": "r"}], "two": [PAIR | {"prompt": "s"}]})
    write(tmp_path, "set/README.md", [])
    assert sorted(row.prompt[0].content for row in find("pairs").load(str(tmp_path / "set"))) == ["q", "r", "s"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"nor one of files that end in \.jsonl"):
        find("pairs").load(str(tmp_path / "none"))


def test_prior_sets_weigh_half_of_a_section(tmp_path: Path) -> None:
    """The worked case of the reference's protocol: sections .8, .6, .7, .9 and Prior .5 are 6.5 / 9."""
    accuracies = {"alpacaeval-easy": 8, "llmbar-natural": 6, "donotanswer": 7, "hep-go": 9}
    prior = {"anthropic_helpful": 6, "anthropic_hhh": 7, "shp": 5, "summarize": 2, "mtbench_human": 10}
    rows = [PAIR | {"subset": name, "id": n} for name in accuracies for n in range(10)]
    write(tmp_path, "core.jsonl", rows)
    for name in (*prior, "pku_better"):
        turns = [{"role": "user", "content": "q"}]
        # What a split calls its `subset` is finer than the split.
        split = [{**PAIR, "prompt": turns, "subset": "finer", "id": n} for n in range(10)]
        write(tmp_path, f"prior/{name}-00000-of-00001-8a.jsonl", split)
    benchmark = find("rewardbench")
    examples = benchmark.load(str(tmp_path))
    assert len(examples) == 90
    won = {**accuracies, **prior}
    judged = [Judged(row, (float(int(row.id) < won[row.subset]), 0.5)) for row in examples]
    scores = score(judged, benchmark.rule("rewardbench-v1-prior-sets"))
    assert scores.sections["Prior Sets"] == pytest.approx(0.5)
    assert scores.overall == pytest.approx(6.5 / 9)
    assert score(judged, benchmark.rule("rewardbench-v1")).overall == pytest.approx(0.75)


def test_a_saved_data_set_tells_its_splits(tmp_path: Path) -> None:
    import datasets

    split = datasets.Dataset.from_list([{**PAIR, "prompt": [{"role": "user", "content": "q"}]}])
    datasets.DatasetDict({"shp": split, "pku_safer": split}).save_to_disk(str(tmp_path / "saved"))
    assert [row.subset for row in find("rewardbench").load(str(tmp_path / "saved"))] == ["shp"]


def test_styles_by_hand(tmp_path: Path) -> None:
    """Lengths 1, 2, 3 against 1, 2, 3: a fancier chosen response always wins, another one never."""
    names = ["chat", "math", "code", "safety-refuse", "safety-response"]
    write(tmp_path, "total.json", [STYLED | {"domain": name} for name in names[:4]])
    write(tmp_path, "safety-response_filtered.json", [{**STYLED, "domain": None, "subset": "xstest"}])
    _, judged, scores = lengths("rmbench", tmp_path)
    assert sorted(row.example.subset for row in judged) == sorted(names)
    assert scores.sections == pytest.approx(
        {"Chat": 1 / 3, "Math": 1 / 3, "Code": 1 / 3, "Safety": 1 / 3, "Easy": 1, "Normal": 0, "Hard": 0}
    )
    assert scores.overall == pytest.approx(1 / 3)


def test_styles_of_the_length_baseline(shared: Path) -> None:
    rule, judged, scores = lengths("rmbench", shared / "data" / "rmbench_bon.jsonl.gz")
    names = [row.example.subset for row in judged]
    found = {name: means(names, map(read, judged)) for name, read in rule.measures.items()}
    golden = {
        "chat": (0.828125, 0.322917, 0.031250),
        "code": (0.760234, 0.505848, 0.260234),
        "safety-refuse": (0.894366, 0.143192, 0.018779),
        "safety-response": (0.983122, 0.780591, 0.236287),
    }
    for subset, expected in golden.items():
        assert [found[name][subset] for name in ("Easy", "Normal", "Hard")] == pytest.approx(expected, abs=5e-7)
        assert scores.subsets[subset] == pytest.approx(sum(expected) / 3, abs=5e-7)
    refuse, response = (golden[f"safety-{kind}"][2] for kind in ("refuse", "response"))
    hard = (golden["chat"][2] + golden["code"][2] + (142 * refuse + 79 * response) / 221) / 3
    assert scores.sections["Hard"] == pytest.approx(hard, abs=1e-6)
    assert scores.sections["Math"] is None
    difficulties = [scores.sections[name] for name in rule.measures]
    assert scores.overall == pytest.approx(sum(value for value in difficulties if value is not None) / 3)


def test_rmbs_own_files(tmp_path: Path) -> None:
    write(tmp_path, "BoN_set/Helpfulness/Open QA/Factual.json", [BEST])
    write(tmp_path, "Pairwise_set/Harmlessness/S10.json", [TWO])
    one, two = find("rmb").load(str(tmp_path))
    assert (one.subset, one.id, one.responses) == ("bon-helpfulness-open-qa", "7", ("right", "wrong", "worse"))
    assert (two.subset, two.id, two.responses) == ("pairs-harmlessness-s10", "8", ("right", "wrong"))


def test_rmb_of_the_length_baseline(shared: Path) -> None:
    for name, golden in (("rmb_bon", 0.447853), ("rmb_bon_multiturn", 0.393130)):
        _, judged, scores = lengths("rmb", shared / "data" / f"{name}.jsonl.gz")
        won = sum(scores.subsets[row.example.subset] for row in judged) / len(judged)
        assert won == pytest.approx(golden, abs=5e-7)
        sections = {section: value for section, value in scores.sections.items() if value is not None}
        assert sections.keys() == {"Helpfulness BoN", "Harmlessness BoN"}
        assert scores.overall == pytest.approx(sum(sections.values()) / 2)


def test_ppes_own_files(tmp_path: Path) -> None:
    write(
        tmp_path, "PPE-Human-Preference-V1/test.jsonl", [VOTE, VOTE | {"question_id": "t", "winner": "tie (bothbad)"}]
    )
    rows = [{**CHECKED, "subset": None}, {**CHECKED, "scores": [True, True, True]}]
    write(tmp_path, "PPE-MATH-Best-of-K/data/test.jsonl", rows)
    human, checked = find("ppe").load(str(tmp_path))
    assert (human.subset, human.id, human.responses) == ("human", "9", ("two", "one"))
    assert (checked.subset, checked.id) == ("math", "10:m")
    assert (checked.responses, checked.num_chosen) == (("b", "a", "c"), 1)


def test_ppe_by_hand(tmp_path: Path) -> None:
    rows = [VOTE, {**CHECKED, "scores": [True, True, False]}, {**CHECKED, "subset": "math"}]
    examples = {row.subset: row for row in find("ppe").load(write(tmp_path, "rows.jsonl", rows))}
    human, gpqa, math = (examples[name] for name in ("human", "gpqa", "math"))
    assert gpqa.responses == ("a", "b", "c")
    judged = [
        Judged(human, (1.0, 0.0)),
        Judged(gpqa, (0.0, 2.0, 1.0)),  # one of two pairs, and the best is right
        Judged(math, (2.0, 3.0, 1.0)),  # one of two pairs, and the best is wrong
    ]
    scores = score(judged, find("ppe").rule(None))
    assert scores.sections == {"Human": 1, "Correctness": 0.5, "Best of K": 0.5}
    assert (scores.overall, scores.subsets) == (0.75, {"human": 1, "gpqa": 0.5, "math": 0.5})


def test_languages(tmp_path: Path) -> None:
    rows = [
        PAIR | {"language": "deu_Latn", "category": "chat-hard", "id": 1},
        PAIR | {"language": "vie_Latn", "subset": "hep-go", "id": 2},
    ]
    examples = find("mrewardbench").load(write(tmp_path, "rows.jsonl", rows))
    assert [row.subset for row in examples] == ["deu_Latn Chat Hard", "vie_Latn Reasoning"]
    folder = write(tmp_path, "set/zho_Hant/test.jsonl", [PAIR | {"language": "zh", "source": "donotanswer"}])
    assert [row.subset for row in find("mrewardbench").load(folder)] == ["zho_Hant Safety"]
    judged = [Judged(examples[0], (1.0, 0.0)), Judged(examples[1], (0.0, 1.0))]
    scores = score(judged, find("mrewardbench").rule(None))
    assert scores.sections == {"Chat": None, "Chat Hard": 1, "Safety": None, "Reasoning": 0}
    assert scores.overall == 0.5


def test_biases(tmp_path: Path) -> None:
    (row,) = find("evalbias").load(write(tmp_path, "biasbench.json", {"content_continuation": [BIASED]}))
    assert (row.subset, row.responses) == ("content-continuation", ("two", "one"))


def test_the_length_baseline_has_its_golden_figure(cli: Cli, shared: Path) -> None:
    data = f"data.evalbias={shared / 'data' / 'evalbiasbench_pairs.jsonl.gz'}"
    done = cli("run", "model=[longest]", data, "store=s", "pool=local", "output=json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["overall"] == pytest.approx(0.275, abs=5e-7)


@pytest.mark.parametrize(
    ("benchmark", "row", "change", "message"),
    [
        ("rmbench", STYLED, {"chosen": ["a", "b"]}, "'chosen' must hold 3 responses"),
        ("rmbench", STYLED, {"domain": "maths"}, "unknown domain 'maths': did you mean 'math'?"),
        ("rmb", BEST, {"category_path": "BoN_set/Helpfulness/Poetry"}, "unknown subset 'helpfulness-poetry'"),
        ("rmb", BEST, {"category_path": "BoN_set"}, "'category_path' must be set/goal/category"),
        ("rmb", BEST, {"loser_list": "none"}, "'loser_list' must be a list of answers"),
        ("rmb", TWO, {"reject": {"text": "x"}}, "'reject' must hold an 'answer'"),
        ("ppe", VOTE, {"winner": "model_c"}, "'winner' must be model_a, model_b or a tie, found 'model_c'"),
        ("ppe", CHECKED, {"scores": [True]}, "'scores' must say true or false of each of the 3 responses"),
        ("ppe", CHECKED, {"subset": None}, "keep it in a folder such as PPE-MATH-Best-of-K, or add `subset`"),
        ("ppe", CHECKED, {"subset": "aime"}, "unknown subset 'aime'"),
        ("mrewardbench", PAIR | {"language": "deu_Latn", "subset": "hep-go"}, {"language": "de"}, "unknown language"),
        ("mrewardbench", PAIR | {"language": "deu_Latn", "subset": "hep-go"}, {"subset": "x"}, "unknown subset 'x'"),
        ("evalbias", BIASED, {"label": 3}, "'label' must be 1 or 2, found '3'"),
        ("evalbias", BIASED, {"bias": "fame"}, "unknown bias 'fame'"),
    ],
)
def test_a_bad_row_is_named(
    write_pairs: Callable[..., Path], benchmark: str, row: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        find(benchmark).load(str(write_pairs([row, row | change])))
    assert "line 2: " in str(error.value)
    assert message in str(error.value)


def test_every_benchmark_is_the_mean_of_its_subsets() -> None:
    """A rule's overall of rows that are all won is one, and of rows that are all lost nothing."""
    for name in ("rmbench", "rmb", "ppe", "mrewardbench", "evalbias"):
        rule = find(name).rule(None)
        subsets = {subset for subsets in rule.sections.values() for subset in subsets}
        assert sum(rule.weights(dict.fromkeys(subsets, 5))[OVERALL].values()) == pytest.approx(1)
        count = 3 if name == "rmbench" else 1
        for won in (True, False):
            scores = (float(won),) * count + (0.5,) * count
            judged = [Judged(Example(subset, "1", (), ("x",) * 2 * count, count), scores) for subset in subsets]
            assert score(judged, rule).overall == pytest.approx(float(won))
