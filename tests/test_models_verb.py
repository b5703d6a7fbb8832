"""`rewardsweep models` lists what can be named, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.paths import CONF_DIR
from tests.conftest import Cli


def listed(cli: Cli, *words: str) -> list[dict[str, Any]]:
    done = cli("models", *words, "output=json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_all_files_are_listed_and_filters_narrow(cli: Cli) -> None:
    models = listed(cli)
    assert {model["model"] for model in models} == {path.stem for path in (CONF_DIR / "model").glob("*.yaml")}
    narrow = listed(cli, "family=dpo", "max_size=3", "name=*Chat*")
    expected = [
        model
        for model in models
        if model["family"] == "dpo" and model["size"] <= 3 and "chat" in model["model"].lower()
    ]
    assert narrow == expected
    assert 0 < len(narrow) < len(models)
    small = listed(cli, "suite=small")
    assert all("small" in model["suites"].split() for model in small)
    assert len(small) == sum("small" in model["suites"].split() for model in models)


def test_a_private_folder_adds_its_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# @package models\nmine:\n  path: ./x\n  family: scalar\n")
    before = listed(cli)
    for option in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        after = listed(cli, *option)
        assert [model for model in after if model not in before] == [
            model for model in after if model["model"] == "mine"
        ]
        assert len(after) == len(before) + 1


MISTAKES = [
    (["famly=dpo"], "unknown filter 'famly': did you mean 'family'?"),
    (["family"], "family: needs a value behind it"),
    (["max_size=big"], "max_size=big: must be a number: billions of parameters"),
    (["output=yaml"], "output=yaml: must be one of text, json, csv, markdown"),
    (["--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
    (["--config-dir", "{bad}"], "{bad}/model/mine.yaml: models.mine: unknown key 'famly': did you mean 'family'?"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line(cli: Cli, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("mine:\n  famly: scalar\n")
    done = cli("models", *(word.format(bad=tmp_path) for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message.format(bad=tmp_path)}")
    assert len(done.stderr.splitlines()) == 1


def test_where_nothing_fits_it_says_so(cli: Cli) -> None:
    done = cli("models", "name=nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no model fits" in done.stderr
