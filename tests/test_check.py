"""`rewardsweep check`: a model's author sees what the model sees, and whether its scores hold still."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli

HERE = ("device=cpu", "benchmarks=[demo]")


def report(cli: Cli, *words: str, code: int = 0) -> dict[str, Any]:
    done = cli("check", *words, *HERE, "output=json")
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def mine(path: Path, family: str = "scalar") -> tuple[str, ...]:
    return (f"+models.mine.path={path}", f"+models.mine.family={family}")


def test_a_sound_model_passes_and_its_texts_show_special_tokens(cli: Cli, checkpoint: Callable[..., Path]) -> None:
    found = report(cli, *mine(checkpoint("llama")))
    assert len(found["rows"]) == 10
    assert all(len(row["texts"]) == 2 for row in found["rows"])
    assert all(
        text.startswith("<s><|user|>") and text.endswith("</s>") for row in found["rows"] for text in row["texts"]
    )
    assert [finding["check"] for finding in found["findings"]] == ["double-bos"]
    (comparison,) = found["comparisons"]
    assert comparison["what"] == "transformers: alone and in one batch"
    assert (comparison["rows"], comparison["flips"], comparison["passed"]) == (10, 0, True)
    assert 0 < comparison["largest_difference"] <= 1e-5, "0 would mean that nothing was padded"
    text = cli("check", *mine(checkpoint("llama")), *HERE).stdout
    assert "<s><|user|>" in text
    assert "alone and in one batch" in text


def test_policy_and_reference_are_checked_together(cli: Cli, checkpoint: Callable[..., Path]) -> None:
    policy, reference = (checkpoint("llama", causal=True, seed=seed) for seed in (0, 1))
    found = report(cli, *mine(policy, "dpo"), f"+models.mine.reference={reference}")
    (comparison,) = found["comparisons"]
    assert comparison["passed"]
    assert 0 < comparison["largest_difference"] <= 1e-5, "nats a token"


def test_a_score_that_moves_with_its_batch_fails(cli: Cli) -> None:
    found = report(cli, "+models.mine.family=baseline", "+models.mine.engine=tests.batchy_engine", code=1)
    (comparison,) = found["comparisons"]
    assert not comparison["passed"]
    assert comparison["flips"] > 0
    assert comparison["largest_difference"] > 1


def test_an_error_of_the_preflight_fails_before_weights_are_loaded(
    cli: Cli, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "lossy.jinja").write_text("{{ messages[0]['content'] }}")
    found = report(cli, *mine(checkpoint("llama")), f"+models.mine.chat_template={tmp_path}/lossy.jinja", code=1)
    assert [finding["check"] for finding in found["findings"] if finding["severity"] == "error"] == ["lost-text"]
    assert found["comparisons"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model=[longest,random]",), "check: give one model"),
        ((), "check: give one model"),
        (("model=[longest]", "data.pairs=nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, words: tuple[str, ...], message: str) -> None:
    done = cli("check", *words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert message in done.stderr


def test_the_wrong_family_is_one_line(cli: Cli, checkpoint: Callable[..., Path]) -> None:
    done = cli("check", *mine(checkpoint("llama", causal=True)), *HERE)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "is a LlamaForCausalLM, not a reward model" in done.stderr
