"""A multirun is one sweep: its jobs share scores, end in one table, and a mistake in one of them starts none."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import variants
from orchestrator.multirun import swept, title
from orchestrator.stores import open_store
from orchestrator.stores.parts import read_part
from tests.conftest import Cli
from workers import plugins
from workers.protocol import Model, ModelSpec

WritePairs = Callable[..., Path]


def some_rows(count: int) -> list[dict[str, str]]:
    return [
        {
            "prompt": f"question {row}",
            "chosen": f"answer {row} {'x' * (row % 3)}",
            "rejected": f"reply {row} {'y' * (row % 5)}",
        }
        for row in range(count)
    ]


def parts(store: Path) -> tuple[int, int]:
    """Rows in all parts, and rows that are there twice."""
    found = open_store(str(store))
    keys = [row.key for path in found.list("measurements") for row in read_part(found.load(path) or b"", path)[0]]
    return len(keys), len(keys) - len(set(keys))


def words(data: Path, store: Path, *more: str) -> list[str]:
    return ["run", "-m", *more, "benchmarks=[pairs]", f"data.pairs={data}", "pool=local", f"store={store}"]


def test_variants_of_a_model_run_as_one_sweep_and_share_what_is_common(
    cli: Cli, tmp_path: Path, write_pairs: WritePairs, checkpoint: Callable[..., Path]
) -> None:
    store = tmp_path / "s"
    tiny = [f"+models.tiny.path={checkpoint('llama')}", "+models.tiny.family=scalar"]
    done = cli(
        *words(write_pairs(some_rows(12)), store, "model=[longest]", *tiny),
        "+models.tiny.max_length=8,64,64",
        "output=json",
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    accounts = [job["account"] for job in told["jobs"]]
    assert [job["overrides"] for job in told["jobs"]] == [[f"+models.tiny.max_length={n}"] for n in (8, 64, 64)]
    assert [account["asked"] for account in accounts] == [48, 48, 48]
    assert [account["scored"] for account in accounts] == [48, 24, 0], "longest once, tiny once for each length"
    assert [account["reused"] for account in accounts] == [0, 24, 48]
    assert parts(store) == (72, 0)
    [table] = told["comparisons"]
    found = {row["model"]: row for row in table["variants"]}
    assert {name: row["jobs"] for name, row in found.items()} == {
        "longest": [1, 2, 3],
        "tiny+max_length-8": [1],
        "tiny+max_length-64": [2, 3],
    }
    for row in found.values():
        assert row["rows_missing"] == 0
        assert row["difference"] is None or row["difference"] == pytest.approx(
            row["overall"] - found["longest"]["overall"]
        )
    assert len({job["run"].partition(".")[0] for job in told["jobs"]}) == 1
    status = json.loads(cli("status", f"store={store}", "output=json").stdout)
    runs = status["runs"]
    assert [run["account"] for run in runs] == accounts
    said = [line.partition(": predicted ")[0] for line in done.stderr.splitlines() if ": predicted " in line]
    assert said == ["tiny+max_length-8", "tiny+max_length-64", "the sweep"]
    [compared] = status["prediction"]
    assert compared["model"] == "tiny+max_length-64"
    assert compared["measured"]["tokens"] > 0 < compared["predicted"]["seconds"]
    assert [run["state"] for run in runs] == ["done"] * 3
    board = json.loads(cli("leaderboard", f"store={store}", "output=json").stdout)
    assert {entry["name"]: entry["overall"] for entry in board["models"]} == {
        n: row["overall"] for n, row in found.items()
    }
    alone = cli(
        *words(write_pairs(some_rows(12)), store, *tiny)[:1],
        *tiny,
        "+models.tiny.max_length=64",
        "benchmarks=[pairs]",
        f"data.pairs={write_pairs(some_rows(12))}",
        "pool=local",
        f"store={store}",
    )
    assert "nothing to score: all 24 measurements are in the store" in alone.stderr


def test_jobs_may_ask_for_other_benchmarks_and_rows(cli: Cli, tmp_path: Path, write_pairs: WritePairs) -> None:
    few, many = write_pairs(some_rows(4), "few.jsonl"), write_pairs(some_rows(10), "many.jsonl")
    done = cli(
        "run",
        "-m",
        "model=[longest]",
        "benchmarks=[pairs]",
        f"data.pairs={few},{many}",
        "pool=local",
        "store=s",
        "output=json",
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [job["account"]["asked"] for job in told["jobs"]] == [8, 20]
    assert [job["account"]["scored"] for job in told["jobs"]] == [8, 12]
    assert [job["account"]["reused"] for job in told["jobs"]] == [0, 8]
    assert len(told["comparisons"]) == 2
    assert parts(tmp_path / "cwd" / "s") == (20, 0)


@pytest.mark.parametrize(
    ("swept_words", "parts_of_line"),
    [
        (["model=[longest],[lngest]"], ["job 2 (model=[lngest])", "unknown model 'lngest': did you mean 'longest'?"]),
        (["model=[longest]", "rule=pairs-v1,pairs-v0"], ["job 2 (rule=pairs-v0)", "unknown rule 'pairs-v0'"]),
        (["model=[longest]", "models.longest.famly=a,b"], ["job 1 (models.longest.famly=a)", "famly"]),
        (["model=[longest]", "pool=local,loc"], ["job 2 (pool=loc)", "must be one of ray, local"]),
        (["model=[longest]", "shard_rows=1,2"], ["job 2 (shard_rows=2)", "share one shard_rows"]),
    ],
)
def test_a_mistake_in_one_job_is_a_line_that_names_it_and_starts_none(
    cli: Cli, tmp_path: Path, write_pairs: WritePairs, swept_words: list[str], parts_of_line: list[str]
) -> None:
    base = ["benchmarks=[pairs]", f"data.pairs={write_pairs(some_rows(3))}", f"store={tmp_path / 's'}"]
    pool = [] if any(word.startswith("pool=") for word in swept_words) else ["pool=local"]
    done = cli("run", "-m", *swept_words, *base, *pool)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for part in ("error: ", *parts_of_line):
        assert part in lines[0]
    assert not (tmp_path / "s").exists()


def test_a_model_that_fails_fails_its_job_alone(cli: Cli, tmp_path: Path, write_pairs: WritePairs) -> None:
    refusing = ["+models.odd.family=baseline", "+models.odd.options.score=longest,nonsense"]
    done = cli(*words(write_pairs(some_rows(3)), tmp_path / "s", *refusing), "output=json")
    assert done.returncode == 1, done.stderr
    sound, broken = json.loads(done.stdout)["jobs"]
    assert (sound["account"]["scored"], sound["failures"]) == (6, [])
    assert broken["account"]["failed"] == broken["account"]["asked"] == 6
    assert "nonsense" in broken["failures"][0]["reason"]


def test_every_output_shows_the_same_table(cli: Cli, tmp_path: Path, write_pairs: WritePairs) -> None:
    base = words(write_pairs(some_rows(9)), tmp_path / "s", "model=[random]", "models.random.options.seed=1,2")
    found = json.loads(cli(*base, "output=json").stdout)["comparisons"][0]["variants"]
    rows = list(csv.DictReader(io.StringIO(cli(*base, "output=csv").stdout)))
    assert [(row["model"], float(row["overall"])) for row in rows] == [(one["model"], one["overall"]) for one in found]
    text, markdown = cli(*base).stdout, cli(*base, "output=markdown").stdout
    for one in found:
        assert one["model"] in text
        assert one["model"] in markdown
    assert "each variant, and its difference to random+options.seed-1" in text
    refused = cli(*base, "output=latex")
    assert (refused.returncode, "text, json, csv or markdown" in refused.stderr) == (2, True)


def model(name: str, weights: str) -> Model:
    return Model(name, "scalar", (ModelSpec(name, "p", weights, "scalar", "1", "transformers", "1", ()),))


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.lists(st.text(max_size=30), max_size=2)),
        min_size=1,
        max_size=8,
    )
)
def test_names_are_sound_and_tell_models_apart(jobs: list[tuple[str, str, list[str]]]) -> None:
    models = [[model(name, weights)] for name, weights, _ in jobs]
    said = [[f"models.{name}.key={value}" for value in values] for name, _, values in jobs]
    found = [mine[0] for mine in variants.names(models, said)]
    assert all(plugins.is_name(name) for name in found)
    by_name: dict[str, set[tuple[str, str]]] = {}
    for name, (own, weights, _) in zip(found, jobs, strict=True):
        by_name.setdefault(name, set()).add((own, weights))
    assert all(len(meant) == 1 for meant in by_name.values())
    assert len(by_name) == len({(own, weights) for own, weights, _ in jobs})


def test_names_say_what_was_swept() -> None:
    found = variants.names(
        [[model("x", "1"), model("y", "1")], [model("x", "2"), model("y", "1")], [model("x", "1"), model("y", "1")]],
        [["models.x.dtype=float16", "rule=a"], ["models.x.dtype=bfloat16", "models.y.z=1"], ["models.x.dtype=f"]],
    )
    assert found == [["x+dtype-float16+rule-a", "y"], ["x+dtype-bfloat16", "y"], ["x+dtype-float16+rule-a", "y"]]
    pair = Model("d", "dpo", (model("d", "1").streams[0], model("d.reference", "2").streams[0]))
    assert [spec.name for spec in variants.renamed(pair, "d+k-1").streams] == ["d+k-1", "d+k-1.reference"]


def test_only_what_differs_is_said_of_a_job() -> None:
    said: list[Any] = [["++verb=run", "a=1", "+b=2"], ["++verb=run", "a=1", "+b=3"]]
    assert swept(said) == [("+b=2",), ("+b=3",)]
    assert title(2, swept(said)[1]) == "job 2 (b=3)"


@pytest.mark.ray
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers need two CPUs")
def test_jobs_run_at_the_same_time_on_one_cluster(cli: Cli, tmp_path: Path, write_pairs: WritePairs) -> None:
    slow = [
        "+models.slow.family=baseline",
        "+models.slow.engine=tests.sleepy_engine",
        "+models.slow.options.seconds=0.8,0.9",
    ]
    base = ["benchmarks=[pairs]", f"data.pairs={write_pairs(some_rows(10))}", f"store={tmp_path / 's'}", "shard_rows=4"]
    done = cli("run", "-m", *slow, *base, "output=json")
    assert done.returncode == 0, done.stderr
    assert [job["account"]["scored"] for job in json.loads(done.stdout)["jobs"]] == [20, 20]
    bars = json.loads(cli("timeline", f"store={tmp_path / 's'}", "output=json").stdout)
    spans = {
        name: [bar for bar in bars if bar["model"] == name and bar["doing"] == "score"]
        for name in {b["model"] for b in bars}
    }
    assert len(spans) == 2
    one, other = spans.values()
    assert any(a["start"] < b["end"] and b["start"] < a["end"] for a in one for b in other)
