"""Checkpoints come from a hub before they are loaded: what is fetched, once, and what is said where it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Cli
from tests.loopback_hub import COMMIT, hub

ROW = {"prompt": "Which is it?", "chosen": "The first one.", "rejected": "The second."}


def settings(url: str, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}


def words(write_pairs: Callable[..., Path], *models: str) -> list[str]:
    data = [f"data.pairs={write_pairs([ROW])}", "benchmarks=[pairs]", "pool=local", "store=s", "output=json"]
    return [*data, *(f"+models.{name}.{key}" for name in models for key in (f"path=org/{name}", "family=scalar"))]


def footers(store: Path) -> list[dict[str, str]]:
    parts = sorted(store.glob("measurements/*/*.parquet"))
    return [json.loads(pq.read_schema(part).metadata[b"rewardsweep"])["provenance"] for part in parts]


def test_weights_are_fetched_apart_from_loading_and_once(
    cli: Cli, tmp_path: Path, checkpoint: Callable[..., Path], write_pairs: Callable[..., Path]
) -> None:
    with hub({"org/m": checkpoint("llama")}, seconds=2.0) as server:
        first = cli("run", *words(write_pairs, "m"), settings=settings(server.url, tmp_path / "hf"))
        assert first.returncode == 0, first.stderr
        (footer,) = footers(tmp_path / "cwd" / "s")
        assert float(footer["fetch_seconds"]) >= 2.0
        assert float(footer["load_seconds"]) > 0
        assert footer["compile_seconds"] == "0.000"
        assert f"snapshots/{COMMIT}" in str(next((tmp_path / "hf").rglob("model.safetensors")))
        sent = dict(server.sent)
        again = cli("run", *words(write_pairs, "m"), "store=other", settings=settings(server.url, tmp_path / "hf"))
        assert again.returncode == 0, again.stderr
        assert server.sent == sent | {name: server.sent[name] for name in server.sent if "safetensors" not in name}
    (footer,) = footers(tmp_path / "cwd" / "other")
    assert float(footer["fetch_seconds"]) < 2.0


def test_nothing_but_what_a_model_needs_is_fetched(
    cli: Cli, tmp_path: Path, checkpoint: Callable[..., Path], write_pairs: Callable[..., Path]
) -> None:
    """Pickled weights and code need the permission of the model's file."""
    from shutil import copytree

    folder = tmp_path / "m"
    copytree(checkpoint("llama"), folder)
    for name in ("pytorch_model.bin", "modeling_m.py", "README.md", "picture.png"):
        (folder / name).write_bytes(b"not wanted")
    with hub({"org/m": folder}) as server:
        done = cli("run", *words(write_pairs, "m"), settings=settings(server.url, tmp_path / "hf"))
        assert done.returncode == 0, done.stderr
        files = {name.rpartition("/")[2] for name in server.sent}
    assert files >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not files & {"pytorch_model.bin", "modeling_m.py", "README.md", "picture.png"}


def test_a_file_that_the_hub_lost_is_one_line(
    cli: Cli, tmp_path: Path, checkpoint: Callable[..., Path], write_pairs: Callable[..., Path]
) -> None:
    from shutil import copytree

    folder = tmp_path / "m"
    copytree(checkpoint("llama"), folder)
    (folder / "model.safetensors").unlink()
    with hub({"org/m": folder}) as server:
        done = cli("run", "model=[longest]", *words(write_pairs, "m"), settings=settings(server.url, tmp_path / "hf"))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "error: model 'm' is given up" in done.stderr
    assert {model["name"]: model["rows_missing"] for model in json.loads(done.stdout)["models"]} == {
        "m": 1,
        "longest": 0,
    }


@pytest.mark.parametrize("pool", ["local", "ray"])
def test_the_next_model_comes_while_one_computes(
    pool: str, cli: Cli, tmp_path: Path, checkpoint: Callable[..., Path], write_pairs: Callable[..., Path]
) -> None:
    """Weights take two seconds to send, a shard four to score: the second model waits for nothing."""
    engine = [f"+models.{name}.engine=tests.slow_engine" for name in "ab"]
    zoo = {"org/a": checkpoint("llama"), "org/b": checkpoint("gpt-neox")}
    with hub(zoo, seconds=2.0) as server:
        words_of_both = words(write_pairs, "a", "b")
        done = cli(
            "run", *words_of_both, *engine, f"pool={pool}", "workers=1", settings=settings(server.url, tmp_path / "hf")
        )
        assert done.returncode == 0, done.stderr
        assert {name for name in server.sent if "safetensors" in name} == {f"org/{m}/model.safetensors" for m in "ab"}
    found = sorted(float(footer["fetch_seconds"]) for footer in footers(tmp_path / "cwd" / "s"))
    assert found[0] < 1.0, "it was there before it was asked for"
    assert found[1] >= 2.0


@pytest.mark.parametrize("allowed", [True, False])
def test_a_branch_is_pinned_to_its_commit(
    cli: Cli, tmp_path: Path, checkpoint: Callable[..., Path], write_pairs: Callable[..., Path], allowed: bool
) -> None:
    with hub({"org/m": checkpoint("llama")}) as server:
        known = {"HF_HUB_OFFLINE": "0" if allowed else "1"}
        done = cli("plan", *words(write_pairs, "m"), settings={**settings(server.url, tmp_path / "hf"), **known})
    assert done.returncode == (0 if allowed else 2)
    assert allowed or "the hub gives no revision for it" in done.stderr
