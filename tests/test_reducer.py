"""The leaderboard is a pure function of rows and scores: never a partial score as if it were whole."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.benchmarks import Example, Rule, data_hash, find
from orchestrator.reducer import Cell, Leaderboard, reduce
from orchestrator.site import page
from orchestrator.tables import as_csv, as_markdown, boards, notes_on, placed
from workers.protocol import Measurement, Message, Model, ModelSpec, Request, measurement_key

Pair = tuple[float | None, float | None]
"""The chosen and the rejected score of a row, None for one that was never measured."""

SUBSETS = ("hep-go", "math-prm", "donotanswer", "mt-bench-easy", "mt-bench-hard", "llmbar-natural")
RULE = find("rewardbench").rule(None)
SECTION_OF = {subset: section for section, subsets in RULE.sections.items() for subset in subsets}
SPEC = ModelSpec("", "", "", "scalar", "1", "transformers", "1", ())


@dataclass(frozen=True)
class Case:
    """Examples, and each model's scores in the same order; `cut` names truncated (model, row)s."""

    examples: Sequence[Example]
    scores: Mapping[str, Sequence[Pair]]
    cut: frozenset[tuple[str, int]] = frozenset()
    failures: Mapping[str, str] = field(default_factory=dict)


def example(number: int, subset: str) -> Example:
    """A row that shares no text with another one."""
    return Example(subset, str(number), (Message("user", f"q{number}"),), (f"good {number}", f"bad {number}"))


def rows(subsets: Iterable[str]) -> list[Example]:
    return [example(number, subset) for number, subset in enumerate(subsets)]


def model(name: str) -> Model:
    return Model(name, "scalar", (replace(SPEC, name=name, weights=f"sha256:{name}"),))


def measurements(case: Case, name: str) -> dict[str, Measurement]:
    fingerprint = model(name).streams[0].fingerprint
    found = {}
    for number, (row, pair) in enumerate(zip(case.examples, case.scores[name], strict=True)):
        for response, value in zip(row.responses, pair, strict=True):
            request = Request("reward", row.prompt, (response,)).digest
            cut = (name, number) in case.cut
            if value is not None:
                key = measurement_key(fingerprint, request)
                found[request] = Measurement(key, request, "reward", value, 3, cut, request, None)
    return found


def board(case: Case, rule: Rule = RULE) -> Leaderboard:
    models = [model(name) for name in case.scores]
    stored = {one.streams[0].fingerprint: measurements(case, one.name) for one in models}
    return reduce(
        models, "rewardbench", rule, data_hash(case.examples), case.examples, stored.__getitem__, case.failures
    )


def text(case: Case) -> str:
    """The leaderboard as it is printed, so that the order of keys counts too."""
    return json.dumps(board(case).to_json(), allow_nan=False)


