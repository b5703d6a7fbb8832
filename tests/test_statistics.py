"""Intervals, ranks and paired tests: against scipy, by hand, and by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.benchmarks import OVERALL, Example, Judged, Rule, find
from orchestrator.metrics import score
from orchestrator.statistics import (
    Sample,
    bootstrap,
    holm,
    interval,
    mcnemar,
    rank_intervals,
    sample_of,
    two_sided,
    wilson,
)
from workers.plugins import available
from workers.protocol import Message


@given(rows=st.integers(1, 3000), data=st.data())
def test_wilson_is_scipys_and_holds_the_share(rows: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, rows))
    ours, theirs = wilson(wins, rows), stats.binomtest(wins, rows).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours.low <= wins / rows <= ours.high <= 1


def test_a_tie_counts_as_its_share() -> None:
    assert wilson(9, 20).low < wilson(9.5, 20).low < wilson(10, 20).low


def test_mid_p_by_hand() -> None:
    """Six rows, of which one: twice P(0) and half of P(1), of a fair coin."""
    assert mcnemar(5, 1) == mcnemar(1, 5) == pytest.approx(2 * (1 + 6 / 2) / 2**6)
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1.0


@given(better=st.integers(0, 400), worse=st.integers(0, 400))
def test_mid_p_is_below_the_exact_test_and_above_half_of_it(better: int, worse: int) -> None:
    rows = better + worse
    exact = stats.binomtest(better, rows).pvalue if rows else 1.0
    assert exact / 2 - 1e-12 <= mcnemar(better, worse) <= exact + 1e-12


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    assert [p for _, p in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)


def sample(models: int, sizes: dict[str, int], seed: int, share: float = 0.7) -> Sample:
    subsets = [name for name, size in sizes.items() for _ in range(size)]
    wins = np.random.default_rng(seed).random((models, len(subsets))) < share
    return Sample(wins.astype(float), subsets, [str(row) for row in range(len(subsets))])


def test_draws_repeat_and_depend_on_no_other_model() -> None:
    rows, cells = sample(5, {"a": 40, "b": 25}, 0), {OVERALL: {"a": 0.5, "b": 0.5}, "one": {"a": 1.0}}
    whole = bootstrap(rows, cells, 300)
    again = bootstrap(rows, cells, 300)
    two = bootstrap(Sample(rows.credits[[4, 1]], rows.subsets, rows.prompts), cells, 300)
    for cell in cells:
        assert (whole[cell] == again[cell]).all()
        np.testing.assert_allclose(whole[cell][[4, 1]], two[cell], rtol=0, atol=1e-12)
    assert (bootstrap(rows, cells, 300, seed=1)[OVERALL] != whole[OVERALL]).any()


def test_the_spread_is_that_of_the_formula() -> None:
    """Half of a mean of 200 rows and half of one of 50: p(1-p)/n each, weighted by the square."""
    rows = sample(1, {"a": 200, "b": 50}, 3)
    values = bootstrap(rows, {OVERALL: {"a": 0.5, "b": 0.5}}, 20_000)[OVERALL][0]
    shares = [rows.credits[0, :200].mean(), rows.credits[0, 200:].mean()]
    variance = sum(0.25 * share * (1 - share) / size for share, size in zip(shares, (200, 50), strict=True))
    assert values.std() == pytest.approx(math.sqrt(variance), rel=0.03)
    assert values.mean() == pytest.approx(sum(shares) / 2, abs=0.002)


def test_rows_of_one_prompt_are_one_draw() -> None:
    """Every row four times says nothing more than once."""
    once = sample(1, {"a": 60}, 5)
    four = Sample(np.repeat(once.credits, 4, axis=1), ["a"] * 240, [name for name in once.prompts for _ in range(4)])
    apart = Sample(four.credits, four.subsets, [str(row) for row in range(240)])
    spreads = [bootstrap(found, {OVERALL: {"a": 1.0}}, 4000)[OVERALL].std() for found in (once, four, apart)]
    assert spreads[1] == pytest.approx(spreads[0], rel=0.05)
    assert spreads[2] == pytest.approx(spreads[0] / 2, rel=0.05)


@pytest.mark.parametrize("cells", [{"a": 0.25, "b": 0.25, "c": 0.5}])
def test_95_percent_intervals_cover_95_percent(cells: dict[str, float]) -> None:
    """2,000 simulated models whose true accuracies are known; 93 to 97 % is what the noise of the simulation allows."""
    truth, sizes, simulations = {"a": 0.9, "b": 0.6, "c": 0.75}, {"a": 100, "b": 134, "c": 200}, 2000
    draws = np.random.default_rng(11)
    columns = [draws.random((simulations, sizes[name])) < truth[name] for name in sizes]
    subsets = [name for name, size in sizes.items() for _ in range(size)]
    rows = Sample(np.concatenate(columns, axis=1).astype(float), subsets, [str(row) for row in range(len(subsets))])
    overall = sum(weight * truth[name] for name, weight in cells.items())
    found = [interval(values) for values in bootstrap(rows, {OVERALL: cells}, 1000)[OVERALL]]
    covered = sum(one.low <= overall <= one.high for one in found) / simulations
    assert 0.93 <= covered <= 0.97


def test_wilson_intervals_cover_95_percent() -> None:
    wins = np.random.default_rng(12).binomial(46, 0.7, 2000)
    covered = np.mean([wilson(count, 46).low <= 0.7 <= wilson(count, 46).high for count in wins])
    assert 0.93 <= covered <= 0.97


@settings(deadline=None)
@given(models=st.integers(1, 6), seed=st.integers(0, 1000))
def test_ranks_hold_the_rank_and_stay_in_the_table(models: int, seed: int) -> None:
    rows = sample(models, {"a": 30}, seed)
    ranks = rank_intervals(bootstrap(rows, {OVERALL: {"a": 1.0}}, 500)[OVERALL])
    order = np.argsort(-rows.credits.mean(axis=1))
    assert all(1 <= low <= high <= models for low, high in ranks)
    assert ranks[int(order[0])][0] <= ranks[int(order[-1])][0]


def test_models_that_are_equal_share_their_ranks_and_one_far_ahead_has_its_own() -> None:
    rows = sample(3, {"a": 100}, 0, share=0.5)
    rows.credits[1] = rows.credits[0]
    rows.credits[2] = 1.0
    assert rank_intervals(bootstrap(rows, {OVERALL: {"a": 1.0}}, 500)[OVERALL]) == [(2, 3), (2, 3), (1, 1)]


def test_a_difference_of_nothing_has_no_p_value_below_one() -> None:
    assert two_sided(np.zeros(100)) == 1.0
    assert two_sided(np.ones(999)) == pytest.approx(0.002)


@pytest.mark.parametrize("name", available("orchestrator.benchmarks"))
def test_the_weights_of_a_rule_add_up_and_its_resamples_are_around_its_scores(name: str) -> None:
    """With subsets absent too."""
    draws = np.random.default_rng(0)
    for rule in find(name).rules.values():
        names = [subset for subset in subsets_of(rule) if subset != "Ties"] or ["x", "y", "z"]
        for _ in range(5):
            kept = [subset for subset in names if draws.random() < 0.7] or names[:1]
            judged = [row(subset, number, draws) for subset in kept for number in range(int(draws.integers(4, 9)))]
            sizes = {subset: sum(one.example.subset == subset for one in judged) for subset in kept}
            cells, scores = rule.weights(sizes), score(judged, rule)
            assert all(sum(shares.values()) == pytest.approx(1) for shares in cells.values())
            resampled = bootstrap(sample_of([judged], rule), cells, 400)
            expected = {
                OVERALL: scores.overall,
                **{s: value for s, value in scores.sections.items() if value is not None},
            }
            assert resampled.keys() == expected.keys()
            for cell, value in expected.items():
                assert resampled[cell].mean() == pytest.approx(value, abs=0.05)


def subsets_of(rule: Rule) -> list[str]:
    return list(dict.fromkeys(subset for subsets in rule.sections.values() for subset in subsets))


def row(subset: str, number: int, draws: Any) -> Judged:
    """Three chosen and three rejected responses, which any rule can read."""
    example = Example(subset, str(number), (Message("user", f"{subset} {number}"),), ("x",) * 6, 3)
    scores = tuple(map(float, draws.integers(0, 4, 6)))
    return Judged(example, scores, shared=bool(draws.integers(0, 2)))
