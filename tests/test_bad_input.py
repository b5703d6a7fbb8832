"""What is wrong with the input is said in one line that names what, where and the remedy; nothing is written."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.refusals import ROW, files_below, nothing_written, one_line

PAIRS = ("benchmarks=[pairs]", "data.pairs={pairs}")
MINE = ("+models.mine.family=scalar",)
LONGEST = ("model=[longest]", *PAIRS)

# words of the command, what the message must hold
WORDS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "missing data file": (
        ("model=[longest]", "benchmarks=[pairs]", "data.pairs=nowhere.jsonl"),
        ["{cwd}/nowhere.jsonl", "no such file", "check the path"],
    ),
    "no data file": (("model=[longest]", "benchmarks=[pairs]"), ["benchmark pairs", "data.pairs=FILE"]),
    "all data at once": ((*LONGEST, "data=x.jsonl"), ["data=x.jsonl", "data.<benchmark>=FILE"]),
    "data is no path": (("model=[longest]", "data.pairs=3"), ["data.pairs=3", "path of a file"]),
    "data of an unknown benchmark": ((*LONGEST, "data.pirs=x.jsonl"), ["data.pirs", "did you mean 'pairs'?"]),
    "unknown subset": (
        ("model=[longest]", "benchmarks=[rewardbench]", "data.rewardbench={pairs}"),
        ["{pairs}, line 1", "unknown subset 'hep-pyton'", "did you mean 'hep-python'?", "benchmarks=[pairs]"],
    ),
    "unknown benchmark": (
        ("model=[longest]", "benchmarks=[rewardbnch]"),
        [
            "unknown benchmark 'rewardbnch'",
            "did you mean 'rewardbench'?",
            "available: demo, evalbias, judgebench, mrewardbench, pairs, ppe, rewardbench, rewardbench2, rmb, rmbench",
        ],
    ),
    "no benchmark": (("model=[longest]", "benchmarks=[]"), ["benchmarks=[]", "benchmarks=[rewardbench]"]),
    "benchmark is a path": (("model=[longest]", "benchmarks=[../pairs]"), ["benchmarks: '../pairs' is not a name"]),
    "unknown rule": ((*LONGEST, "rule=pairs-v2"), ["benchmark pairs", "rule 'pairs-v2'", "did you mean 'pairs-v1'?"]),
    "rule is a number": ((*LONGEST, "rule=1"), ["rule=1", "must be text"]),
    "no model": (PAIRS, ["model=[name,...]", "longest", "+models.mine.path=DIR"]),
    "unknown model": (
        ("model=[longets,random]", *PAIRS),
        ["unknown model 'longets'", "did you mean 'longest'?", "available: ", " more"],
    ),
    "unknown single model": (("model=longets", *PAIRS), ["unknown model 'longets'", "did you mean 'longest'?"]),
    "unknown suite": (("suite=baseline", *PAIRS), ["unknown suite 'baseline'", "did you mean 'baselines'?"]),
    "unknown model key": (
        (*LONGEST, "models.longest.dtpye=float32"),
        ["models.longest", "unknown key 'dtpye'", "did you mean 'dtype'?"],
    ),
    "model is no mapping": (("+models.mine=3", *PAIRS), ["models.mine", "path and family"]),
    "unknown family": (
        ("+models.mine.path=x", "+models.mine.family=scaler", *PAIRS),
        ["models.mine.family", "unknown family 'scaler'", "did you mean 'scalar'?"],
    ),
    "unknown engine": (
        (*LONGEST, "models.longest.engine=basline"),
        ["models.longest.engine", "unknown engine 'basline'", "did you mean 'baseline'?"],
    ),
    "missing family": (("+models.mine.path={empty}", *PAIRS), ["models.mine.family is missing", "scalar"]),
    "missing path": ((*MINE, *PAIRS), ["models.mine.path is missing", "folder, bucket or hub id"]),
    "no such checkpoint": (
        ("+models.mine.path=./nowhere", *MINE, *PAIRS),
        ["models.mine.path=./nowhere", "no such folder", "check the path"],
    ),
    "checkpoint is a file": (("+models.mine.path={pairs}", *MINE, *PAIRS), ["models.mine.path=", "give the folder"]),
    "no config.json": (("+models.mine.path={empty}", *MINE, *PAIRS), ["models.mine.path={empty}", "no config.json"]),
    "no hub": (
        ("+models.mine.path=someone/something", *MINE, *PAIRS),
        ["models.mine.path=someone/something", "offline", "models.mine.revision"],
    ),
    "no hub for the data": (
        ("model=[longest]", "benchmarks=[rewardbench]"),
        ["allenai/reward-bench", "168d848cdbbe", "data.rewardbench=FILE"],
    ),
    "bad dtype": (("models.longest.dtype=float8", *LONGEST), ["models.longest.dtype=float8", "bfloat16"]),
    "bad max_length": (("models.longest.max_length=0", *LONGEST), ["models.longest.max_length=0", "at least 1"]),
    "bad switch": (
        ("models.longest.allow_pickle='false'", *LONGEST),
        ["models.longest.allow_pickle=false", "true or false, without quotes"],
    ),
    "revision is a number": (("models.longest.revision=123", *LONGEST), ["models.longest.revision=123", "quote it"]),
    "unknown template": (
        ("+models.mine.path={config}", *MINE, "models.mine.chat_template=no-such-template", *PAIRS),
        ["models.mine.chat_template", "'no-such-template'", "available"],
    ),
    "missing template file": (
        ("+models.mine.path={config}", *MINE, "models.mine.chat_template=no.jinja", *PAIRS),
        ["models.mine.chat_template=no.jinja", "no such file"],
    ),
    "bad shard_rows": ((*LONGEST, "shard_rows=0"), ["shard_rows=0", "whole number of at least 1"]),
    "bad workers": ((*LONGEST, "workers=two"), ["workers=two", "whole number of at least 1"]),
    "bad pool": ((*LONGEST, "pool=thread"), ["pool=thread", "ray, local"]),
    "bad device": ((*LONGEST, "device=tpu"), ["device=tpu", "auto, cpu, cuda"]),
    "unknown output": ((*LONGEST, "output=xml"), ["output=xml", "text, json, csv, markdown"]),
    "jsonl is for scores": ((*LONGEST, "output=jsonl"), ["output=jsonl", "text, json, csv, markdown"]),
    "to remove is for gc": ((*LONGEST, "apply=true"), ["run: apply says what `rewardsweep gc` removes", "use gc"]),
    "to keep is for gc": ((*LONGEST, "keep_days=0"), ["run: keep_days says what `rewardsweep gc` removes"]),
    "unknown key": ((*LONGEST, "sotre=x"), ["unknown key 'sotre'", "did you mean 'store'?"]),
    "unknown added key": ((*LONGEST, "+sotre=x"), ["unknown key 'sotre'", "did you mean 'store'?"]),
    "unknown nested key": ((*LONGEST, "ray.adress=x"), ["unknown key 'ray.adress'", "did you mean 'ray.address'?"]),
    "unknown added nested key": ((*LONGEST, "+ray.adress=x"), ["'ray.adress'", "did you mean 'ray.address'?"]),
    "removed key": ((*LONGEST, "~shard_rows"), ["shard_rows is missing"]),
    "ray is no mapping": ((*LONGEST, "ray=x"), ["ray=x", "keys and values"]),
    "unquoted list": (("model=[longest,", "random]"), ["model=[longest,", "no valid override", "quote lists"]),
    "word without a value": ((*LONGEST, "suite"), ["suite", "no valid override", "key=value"]),
    "unknown option": ((*LONGEST, "--frobnicate"), ["unknown option '--frobnicate'", "--config-dir"]),
    "option without a value": ((*LONGEST, "--config-dir"), ["--config-dir", "needs a value"]),
    "missing configuration folder": (
        (*LONGEST, "--config-dir", "nowhere"),
        ["Additional config directory", "{cwd}/nowhere", "not found"],
    ),
    "store below a file": ((*LONGEST, "store={pairs}/store"), ["store={pairs}/store", "Not a directory"]),
    "store of an unknown kind": ((*LONGEST, "store=nope://x"), ["store=nope://x", "give a folder"]),
    "store in no place": ((*LONGEST, "store="), ["store=", "must be a folder or a URI"]),
    "relative store on a cluster": (
        (*LONGEST, "pool=ray", "ray.address=127.0.0.1:6379", "store=here"),
        ["store=here", "ray.address", "absolute path"],
    ),
    "ray.address is no address": (
        (*LONGEST, "pool=ray", "ray.address=somewhere"),
        ["ray.address=somewhere", "not an address", "host:port"],
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_bad_word_is_named_with_the_remedy(
    cli: Cli, tmp_path: Path, write_pairs: Callable[..., Path], name: str
) -> None:
    words, parts = WORDS[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text("{}")
    places = {
        "pairs": write_pairs([{**ROW, "subset": "hep-pyton"}]),
        "empty": tmp_path / "empty",
        "config": tmp_path / "config",
        "cwd": tmp_path / "cwd",
    }
    written = [word.format(**places) for word in words]
    line = one_line(cli("run", "pool=local", f"store={tmp_path / 'store'}", *written))
    for part in parts:
        assert part.format(**places) in line
    nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["rnu"], ["unknown verb 'rnu'", "did you mean 'run'?"]),
        (["plan", "-m", "suite=baselines"], ["plan: -m", "rewardsweep run"]),
        (["leaderboard", "store=nowhere"], ["store={cwd}/nowhere", "no store there", "rewardsweep run"]),
        (["scores", "store=nowhere"], ["store={cwd}/nowhere", "no store there", "rewardsweep run"]),
        (["status", "store=nowhere"], ["store={cwd}/nowhere", "no store there", "rewardsweep run"]),
        (["verify", "store=nowhere"], ["store={cwd}/nowhere", "no store there", "rewardsweep run"]),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_other_verbs_refuse_in_one_line(cli: Cli, tmp_path: Path, words: list[str], parts: list[str]) -> None:
    line = one_line(cli(*words))
    for part in parts:
        assert part.format(cwd=tmp_path / "cwd") in line
    nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["leaderboard", "model=[random]"], ["'random'", "available: longest, shortest", "run it first"]),
        (["scores", "model=[random]"], ["'random'", "available: longest, shortest", "run it first"]),
        (["leaderboard", "benchmarks=[demo]"], ["unknown benchmark 'demo'", "available: pairs", "run it first"]),
        (["leaderboard", "rule=pairs-v0"], ["unknown rule 'pairs-v0'", "did you mean 'pairs-v1'?"]),
    ],
    ids=["model", "scores of a model", "benchmark", "rule"],
)
def test_what_was_never_run_is_refused_and_the_store_stays_as_it_is(
    cli: Cli, tmp_path: Path, write_pairs: Callable[..., Path], words: list[str], parts: list[str]
) -> None:
    store = tmp_path / "store"
    run = ["run", "model=[longest,shortest]", "pool=local", "benchmarks=[pairs]", f"data.pairs={write_pairs([ROW])}"]
    assert cli(*run, f"store={store}").returncode == 0
    before = files_below(store)
    line = one_line(cli(*words, f"store={store}"))
    for part in parts:
        assert part in line
    assert files_below(store) == before


@pytest.fixture
def port() -> Iterator[int]:
    """A port where something listens that never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_ray_address_where_nothing_listens_is_refused_at_once(
    cli: Cli, tmp_path: Path, write_pairs: Callable[..., Path], device: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    words = ["run", "model=[longest]", "benchmarks=[pairs]", f"data.pairs={write_pairs([ROW])}", f"device={device}"]
    line = one_line(cli(*words, f"ray.address={address}", f"store={tmp_path / 'store'}"))
    for part in [f"ray.address={address}", "does not answer", "leave ray.address empty"]:
        assert part in line
    nothing_written(tmp_path)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_ray_address_that_is_not_ray_is_refused_within_a_minute(
    cli: Cli, tmp_path: Path, write_pairs: Callable[..., Path], port: int, scheme: str
) -> None:
    address = f"{scheme}127.0.0.1:{port}"
    words = ["run", "model=[longest]", "benchmarks=[pairs]", f"data.pairs={write_pairs([ROW])}"]
    started = time.monotonic()
    line = one_line(cli(*words, f"ray.address={address}", f"store={tmp_path / 'store'}", timeout=110))
    assert time.monotonic() - started < 60
    assert f"ray.address={address}" in line
    nothing_written(tmp_path)