WON, LOST, TIED, GONE = (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (None, None)
THREE = rows(["hep-go", "hep-go", "donotanswer"])


@pytest.mark.parametrize("gap", [(None, None), (1.0, None), (None, 0.0)])
def test_a_model_with_a_missing_row_has_no_overall_and_no_section_that_needs_it(gap: Pair) -> None:
    case = Case(THREE, {"gap": [WON, gap, WON], "whole": [LOST, WON, LOST]})
    whole, found = board(case).entries
    assert (found.name, found.overall, found.complete) == ("gap", None, False)
    assert found.sections == {"Chat": None, "Chat Hard": None, "Safety": 1.0, "Reasoning": None}
    assert found.subsets == {"donotanswer": Cell(1.0, 1), "hep-go": Cell(None, 2)}
    assert (found.rows, found.rows_missing) == (3, 1)
    assert (whole.name, whole.overall, whole.complete, whole.rows_missing) == ("whole", 0.25, True, 0)
    assert (whole,) == board(Case(THREE, {"whole": [LOST, WON, LOST]})).entries


def test_a_section_is_none_when_one_of_its_subsets_is_not_whole() -> None:
    case = Case(rows(["math-prm", "hep-go"]), {"gap": [WON, GONE]})
    (found,) = board(case).entries
    assert found.sections["Reasoning"] is None
    assert found.subsets == {"math-prm": Cell(1.0, 1), "hep-go": Cell(None, 1)}


def test_a_rule_without_sections_gives_an_incomplete_model_no_overall_either() -> None:
    rule = find("pairs").rule(None)
    whole, gap = board(Case(THREE, {"gap": [WON, WON, GONE], "whole": [WON, LOST, LOST]}), rule).entries
    assert (gap.overall, gap.sections, gap.subsets["donotanswer"]) == (None, {}, Cell(None, 1))
    assert whole.overall == pytest.approx(1 / 3)
    assert whole.subsets["hep-go"] == Cell(0.5, 2)


def test_complete_models_come_best_first_then_incomplete_ones_and_equals_by_name() -> None:
    scores: dict[str, list[Pair]] = {
        "b-gap": [WON, WON, GONE],
        "d-half": [WON, WON, LOST],
        "a-gap": [GONE, GONE, GONE],
        "z-best": [WON, WON, WON],
        "c-half": [LOST, LOST, WON],
        "a-worst": [TIED, LOST, LOST],
    }
    found = board(Case(THREE, scores)).entries
    assert [entry.name for entry in found] == ["z-best", "c-half", "d-half", "a-worst", "a-gap", "b-gap"]
    assert [entry.overall for entry in found] == [1.0, 0.5, 0.5, 0.0, None, None]
    assert [entry.rows_missing for entry in found] == [0, 0, 0, 0, 3, 1]


def test_ties_and_scores_that_are_no_numbers_are_counted() -> None:
    pairs: list[Pair] = [
        (1.0, 1.0),
        (0.0, -0.0),
        (math.inf, math.inf),
        (math.inf, 1.0),
        (1.0, -math.inf),
        (math.nan, math.nan),
        (math.nan, 0.0),
        (1.0, 0.0),
        (0.0, 1.0),
    ]
    (found,) = board(Case(rows(["hep-go"] * len(pairs)), {"model": pairs})).entries
    assert (found.ties, found.not_finite) == (3, 5)
    assert found.subsets == {"hep-go": Cell(3 / len(pairs), len(pairs))}
    assert (found.rows_missing, found.complete) == (0, True)


def test_truncated_counts_rows_not_responses() -> None:
    case = Case(THREE, {"a": [WON] * 3, "b": [LOST] * 3}, frozenset({("a", 0), ("a", 2)}))
    assert [(entry.name, entry.truncated) for entry in board(case).entries] == [("a", 2), ("b", 0)]


def test_only_scored_rows_count_as_ties_truncated_or_not_finite() -> None:
    half: list[Pair] = [(math.nan, None), (None, 1.0), TIED]
    case = Case(THREE, {"model": half}, frozenset({("model", 0), ("model", 1), ("model", 2)}))
    (found,) = board(case).entries
    assert (found.rows_missing, found.ties, found.not_finite, found.truncated) == (2, 1, 0, 1)


def test_two_equal_responses_are_one_measurement_and_a_tie() -> None:
    same = [replace(THREE[0], responses=("same", "same")), THREE[2]]
    (found,) = board(Case(same, {"model": [TIED, WON]})).entries
    assert (found.ties, found.overall, found.rows_missing) == (1, 0.5, 0)
    (found,) = board(Case(same, {"model": [GONE, WON]})).entries
    assert (found.ties, found.overall, found.rows_missing) == (0, None, 1)


def test_a_failure_is_told_only_while_rows_are_missing() -> None:
    failures = {"gap": "out of memory", "whole": "failed once, then resumed", "other": "not on this board"}
    case = Case(THREE, {"gap": [WON, WON, GONE], "whole": [WON] * 3, "cut": [GONE] * 3}, failures=failures)
    found = {entry.name: entry.failure for entry in board(case).entries}
    assert found == {"gap": "out of memory", "whole": None, "cut": None}


def test_the_json_has_the_documented_keys_and_no_other() -> None:
    case = Case(THREE, {"gap": [WON, WON, GONE], "nan": [(math.nan, 0.0), WON, WON]})
    found = json.loads(text(case))
    assert found.keys() == {"benchmark", "rule", "data_hash", "models", "baselines"}
    assert (found["benchmark"], found["rule"]) == ("rewardbench", "rewardbench-v1")
    assert found["data_hash"] == data_hash(THREE)
    keys = {"name", "family", "overall", "sections", "subsets", "rows", "rows_missing", "ties", "truncated"}
    assert {entry["name"] for entry in found["baselines"]} == {"longest", "shortest", "random", "position"}
    for entry in found["models"] + found["baselines"]:
        keys |= {
            "not_finite",
            "unparsed",
            "within_noise",
            "gpu_hours",
            "dollars",
            "failure",
            "overall_interval",
            "section_intervals",
            "ranks",
            "tied_with_next",
        }
        assert entry.keys() == keys
        assert list(entry["sections"]) == list(RULE.sections)
        assert all(cell.keys() == {"accuracy", "n", "interval"} for cell in entry["subsets"].values())
    assert [entry["name"] for entry in found["models"]] == ["nan", "gap"]
    assert found["models"][0]["subsets"] == {
        "donotanswer": {"accuracy": 1.0, "n": 1, "interval": pytest.approx([0.206549, 1.0], abs=1e-6)},
        "hep-go": {"accuracy": 0.5, "n": 2, "interval": pytest.approx([0.094531, 0.905469], abs=1e-6)},
    }
    assert found["models"][1]["subsets"]["donotanswer"] == {"accuracy": None, "n": 1, "interval": None}
    assert found["models"][0]["ranks"] == [1, 1]
    assert (found["models"][1]["ranks"], found["models"][1]["overall_interval"]) == (None, None)


@pytest.mark.parametrize(
    ("gap", "dtype", "within"),
    [(1.9e-4, "float32", 1), (2.1e-4, "float32", 0), (-1e-5, "float32", 1), (0.0, "float32", 0), (0.09, "bfloat16", 1)],
)
def test_verdicts_within_the_noise_are_counted(gap: float, dtype: str, within: int) -> None:
    case = Case(THREE, {"a": [(gap, 0.0), WON, LOST]})
    one = model("a")
    one = replace(one, streams=(replace(one.streams[0], dtype=dtype),))
    found = reduce([one], "rewardbench", RULE, data_hash(THREE), THREE, lambda _: measurements(case, "a"), {})
    assert found.entries[0].within_noise == within
    assert any("noise" in note for note in notes_on(found)) == bool(within)


def test_latex_is_escaped() -> None:
    text = boards([board(Case(THREE, {"a_b&c%\\d": [WON, WON, WON]}))], "latex")
    assert "a\\_b\\&c\\%\\textbackslash{}d" in text
    assert text.count("{") == text.count("}")
    lines = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len({line.count(" & ") for line in lines}) == 1
    assert len(lines) == 6


def test_null_baselines_stand_in_every_table() -> None:
    made = board(Case(THREE, {"a": [WON, WON, WON], "gap": [GONE, WON, WON]}))
    names = [entry.name for _, entry in placed(made)]
    assert (names[0], names[-1]) == ("a", "gap")
    assert sorted(names[1:-1]) == ["longest", "position", "random", "shortest"]
    assert [rank for rank, _ in placed(made)] == [1, None, None, None, None, None]
    for made_text in (as_csv([made]), as_markdown(made), boards([made], "text"), boards([made], "latex"), page(made)):
        assert "position" in made_text
    named = reduce([replace(model("longest"), streams=())], "rewardbench", RULE, "h", THREE, lambda _: {}, {})
    assert [entry.name for entry in named.nulls] == ["shortest", "random", "position"]


whole_numbers = st.integers(-3, 3).map(float)
whole_pairs = st.tuples(whole_numbers, whole_numbers)
any_numbers = st.one_of(st.none(), whole_numbers, st.sampled_from([math.nan, math.inf, -math.inf]))
any_pairs = st.tuples(any_numbers, any_numbers)


@st.composite
def cases(draw: st.DrawFn, pairs: st.SearchStrategy[tuple[float | None, float | None]] = whole_pairs) -> Case:
    examples = rows(draw(st.lists(st.sampled_from(SUBSETS), min_size=1, max_size=12)))
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True))
    scores = st.lists(pairs, min_size=len(examples), max_size=len(examples))
    return Case(examples, {name: draw(scores) for name in names})


