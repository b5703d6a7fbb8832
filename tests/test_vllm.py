"""vLLM gives the scores of transformers, from the same tokens, inside Ray actors and without one."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.benchmarks import find
from tests.conftest import ROOT, SHARED
from workers import plugins, tiny_judge, tiny_zoo
from workers.errors import ModelError
from workers.protocol import Kind, Message, ModelSpec, Output, Request

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make test-vllm)"),
]

TOLERANCE = 1e-3
"""Of a reward, and of a log-probability in nats a token."""
STEP = 7
HEAD = 32
SERVER_SECONDS = 180
MARK = "REWARDSWEEP_TEST_MARK"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, a policy and its reference, wide enough for vLLM's attention on a CPU."""
    folder = tmp_path_factory.mktemp("vllm-zoo")
    tiny_zoo.build(folder / "reward", "llama", head_size=HEAD)
    for seed, name in enumerate(("policy", "reference")):
        tiny_zoo.build(folder / name, "llama", head_size=HEAD, causal=True, seed=seed)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every seventh row of the public half of RewardBench, 214 pairs; the shipped pairs where it is absent."""
    path = tmp_path_factory.mktemp("vllm-data") / "pairs.jsonl"
    half = SHARED / "data" / "rewardbench_filtered.jsonl.gz"
    if half.exists():
        with gzip.open(half, "rt", encoding="utf-8") as rows:
            path.write_text("".join(list(rows)[::STEP]), encoding="utf-8")
    else:
        examples = find("demo").load(None)
        rows = [
            {"prompt": row.prompt[0].content, "chosen": row.responses[0], "rejected": row.responses[1]}
            for row in examples
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def spec(path: Path, family: str, engine: str, **options: Any) -> ModelSpec:
    return ModelSpec("m", str(path), "w", family, "1", engine, "1", (), **options)


def outputs(model: ModelSpec, requests: list[Request]) -> list[Output]:
    engine = plugins.resolve("workers.engines", model.engine).load(model)
    try:
        found: list[Output] = engine.run(requests)
        assert engine.details()["dtype"] == "float32"
    finally:
        engine.close()
    return found


def requests(pairs: Path, kind: Kind, count: int) -> list[Request]:
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()][:count]
    prompts = [(Message("user", row["prompt"]),) for row in rows]
    if kind == "generate":
        return [Request(kind, prompt, ()) for prompt in prompts]
    return [
        Request(kind, prompt, (row[which],))
        for prompt, row in zip(prompts, rows, strict=True)
        for which in ("chosen", "rejected")
    ]


def test_log_probabilities_agree_a_token(zoo: Path, pairs: Path) -> None:
    asked = requests(pairs, "logprob", 40)
    ours, theirs = (outputs(spec(zoo / "policy", "dpo", engine), asked) for engine in ("transformers", "vllm"))
    assert [(row.token_hash, row.num_tokens, row.truncated) for row in ours] == [
        (row.token_hash, row.num_tokens, row.truncated) for row in theirs
    ]
    for one, other in zip(ours, theirs, strict=True):
        tokens = one.extra["tokens"]
        assert tokens == other.extra["tokens"] > 0
        assert abs(one.value - other.value) / tokens <= TOLERANCE
        assert one.extra["squares"] == pytest.approx(other.extra["squares"], rel=TOLERANCE)
    assert not children(), "nothing of vLLM stays behind"


@pytest.mark.parametrize("limit", [None, 64])
def test_a_conversation_may_fill_the_context(zoo: Path, limit: int | None) -> None:
    """vLLM scores a prompt only where one more token would fit; that one is never read."""
    long = Request("logprob", (Message("user", "word " * 50),), ("value " * 200,))
    ours, theirs = (
        outputs(spec(zoo / "policy", "dpo", engine, max_length=limit), [long]) for engine in ("transformers", "vllm")
    )
    assert theirs[0].truncated == (limit is not None)
    assert theirs[0].value == pytest.approx(ours[0].value, rel=1e-5)


def test_the_reward_is_read_before_trailing_pad_tokens(zoo: Path, tmp_path: Path) -> None:
    """As transformers reads it where the pad token is EOS."""
    folder = tmp_path / "eos-is-pad"
    folder.mkdir()
    for file in (zoo / "reward").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": config["eos_token_id"]}))
    asked = [Request("reward", (Message("user", "q"),), (text,)) for text in ("an answer", "a longer answer")]
    ours, theirs = (outputs(spec(folder, "scalar", engine), asked) for engine in ("transformers", "vllm"))
    for one, other in zip(ours, theirs, strict=True):
        assert other.value == pytest.approx(one.value, abs=TOLERANCE)


def test_two_processes_of_a_tensor_parallel_group_give_the_scores_of_one(zoo: Path, pairs: Path) -> None:
    """`gpus` is the size of the group; on a CPU its members are processes, and none stays behind."""
    asked = requests(pairs, "reward", 8)
    ours, theirs = (outputs(spec(zoo / "reward", "scalar", "vllm", gpus=gpus), asked) for gpus in (0, 2))
    assert [row.value for row in theirs] == pytest.approx([row.value for row in ours], abs=TOLERANCE)
    assert len({row.value for row in ours}) > 1
    assert not [child for child in children() if "resource_tracker" not in child], "nothing but Python's own helper"


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the family of classifiers one that asks for text, so that an engine can be tested without a judge."""
    monkeypatch.setattr(plugins.resolve("workers.families", "scalar"), "KIND", "generate")


