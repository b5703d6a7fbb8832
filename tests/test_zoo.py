"""Every model file and suite that ships: valid, named after its file, described once, true to the reference list."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.paths import CONF_DIR
from orchestrator.pin import check_entry
from tests.conftest import Cli
from tests.test_verdicts import MODIFIERS
from workers import plugins
from workers.endpoints import PRESETS

FILES = sorted((CONF_DIR / "model").glob("*.yaml"))
SUITES = sorted((CONF_DIR / "suite").glob("*.yaml"))
CARD = 35
"""Billions of parameters: what one 80 GB card holds in 16 bits."""


def entry(path: Path) -> dict[str, Any]:
    """What a model's file adds under `models`."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# @package models\n")
    (name, values), *others = yaml.safe_load(text).items()
    assert (name, others) == (path.stem, [])
    assert isinstance(values, dict)
    return values


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_model_file_is_valid(path: Path) -> None:
    check_entry(path.stem, entry(path))
    assert "." not in path.stem, "models.NAME.key=value on the command line splits at dots"


def test_nothing_is_described_twice() -> None:
    described = Counter(str(sorted((key, str(value)) for key, value in entry(path).items())) for path in FILES)
    assert max(described.values()) == 1
    checkpoints = Counter((entry(path).get("path"), entry(path).get("reference")) for path in FILES)
    del checkpoints[(None, None)]  # null baselines have no weights
    assert max(checkpoints.values()) == 1


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_suite_names_models_that_ship(path: Path) -> None:
    suite = yaml.safe_load(path.read_text(encoding="utf-8"))
    (names,) = [default["override /model"] for default in suite["defaults"]]
    assert not set(names) - {file.stem for file in FILES}
    assert len(set(names)) == len(names)


def test_suites_hold_what_they_say() -> None:
    suites = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"][0] for path in SUITES}
    named = {name: set(default["override /model"]) for name, default in suites.items()}
    entries = {path.stem: entry(path) for path in FILES}
    published = {name for name, values in entries.items() if values["family"] != "baseline"}
    kinds = {name: plugins.resolve("workers.families", entries[name]["family"]).KIND for name in published}
    assert named["all"] == published
    assert named["classifiers"] == {name for name in published if kinds[name] in ("reward", "preference")}
    assert named["judges"] == {name for name in published if kinds[name] == "generate"}
    assert named["dpo"] == {name for name in published if kinds[name] == "logprob"}
    assert named["small"] == {
        name
        for name in published - named["judges"]
        if entries[name].get("size", 99) <= 9 and not entries[name].get("trust_remote_code", False)
    }
    assert named["rewardbench-v1"] < named["all"]
    assert not {name for name in named["rewardbench-v1"] if "Llama-3_1" in name}, "of a later year"


def test_the_files_agree_with_the_references_list(shared: Path) -> None:
    """Every classifier and implicit reward of the list, with its facts; one entry of it is not a public model."""
    models = yaml.safe_load((shared / "reference" / "models.yaml").read_text(encoding="utf-8"))["models"]
    wanted = {model["id"]: model for model in models if not model["custom_family"].startswith("judge")}
    del wanted["allenai/open_instruct_dev"]
    ours = {
        values["path"]: values
        for values in map(entry, FILES)
        if values["family"] not in ("judge", "baseline", "nemotron")
    }
    assert ours.keys() == wanted.keys()
    general = {"default": "scalar", "default_remote_code": "scalar", "dpo_mixtral": "dpo"}
    for path, values in ours.items():
        facts = wanted[path]
        assert values["family"] == general.get(facts["custom_family"], facts["custom_family"])
        assert values.get("reference") == facts["ref_model"]
        assert values["size"] == facts["params_billion"]
        assert values.get("fallback_template") == facts["chat_template"]
        if values["family"] in ("scalar", "dpo"):  # the reference's classes of other heads have settings of their own
            assert values.get("dtype") == facts["torch_dtype"]
            assert values.get("attention") == facts["attn_implementation"]
        assert values.get("gpus", 1) * CARD >= values["size"], "16 bits a parameter on 80 GB cards"
        if not values.get("trust_remote_code", False):
            assert not facts["trust_remote_code"] or values["family"] != "scalar"


def test_local_judges_agree_with_the_references_list(shared: Path) -> None:
    """Every judge with weights of its own, asked in the words that the reference chooses by its name."""
    listed = yaml.safe_load((shared / "reference" / "models.yaml").read_text(encoding="utf-8"))
    ours = {values["path"]: values for values in map(entry, FILES) if values["family"] == "judge" and "path" in values}
    wanted = {model["id"]: model for model in listed["models"] if model["custom_family"] == "judge_vllm"}
    assert wanted.keys() <= ours.keys()
    for path, facts in wanted.items():
        assert ours[path]["size"] == facts["params_billion"]
        assert ours[path].get("gpus", 1) == facts["num_gpus"]
    families = {family["modifier"]: family["matches"] for family in listed["judge_families"] if family["modifier"]}
    for path, values in ours.items():
        modifier = next((modifier for modifier, part in families.items() if part in path), None)
        assert MODIFIERS[values.get("scoring", {}).get("prompt", "mtbench")] == modifier


def test_api_judges_agree_with_the_references_list(shared: Path) -> None:
    """All of them, each at its provider; addresses and keys stand in one place."""
    listed = yaml.safe_load((shared / "reference" / "models.yaml").read_text(encoding="utf-8"))["models"]
    wanted = {model["id"]: model["provider"] for model in listed if model["custom_family"] == "judge_api"}
    ours = {values["path"]: values["endpoint"] for values in map(entry, FILES) if values.get("engine") == "openai"}
    assert ours == wanted
    assert set(ours.values()) == PRESETS.keys()


def test_a_shipped_name_is_found_and_the_hub_asked_for_it(cli: Cli) -> None:
    """Offline, the one thing that is missing is the hub: one line, and no traceback."""
    done = cli("plan", "model=[zephyr-7b-beta]", "benchmarks=[demo]")
    assert done.returncode == 2
    assert "models.zephyr-7b-beta.path=HuggingFaceH4/zephyr-7b-beta" in done.stderr
    assert "Traceback" not in done.stderr