@settings(deadline=None)
@given(case=cases(any_pairs), seed=st.integers(0, 2**32))
def test_the_order_of_models_and_examples_changes_nothing(case: Case, seed: int) -> None:
    shuffle = random.Random(seed)
    order, names = list(range(len(case.examples))), list(case.scores)
    shuffle.shuffle(order)
    shuffle.shuffle(names)
    shuffled = Case(
        [case.examples[row] for row in order], {name: [case.scores[name][row] for row in order] for name in names}
    )
    assert text(shuffled) == text(case)


@settings(deadline=None)
@given(case=cases(any_pairs))
def test_every_number_is_a_share_and_none_is_said_of_missing_rows(case: Case) -> None:
    for entry in board(case).entries:
        gaps = {row.subset for row, pair in zip(case.examples, case.scores[entry.name], strict=True) if None in pair}
        assert (entry.overall is None) == bool(gaps)
        assert entry.rows_missing == sum(None in pair for pair in case.scores[entry.name])
        assert sum(cell.n for cell in entry.subsets.values()) == entry.rows == len(case.examples)
        assert {name for name, cell in entry.subsets.items() if cell.accuracy is None} == gaps
        spoilt = {SECTION_OF[subset] for subset in gaps}
        present = {SECTION_OF[row.subset] for row in case.examples}
        assert {name for name, value in entry.sections.items() if value is not None} == present - spoilt
        said = [entry.overall, *entry.sections.values(), *(cell.accuracy for cell in entry.subsets.values())]
        assert all(0 <= value <= 1 for value in said if value is not None)


