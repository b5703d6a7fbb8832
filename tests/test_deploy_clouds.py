"""`deploy/clouds`: prepared and validated by Ray's own code, as `ray up` does before it asks the cloud for anything."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.deploy

CLOUDS = ("aws", "gcp")
GPUS = {"l4": ("L4", 1), "a100-40g": ("A100-40G", 8), "a100-80g": ("A100-80G", 8), "h100": ("H100", 8)}


def written(cloud: str) -> dict[str, Any]:
    text = (ROOT / "deploy" / "clouds" / f"{cloud}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@pytest.fixture(params=CLOUDS)
def prepared(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The configuration with Ray's defaults filled in, found valid against its schema before and after."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = written(request.param)
    validate_config({**config, "cluster_synced_files": []})
    filled: dict[str, Any] = prepare_config(config)
    validate_config(filled)
    return filled


def test_a_head_and_workers_from_zero_for_every_gpu(prepared: dict[str, Any]) -> None:
    types = prepared["available_node_types"]
    head = types.pop(prepared["head_node_type"])
    assert head["resources"] == {"CPU": 0}, "the driver's machine runs no model"
    assert {node["min_workers"] for node in types.values()} == {0}
    for name, (gpu, count) in GPUS.items():
        resources = types[name]["resources"]
        assert resources["GPU"] == count
        assert resources[f"accelerator_type:{gpu}"] == 1
    assert set(types) == {"cpu", *GPUS}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_workers_are_spot_and_the_head_is_not(cloud: str) -> None:
    config = written(cloud)
    for name, node in config["available_node_types"].items():
        market = node["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        model = node["node_config"].get("scheduling", {}).get("provisioningModel")
        assert {market, model} == ({None} if name == config["head_node_type"] else {None, "spot" if market else "SPOT"})


def test_the_token_travels_and_the_dashboard_does_not(prepared: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in prepared["docker"]["run_options"]
    assert prepared["file_mounts"] == {"/home/rewardsweep/.ray/auth_token": "~/.ray/auth_token"}
    (head,) = [command for command in prepared["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head


@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_key_of_a_cloud_is_in_the_file(cloud: str) -> None:
    text = (ROOT / "deploy" / "clouds" / f"{cloud}.yaml").read_text(encoding="utf-8")
    assert not [word for word in ("AWS_SECRET", "ACCESS_KEY", "private_key", "HF_TOKEN=") if word in text]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_check_itself_finds_a_mistake(cloud: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    misspelt = {**written(cloud), "idle_timeout_minuts": 5}
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(misspelt))
    wrong = copy.deepcopy(written(cloud))
    wrong["available_node_types"]["h100"]["resources"]["GPU"] = "eight"
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(wrong))
