"""Pure: names of nights, history, drift, moves and what a report makes of them."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.benchmarks import OVERALL, Example, Judged
from orchestrator.benchmarks.pairs import PAIRS_V1
from orchestrator.benchmarks.rewardbench2 import RULE as TIES_RULE
from orchestrator.changes import Changes, Moved, compare_boards, compared
from orchestrator.charts import HEIGHT, WIDTH, charts
from orchestrator.drift import causes, drift
from orchestrator.metrics import NOISE
from orchestrator.reducer import Cell, Entry, Leaderboard
from orchestrator.snapshots import NIGHTS, History, Snapshot, Standing, extended, next_night, night_key
from workers.protocol import Measurement, Message, Model, ModelSpec

DAYS = st.dates().map(str)
SPEC = ModelSpec("m", "p", "sha256:1", "scalar", "1", "transformers", "1", (("torch", "2.7"), ("transformers", "5.16")))


@given(st.lists(DAYS, max_size=12))
def test_nights_are_named_in_the_order_in_which_they_are_held(days: list[str]) -> None:
    taken: list[str] = []
    for day in days:
        taken.append(next_night(day, random.Random(0).sample(taken, len(taken))))
    assert len(set(taken)) == len(taken)
    assert sorted(taken, key=night_key) == taken
    if days == sorted(set(days)):
        assert taken == days


def test_the_eleventh_night_of_a_day_follows_the_tenth() -> None:
    taken: list[str] = []
    for _ in range(11):
        taken.append(next_night("2026-01-31", taken))
    assert taken[:3] == ["2026-01-31", "2026-01-31.2", "2026-01-31.3"]
    assert sorted(taken, key=night_key)[-1] == "2026-01-31.11"


OVERALLS = st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.25, 0.5, 0.75]))


@given(
    st.lists(st.tuples(OVERALLS, st.dictionaries(st.sampled_from("abc"), st.just("weights"))), min_size=1, max_size=8)
)
def test_the_history_tells_every_night_what_it_was(held: list[tuple[dict[str, float], dict[str, str]]]) -> None:
    history = History()
    names = [f"2026-01-{day:02d}" for day in range(1, len(held) + 1)]
    for name, (overalls, changed) in zip(names, held, strict=True):
        marks = {("pairs", model): cause for model, cause in changed.items() if model in overalls}
        history = extended(history, name, {"pairs": overalls}, marks)
    assert list(history.nights) == names
    for model in "abc":
        values = [point and point.overall for point in history.values("pairs", model)]
        assert values == [overalls.get(model) for overalls, _ in held]
        told = {point.night: point.cause for point in history.values("pairs", model) if point and point.cause}
        for name, (overalls, changed) in zip(names, held, strict=True):
            assert (name in told) == (model in overalls and model in changed)


def test_the_history_forgets_old_nights_but_not_what_still_holds() -> None:
    history = History()
    for number in range(NIGHTS + 20):
        overalls = {"old": 0.5} if number < 10 else {"kept": 0.75}
        overalls |= {"steady": 0.6}
        history = extended(history, f"{2000 + number}-01-01", {"pairs": overalls}, {})
    assert len(history.nights) == NIGHTS
    assert history.lines["pairs"].keys() == {"kept", "steady"}
    assert all(point and point.overall == 0.6 for point in history.values("pairs", "steady"))
    assert len(history.lines["pairs"]["steady"]) == 1


def row(number: int, margin: float, subset: str = "all", prompt: str | None = None) -> Judged:
    turns = (Message("user", prompt or f"q{number}"),)
    return Judged(Example(subset, str(number), turns, (f"good {number}", f"bad {number}")), (margin, 0.0))


def moved(model: str = "m") -> Moved:
    return Moved(model, "2026-01-01", ("weights",), 0.5, 0.5, 0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_move_is_the_difference_over_the_shared_rows(wins: list[tuple[bool, bool]]) -> None:
    pairs = [(row(n, 1.0 if was else -1.0), row(n, 1.0 if now else -1.0)) for n, (was, now) in enumerate(wins)]
    found = compared(moved(), pairs, PAIRS_V1)
    assert found.rows == len(wins)
    if all(was == now for was, now in wins):
        assert found.cells == ()
        assert "counts as it did" in found.note
        return
    overall = found.cells[0]
    assert overall.cell == OVERALL
    assert overall.difference == pytest.approx(sum(now - was for was, now in wins) / len(wins))
    assert overall.low <= overall.difference + 1e-9
    assert overall.high >= overall.difference - 1e-9
    turned = compared(moved(), [(now, was) for was, now in pairs], PAIRS_V1).cells[0]
    assert turned.difference == pytest.approx(-overall.difference)
    assert turned.p == pytest.approx(overall.p)


def test_a_rule_that_reads_all_rows_together_is_tested_on_those_that_are_shared() -> None:
    examples = [
        Example("Ties", f"{kind}:{n}", (Message("user", f"{n}"),), ("a", "b", "c"), 2)
        for n in range(3)
        for kind in ("ref", "tied")
    ]
    pairs = [(Judged(one, (1.0, 1.1, 2.0)), Judged(one, (2.0, 2.1, 1.0))) for one in examples[:5]]
    assert compared(moved(), pairs, TIES_RULE).cells[0].difference > 0


def test_no_shared_row_is_no_verdict() -> None:
    found = compared(moved(), [], PAIRS_V1)
    assert (found.cells, found.note) == ((), "no row was judged both times")


def fallen(model: str, rows: int, lost: int) -> Moved:
    pairs = [(row(n, 1.0), row(n, -1.0 if n < lost else 1.0)) for n in range(rows)]
    return compared(moved(model), pairs, PAIRS_V1)


def entry(name: str, overall: float | None, missing: int = 0, failure: str | None = None) -> Entry:
    return Entry(name, "scalar", overall, {}, {"all": Cell(overall, 10)}, 10, missing, 0, 0, 0, 0, failure)


def board(*entries: Entry, rule: str = "pairs-v1") -> Leaderboard:
    return Leaderboard("pairs", rule, "d1", entries)


def standing(rank: int, overall: float = 0.5, night: str = "2026-01-01") -> Standing:
    return Standing(night, "scalar", ("f",), {}, "d1", "pairs-v1", overall, rank)


def last(*entries: Entry) -> dict[str, Any]:
    return json.loads(json.dumps(board(*entries).to_json()))


def test_many_tests_are_adjusted_for_each_other_and_those_that_cannot_come_out_are_not_counted() -> None:
    alone = [fallen("a", 60, 5)]
    assert compare_boards(board(), last(), {}, moved=alone).moved[0].fell
    with_others = [*alone, *(fallen(f"b{n}", 60, 3) for n in range(12))]
    assert not compare_boards(board(), last(), {}, moved=with_others).moved[0].fell
    with_still = [*alone, *(fallen(f"c{n}", 60, 0) for n in range(500))]
    found = compare_boards(board(), last(), {}, moved=with_still)
    assert found.moved[0].fell
    assert len(found.regressions) == 1
    assert found.regressions[0].startswith("a fell by 8.3 points on pairs since 2026-01-01 (p 0.0")


def test_a_rise_is_no_regression() -> None:
    pairs = [(row(n, -1.0), row(n, 1.0)) for n in range(50)]
    found = compare_boards(board(), last(), {}, moved=[compared(moved(), pairs, PAIRS_V1)])
    assert found.moved[0].significant
    assert found.regressions == []


def test_what_came_and_went_is_told() -> None:
    before = last(entry("a", 0.9), entry("b", 0.8), entry("gone", 0.7), entry("ill", None, 3))
    now = board(entry("b", 0.8), entry("a", 0.7), entry("ill", 0.6), entry("new", 0.5), entry("odd", None, 2, "broken"))
    known = {
        "a": standing(1, 0.9),
        "b": standing(2, 0.8),
        "ill": standing(3, night="2025-12-24"),
        "odd": standing(9, night="2025-12-31"),
    }
    found = compare_boards(now, before, known)
    assert (found.new, found.removed, found.recovered) == (("new", "odd"), ("gone",), ("ill",))
    assert {(place.model, place.before, place.after) for place in found.places} == {("a", 1, 2), ("b", 2, 1)}
    assert [(gap.model, gap.rows_missing, gap.reason, gap.since) for gap in found.missing] == [
        ("odd", 2, "broken", "2025-12-31")
    ]
    assert not found.unchanged


def test_nothing_is_told_of_nothing() -> None:
    now = board(entry("a", 0.9), entry("b", 0.8))
    found = compare_boards(now, last(*now.entries), {"a": standing(1), "b": standing(2)})
    assert found.unchanged
    assert found == Changes("pairs", "pairs-v1", first=False)


def test_ranks_under_another_rule_are_not_compared() -> None:
    now = board(entry("a", 0.9), rule="pairs-v2")
    found = compare_boards(now, last(entry("a", 0.9)), {"a": standing(5)})
    assert (found.earlier_rule, found.places) == ("pairs-v1", ())


def measurement(
    request: str, value: float, tokens: str = "t", text: str | None = None, kind: Any = "reward"
) -> Measurement:
    return Measurement("k", request, kind, value, 10, False, tokens, text)


NEWER = replace(SPEC, environment=(("torch", "2.7"), ("transformers", "5.17")))


@pytest.mark.parametrize(
    ("now", "words", "versions"),
    [
        (NEWER, ("transformers 5.16 -> 5.17",), True),
        (
            replace(SPEC, engine="vllm", environment=(("vllm", "1"),)),
            ("engine transformers -> vllm", "torch 2.7 -> None, transformers 5.16 -> None, vllm None -> 1"),
            True,
        ),
        (replace(NEWER, weights="sha256:2"), ("transformers 5.16 -> 5.17", "weights sha256:1 -> sha256:2"), False),
        (replace(SPEC, dtype="bfloat16"), ("dtype float32 -> bfloat16",), False),
        (replace(SPEC, chat_template="x"), ("chat_template None -> x",), False),
        (replace(SPEC, tokenizer_files="sha256:2"), ("tokenizer_files None -> sha256:2",), False),
    ],
)
def test_only_what_computes_makes_a_drift(now: ModelSpec, words: tuple[str, ...], versions: bool) -> None:
    found, only = causes(Model("m", "scalar", (SPEC,)), Model("m", "scalar", (now,)), [SPEC.fingerprint])
    assert (set(", ".join(found).split(", ")), only) == (set(", ".join(words).split(", ")), versions)


def test_an_identity_that_got_further_fields_is_a_drift_too() -> None:
    found, only = causes(Model("m", "scalar", (SPEC,)), Model("m", "scalar", (SPEC,)), ["what it was called then"])
    assert (found, only) == (("what rewardsweep counts as a model's identity",), True)


def drifted(before: list[Measurement], now: list[Measurement], pairs: Any = (), spec: ModelSpec = NEWER) -> Any:
    streams = [({one.request: one for one in before}, {one.request: one for one in now})]
    return drift(Model("m", "scalar", (spec,)), ("transformers 5.16 -> 5.17",), streams, pairs, "2026-01-01")


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.floats(0, 1e-3))
def test_drift_is_measured_a_request(values: list[float], shift: float) -> None:
    before = [measurement(str(n), value) for n, value in enumerate(values)]
    now = [measurement(str(n), value + shift) for n, value in enumerate(values)]
    found = drifted(before, [*now, measurement("only now", 5.0)])
    gaps = sorted(abs(two.value - one.value) for one, two in zip(before, now, strict=True))
    assert found.requests == len(values)
    assert found.largest == gaps[-1]
    assert gaps[0] <= found.median <= gaps[-1]
    assert found.beyond == sum(gap > NOISE["float32"] for gap in gaps)
    assert found.alarm == (gaps[-1] > NOISE["float32"])


def test_tolerance_is_the_dtypes_and_a_token_of_log_probabilities() -> None:
    before, now = [measurement("r", -30.0)], [measurement("r", -30.0 + 4e-2)]
    assert drifted(before, now).alarm
    assert not drifted(before, now, spec=replace(NEWER, dtype="bfloat16")).alarm
    sums = [replace(one, kind="logprob") for one in (*before, replace(now[0], value=-30.0 + 4e-4))]
    assert not drifted(sums[:1], sums[1:]).alarm


def test_other_tokens_turned_verdicts_and_nan_are_alarms() -> None:
    same = [measurement("r", 1.0)]
    assert not drifted(same, same).alarm
    assert drifted(same, [measurement("r", 1.0, tokens="u")]).retokenised == 1
    assert drifted(same, [measurement("r", 1.0, tokens="u")]).alarm
    turned = drifted(same, same, [(row(1, 1.0), row(1, -1.0)), (row(2, 1.0), row(2, 1.0))])
    assert (turned.turned, turned.rows, turned.alarm) == (1, 2, True)
    nan = measurement("r", math.nan)
    assert drifted([nan], [nan]).largest == 0
    assert drifted([nan], same).largest == math.inf
    assert drifted([nan], same).alarm


def test_another_text_with_the_same_verdict_is_told_but_no_alarm() -> None:
    before, now = (measurement("r", 0.0, text=text, kind="generate") for text in ("A", "A."))
    found = drifted([before], [now])
    assert (found.texts, found.alarm) == (1, False)


@given(st.lists(st.tuples(OVERALLS, st.booleans()), min_size=1, max_size=8))
def test_lines_stay_in_their_picture(held: list[tuple[dict[str, float], bool]]) -> None:
    history = History()
    for day, (overalls, marked) in enumerate(held, 1):
        marks = {("pairs", model): "weights" for model in overalls} if marked else {}
        history = extended(history, f"2026-01-{day:02d}", {"pairs": overalls}, marks)
    boards = {"pairs": {"models": [{"name": name} for name in "abc"]}}
    (chart,) = charts(Snapshot("n", None, "", False, {}, {}, boards, {}, history))
    assert [line.model for line in chart.best] == [name for name in "abc" if name in held[-1][0]]
    for line in (*chart.best, *chart.models):
        for points in line.stretches:
            for point in points.split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= WIDTH
                assert 0 <= y <= HEIGHT
        drawn = sum(len(points.split()) for points in line.stretches)
        assert drawn == sum(line.model in overalls for overalls, _ in held)