@settings(deadline=None)
@given(case=cases(), data=st.data())
def test_losing_rows_of_one_model_leaves_the_others_as_they_are(case: Case, data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(sorted(case.scores)))
    lost = data.draw(st.sets(st.integers(0, len(case.examples) - 1), min_size=1))
    kept = [GONE if row in lost else pair for row, pair in enumerate(case.scores[victim])]
    before = {entry.name: entry for entry in board(case).entries}
    after = board(replace(case, scores={**case.scores, victim: kept})).entries
    assert (after[-1].name, after[-1].overall, after[-1].rows_missing) == (victim, None, len(lost))
    alone = {entry.name: replace(entry, ranks=None, tied=False) for entry in after[:-1]}
    assert alone == {name: replace(before[name], ranks=None, tied=False) for name in before if name != victim}


@settings(deadline=None)
@given(case=cases(), data=st.data())
def test_a_higher_chosen_score_never_lowers_the_overall(case: Case, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(case.scores)))
    row = data.draw(st.integers(0, len(case.examples) - 1))
    pairs = list(case.scores[name])
    chosen, rejected = pairs[row]
    assert chosen is not None
    pairs[row] = (chosen + data.draw(st.integers(1, 8)), rejected)
    before, after = (
        {entry.name: entry.overall for entry in board(each).entries}
        for each in (case, replace(case, scores={**case.scores, name: pairs}))
    )
    gained, had = after.pop(name), before.pop(name)
    assert gained is not None
    assert had is not None
    assert gained >= had
    assert after == before


@settings(deadline=None)
@given(case=cases(), factor=st.integers(1, 10**6), shift=st.integers(-(10**9), 10**9))
def test_verdicts_do_not_depend_on_the_scale_of_the_scores(case: Case, factor: int, shift: int) -> None:
    """Whole numbers: the map is then exact in float64, so that nothing new ties."""

    def mapped(value: float | None) -> float | None:
        return None if value is None else value * factor + shift

    name, *_ = case.scores
    pairs = [(mapped(chosen), mapped(rejected)) for chosen, rejected in case.scores[name]]
    assert text(replace(case, scores={**case.scores, name: pairs})) == text(case)