def test_greedy_text_is_the_same(zoo: Path, pairs: Path, writes: None) -> None:
    asked = requests(pairs, "generate", 6)
    options = {"max_new_tokens": 12}
    ours, theirs = (
        outputs(spec(zoo / "policy", "scalar", engine, options=options), asked) for engine in ("transformers", "vllm")
    )
    assert [row.text for row in ours] == [row.text for row in theirs]
    assert len({row.text for row in theirs}) > 1
    assert all(row.extra["completion_tokens"] == 12 for row in theirs)


def test_a_sampled_text_depends_on_its_own_seed_alone(zoo: Path, pairs: Path, writes: None) -> None:
    asked = requests(pairs, "generate", 4)
    warm = spec(zoo / "policy", "scalar", "vllm", options={"max_new_tokens": 8, "temperature": 1.0})
    engine = plugins.resolve("workers.engines", "vllm").load(warm)
    try:
        together = [row.text for row in engine.run(asked)]
        assert [engine.run([request])[0].text for request in asked] == together
        assert [row.text for row in engine.run(asked[::-1])] == together[::-1]
    finally:
        engine.close()


def test_operations_are_counted_by_the_formula(zoo: Path, pairs: Path) -> None:
    """As transformers counts them for the same conversations alone, which shares nothing either."""
    for family, path, kind in (("scalar", "reward", "reward"), ("dpo", "policy", "logprob")):
        asked = requests(pairs, kind, 4)
        facts = []
        for engine, options in (("transformers", {"numerics": "exact"}), ("vllm", {})):
            loaded = plugins.resolve("workers.engines", engine).load(spec(zoo / path, family, engine, **options))
            try:
                loaded.run(asked)
                facts.append(loaded.details())
            finally:
                loaded.close()
        ours, theirs = facts
        same = ("flops", "computed_tokens", "distinct_tokens", "parameters", "device")
        assert {name: theirs[name] for name in same} == {name: ours[name] for name in same}
        assert float(theirs["compile_seconds"]) >= 0


