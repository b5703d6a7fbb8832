"""Parity with the real reference implementation on the public half of RewardBench, in float32 on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.parity import difference, flips, load_rows, our_scores, reference_scores, requests
from bench.parity_dpo import our_rewards

ARCHITECTURES = ("llama", "gpt-neox", "gpt2", "bert")
STEP = int(os.environ.get("REWARDSWEEP_PARITY_STEP", "5"))
"""Every fifth pair, of all subsets; 1: all of them, which takes twenty minutes."""
DPO_STEP = max(5, STEP)
"""Never all: log-probabilities of two models cost ten times a classifier's score."""


@pytest.mark.reference
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_the_reference_and_the_conversation_alone(
    architecture: str, shared: Path, reference_venv: Path, checkpoint: Callable[..., Path]
) -> None:
    rows = load_rows(shared, STEP)
    batched, alone, _ = our_scores(checkpoint(architecture), requests(rows))
    single = reference_scores(shared, reference_venv, checkpoint(architecture), rows, batch=1)
    assert max(alone) - min(alone) > 0.1, "scores that hardly differ compare nothing"
    assert difference(batched, alone) <= 1e-5
    assert difference(alone, single) <= 1e-4
    assert flips(alone, single) == flips(batched, single) == 0


@pytest.mark.reference
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_implicit_rewards_equal_the_reference(
    architecture: str, shared: Path, reference_venv: Path, checkpoint: Callable[..., Path]
) -> None:
    """Within what float32, in which the reference adds up, can tell of sums of that size."""
    rows = load_rows(shared, DPO_STEP)
    policy, tuned_from = (checkpoint(architecture, causal=True, seed=seed) for seed in (0, 1))
    theirs = reference_scores(shared, reference_venv, policy, rows, 1, tuned_from)
    for numerics in ("exact", "fast"):
        ours = our_rewards(policy, tuned_from, rows, "reference", numerics)
        assert difference(ours.values, theirs) <= 1e-4 + 2**-22 * ours.largest_sum
        assert flips(ours.values, theirs) == 0
