"""Which engine serves a model: named, or chosen with a reason that `plan` shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import choose
from orchestrator.choose import engine_of
from tests.conftest import Cli
from workers.errors import InputError

CHOICES: list[tuple[dict[str, Any], bool, bool, str, str]] = [
    ({"family": "scalar"}, True, True, "transformers", "compared with the reference"),
    ({"family": "scalar", "engine": "auto"}, False, False, "transformers", "compared with the reference"),
    ({"family": "scalar", "engine": "vllm"}, False, False, "vllm", "named in the model's file"),
    ({"family": "dpo", "gpus": 4}, True, True, "vllm", "4 GPUs: tensor parallel"),
    ({"family": "dpo", "gpus": 4}, False, True, "transformers", "compared with the reference"),
    ({"family": "judge"}, True, True, "vllm", "many answers at a time"),
    ({"family": "judge"}, True, False, "transformers", "vLLM is not installed"),
    ({"family": "judge"}, False, True, "transformers", "no GPU"),
    ({"family": "baseline"}, True, True, "baseline", "the engine of family baseline"),
]


@pytest.mark.parametrize(("entry", "cuda", "installed", "engine", "reason"), CHOICES)
def test_the_engine_is_chosen_for_a_reason(
    monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], cuda: bool, installed: bool, engine: str, reason: str
) -> None:
    monkeypatch.setattr(choose, "is_installed", lambda name: installed)
    found = engine_of("m", entry, cuda)
    assert found[0] == engine
    assert reason in found[1]


@pytest.mark.parametrize(("family", "remedy"), [("scalar", "install rewardsweep[vllm]"), ("pairrm", "set it to 1")])
def test_several_gpus_need_vllm(monkeypatch: pytest.MonkeyPatch, family: str, remedy: str) -> None:
    monkeypatch.setattr(choose, "is_installed", lambda name: False)
    with pytest.raises(
        InputError, match=rf"models\.m\.gpus=2: only vLLM .*{remedy.replace('[', '.').replace(']', '.')}"
    ):
        engine_of("m", {"family": family, "gpus": 2}, True)


def test_the_plan_shows_the_reason(cli: Cli, tmp_path: Path) -> None:
    done = cli("plan", "model=[longest]", "benchmarks=[demo]", "output=json", f"store={tmp_path / 's'}")
    (stream,) = json.loads(done.stdout)["streams"]
    assert (stream["engine"], stream["engine_reason"]) == ("baseline", "the engine of family baseline")