def test_what_the_prefix_cache_had_is_not_counted(zoo: Path, writes: None) -> None:
    """The cache keeps whole blocks, of 128 tokens on a CPU."""
    asked = [Request("generate", (Message("user", "Which of them is it? " * 60),), ())]
    engine = plugins.resolve("workers.engines", "vllm").load(
        spec(zoo / "policy", "scalar", "vllm", options={"max_new_tokens": 5})
    )
    try:
        (first,), whole = engine.run(asked), engine.details()
        (again,), less = engine.run(asked), engine.details()
    finally:
        engine.close()
    assert again.text == first.text
    assert (whole["cached_tokens"], whole["written_tokens"]) == ("0", "5")
    assert int(whole["computed_tokens"]) == first.num_tokens + 4
    assert int(less["cached_tokens"]) > 0
    assert int(less["computed_tokens"]) + int(less["cached_tokens"]) == int(whole["computed_tokens"])
    assert 0 < int(less["flops"]) < int(whole["flops"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lable": 0}, "models.m.options: unknown key 'lable': did you mean 'label'?"),
        ({"gpu_memory_utilization": 2}, "models.m.options.gpu_memory_utilization=2: must be above 0"),
        ({"batch_invariant": "yes"}, "models.m.options.batch_invariant: must be true or false"),
    ],
)
def test_a_wrong_option_is_named(zoo: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        plugins.resolve("workers.engines", "vllm").load(spec(zoo / "reward", "scalar", "vllm", options=options))
    assert message in str(error.value)


def test_an_architecture_that_vllm_does_not_know_is_one_line(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = checkpoint("deberta-v2")
    with pytest.raises(ModelError, match=r"vLLM cannot load .*") as error:
        plugins.resolve("workers.engines", "vllm").load(spec(folder, "scalar", "vllm"))
    assert len(str(error.value).splitlines()) == 1


def test_inside_ray_actors_the_leaderboard_is_the_same(zoo: Path, pairs: Path, tmp_path: Path) -> None:
    """Rewards and implicit rewards of both engines in one run: differences, verdicts, and no process left."""
    words = ["run", "benchmarks=[pairs]", f"data.pairs={pairs}", f"store={tmp_path / 's'}", "device=cpu", "workers=1"]
    for engine in ("transformers", "vllm"):
        words += [
            f"+models.reward-{engine}.{key}" for key in (f"path={zoo / 'reward'}", "family=scalar", f"engine={engine}")
        ]
        words += [
            f"+models.dpo-{engine}.{key}"
            for key in (f"path={zoo / 'policy'}", f"reference={zoo / 'reference'}", "family=dpo", f"engine={engine}")
        ]
    mark = uuid.uuid4().hex
    done = rewardsweep(*words, mark=mark)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not left(mark), "nothing of the run stays behind"
    lines = rewardsweep("scores", f"store={tmp_path / 's'}", "output=jsonl").stdout.splitlines()
    scores: dict[str, dict[tuple[str, int], tuple[float, int]]] = {}
    for line in map(json.loads, lines):
        scores.setdefault(line["model"], {})[line["id"], line["response"]] = (line["score"], line["tokens"])
    for family in ("reward", "dpo"):
        ours, theirs = scores[f"{family}-transformers"], scores[f"{family}-vllm"]
        assert ours.keys() == theirs.keys()
        assert len(ours) == 2 * len(pairs.read_text(encoding="utf-8").splitlines())
        for key, (value, tokens) in ours.items():
            assert abs(theirs[key][0] - value) <= TOLERANCE * (tokens if family == "dpo" else 1)
        verdicts = [
            {row: found[row, 0][0] > found[row, 1][0] for row, response in found if response == 0}
            for found in (ours, theirs)
        ]
        assert verdicts[0] == verdicts[1]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge that always prefers the response it is shown first."""
    return tiny_judge.build(tmp_path_factory.mktemp("vllm-judge") / "judge", head_size=HEAD)


def test_a_judge_inside_a_ray_actor_and_behind_a_server(
    judge: Path, pairs: Path, tmp_path: Path, server: Callable[[Path], str]
) -> None:
    """One judge in three engines: the same texts, the same table."""
    url = server(judge)
    words = ["run", "benchmarks=[pairs]", f"data.pairs={pairs}", f"store={tmp_path / 's'}", "device=cpu", "workers=1"]
    engines = {"transformers": (), "vllm": (), "openai": (f"endpoint.url={url}", "endpoint.concurrency=16")}
    for name, more in engines.items():
        path = "judge" if name == "openai" else str(judge)
        keys = (f"path={path}", "family=judge", f"engine={name}", "options={max_new_tokens:4}", *more)
        words += [f"+models.{name}.{key}" for key in keys]
    done = rewardsweep(*words, "output=json")
    assert done.returncode == 0, done.stderr[-3000:]
    boards = {model["name"]: model for model in json.loads(done.stdout)["models"]}
    rows = len(pairs.read_text(encoding="utf-8").splitlines())
    assert f"cost: openai: {rows} answers, " in done.stderr
    for found in boards.values():
        assert (found["rows"], found["rows_missing"], found["unparsed"]) == (rows, 0, 0)
        assert found["subsets"] == boards["transformers"]["subsets"]
    lines = rewardsweep("scores", f"store={tmp_path / 's'}", "output=jsonl").stdout.splitlines()
    texts: dict[str, list[Any]] = {}
    for line in map(json.loads, lines):
        texts.setdefault(line["model"], []).append((line["id"], line["response"], line["score"], line["texts"]))
    assert texts["transformers"] == texts["vllm"] == texts["openai"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """Starts vLLM's own OpenAI-compatible server on loopback; its address."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(folder: Path) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["--served-model-name", "judge", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
        options += ["--enforce-eager"]
        module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), *options]
        log = (tmp_path / "server.log").open("wb")
        settings = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        processes.append(
            subprocess.Popen(
                module, env={**os.environ, **settings}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        )
        deadline = time.monotonic() + SERVER_SECONDS
        while time.monotonic() < deadline and processes[-1].poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return f"http://127.0.0.1:{port}/v1"
            time.sleep(1)
        raise AssertionError((tmp_path / "server.log").read_text(encoding="utf-8")[-3000:])

    yield start
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_check_compares_both_engines(zoo: Path) -> None:
    words = [f"+models.m.path={zoo / 'reward'}", "+models.m.family=scalar", "device=cpu", "output=json"]
    done = rewardsweep("check", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    compared = {found["what"]: found for found in json.loads(done.stdout)["comparisons"]}
    assert "transformers and vllm" in compared
    assert all(found["rows"] == 10 and found["flips"] == 0 for found in compared.values())


def rewardsweep(*words: str, mark: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), MARK: mark}
    command = [sys.executable, "-P", "-m", "orchestrator", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550, check=False)


def left(mark: str, seconds: float = 30.0) -> list[str]:
    """Processes of an ended run that still live after a while: Ray ends its workers after the driver has gone."""
    until = time.monotonic() + seconds
    while marked(mark) and time.monotonic() < until:
        time.sleep(0.2)
    return marked(mark)


def marked(mark: str) -> list[str]:
    """Processes that a run started and that live at this moment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


def children() -> list[str]:
    """Live processes that this one started."""
    folder = Path(f"/proc/{os.getpid()}/task")
    ids = [child for task in folder.iterdir() for child in (task / "children").read_text().split()]
    return [Path(f"/proc/{child}/cmdline").read_text() for child in ids if (Path("/proc") / child / "cmdline").exists()]
