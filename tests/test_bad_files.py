"""Data files and checkpoints that cannot be used: named with the place and the remedy; the rest goes on."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import Cli
from tests.refusals import ROW, nothing_written, one_line


def json_lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(*rows: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def numbered(count: int) -> bytes:
    return json_lines(*({**ROW, "prompt": f"question {number}"} for number in range(count)))


# file name -> content, what the message must hold
FILES: dict[str, tuple[bytes, list[str]]] = {
    "cut.jsonl.gz": (gzip.compress(numbered(5000))[:-2000], ["ends early or is damaged", "copy it again"]),
    "cut-tail.jsonl.gz": (gzip.compress(numbered(1))[:-4], ["ends early or is damaged", "copy it again"]),
    "checksum.jsonl.gz": (gzip.compress(numbered(1))[:-8] + bytes(8), ["ends early or is damaged"]),
    "plain.jsonl.gz": (numbered(1), ["not a gzip file", "rename it"]),
    "no-chosen.jsonl": (
        json_lines(ROW, {"prompt": "question", "rejected": "an answer"}),
        ["line 2", "'chosen' is missing", "found: prompt, rejected"],
    ),
    "null-chosen.jsonl": (json_lines(ROW, ROW, {**ROW, "chosen": None}), ["line 3", "'chosen' is missing"]),
    "number.jsonl": (json_lines(ROW, {**ROW, "chosen": 3}), ["line 2", "'chosen' must be text", "found int"]),
    "object.jsonl": (json_lines({**ROW, "rejected": {"text": "x"}}), ["line 1", "'rejected' must be text"]),
    "no-role.jsonl": (json_lines({**ROW, "prompt": [{"content": "question"}]}), ["line 1", "'prompt'", "'role'"]),
    "strange-role.jsonl": (json_lines({**ROW, "prompt": [{"role": "human", "content": "q"}]}), ["line 1", "assistant"]),
    "two-prompts.jsonl": (
        json_lines({**ROW, "chosen": [{"role": "user", "content": "other"}, {"role": "assistant", "content": "x"}]}),
        ["line 1", "'chosen' does not begin with the messages of 'prompt'"],
    ),
    "subset.jsonl": (json_lines({**ROW, "subset": 7}), ["line 1", "'subset' must be text"]),
    "nan-id.jsonl": (json_lines({**ROW, "id": 1}, {**ROW, "id": float("nan")}), ["line 2", "'id'", "NaN"]),
    "null-id.jsonl": (json_lines({**ROW, "id": 1}, {**ROW, "id": None}), ["line 2", "'id' is missing"]),
    "null-id.parquet": (parquet({**ROW, "id": 1}, {**ROW, "id": None}), ["row 2", "'id' is missing"]),
    "nan-id.parquet": (parquet({**ROW, "id": 1.0}, {**ROW, "id": float("nan")}), ["row 2", "'id' is missing or NaN"]),
    "no-id.csv": (b"prompt,chosen,rejected,id\nq,a,b,1\nq,a,b,\n", ["row 3", "'id' is missing"]),
    "half-id.jsonl": (json_lines({**ROW, "id": 1.5}), ["line 1", "'id' must be a number or text"]),
    "true-id.jsonl": (json_lines({**ROW, "id": True}), ["line 1", "'id' must be a number or text", "bool"]),
    "empty.jsonl": (b"", ["holds no rows", "prompt, chosen and rejected"]),
    "blank.jsonl": (b"\n\n", ["holds no rows"]),
    "empty.jsonl.gz": (b"", ["holds no rows"]),
    "empty.json": (b"", ["not valid JSON"]),
    "empty.csv": (b"", ["holds no rows"]),
    "header.csv": (b"prompt,chosen,rejected\n", ["holds no rows"]),
    "empty.parquet": (b"", ["not a readable Parquet file", "copy it again"]),
    "no-rows.parquet": (parquet(), ["holds no rows"]),
    "list.json": (b"[]", ["holds no rows"]),
    "object.json": (b'{"rows": []}', ["one list of rows", "found dict", ".jsonl"]),
    "scalar.jsonl": (json_lines(ROW, 3), ["line 2", "a row must be an object"]),
    "broken.jsonl": (json_lines(ROW) + b'{"prompt": "q",\n', ["line 2", "not valid JSON", "at character"]),
    "deep.jsonl": (b"[" * 100_000 + b"\n", ["line 1", "not valid JSON"]),
    "digits.jsonl": (b'{"id": ' + b"1" * 5000 + b"}\n", ["line 1", "not valid JSON"]),
    "surrogate.jsonl": (json_lines(ROW, {**ROW, "chosen": "\ud800"}), ["line 2", "'chosen'", "surrogate"]),
    "latin.jsonl": (json_lines(ROW) + '{"prompt": "é"}\n'.encode("latin-1"), ["not UTF-8", "0xe9", "save it as UTF-8"]),
    "latin.csv": ("prompt,chosen,rejected\né,a,b\n".encode("latin-1"), ["not UTF-8", "save it as UTF-8"]),
    "columns.csv": (b"question,good,bad\nq,a,b\n", ["row 2", "'prompt' is missing", "found: question, good, bad"]),
    "long.csv": (b"prompt,chosen,rejected\nq,a,b\nq,a, and more,b\n", ["row 3", "more values than columns", "quote"]),
    "quote.csv": (b'prompt,chosen,rejected\nq,a,"b\n', ["not a valid CSV file"]),
    "broken.parquet": (parquet(ROW)[:-20], ["not a readable Parquet file", "copy it again"]),
    "notes.txt": (b"hello", ["unknown kind of file", ".jsonl.gz", "folder saved by datasets"]),
    "folder.jsonl/notes.txt": (b"hello", ["folder.jsonl", "not a folder saved by datasets.save_to_disk"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_named_with_its_row_and_the_remedy(cli: Cli, tmp_path: Path, name: str) -> None:
    content, parts = FILES[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    data = tmp_path / name.split("/", maxsplit=1)[0]
    words = ["suite=baselines", "benchmarks=[pairs]", f"data.pairs={data}", "pool=local", f"store={tmp_path / 'store'}"]
    line = one_line(cli("run", *words))
    for part in [str(data), *parts]:
        assert part in line
    nothing_written(tmp_path)


def without_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def without_template(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text())
    del values["chat_template"]
    path.write_text(json.dumps(values))


def truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def not_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"hello")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


# model -> what is done to its checkpoint, what the reason must hold
CHECKPOINTS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "headless": (without_head, ["not a reward model", "score.weight"]),
    "untemplated": (without_template, ["no chat template", "models.untemplated.chat_template"]),
    "cut": (truncated_weights, ["cannot load", "SafetensorError"]),
    "garbage": (not_weights, ["cannot load", "SafetensorError"]),
    "weightless": (no_weights, ["cannot load", "model.safetensors"]),
    "misconfigured": (broken_config, ["cannot read the configuration", "config.json"]),
}


@pytest.fixture
def bad_checkpoints(tmp_path: Path, checkpoint: Callable[..., Path]) -> dict[str, Path]:
    folders = {"causal": checkpoint("llama", causal=True)}
    for name, (spoil, _) in CHECKPOINTS.items():
        folders[name] = Path(shutil.copytree(checkpoint("llama"), tmp_path / name))
        spoil(folders[name])
    return folders


def test_a_bad_checkpoint_fails_alone_and_is_listed_with_its_reason(
    cli: Cli,
    tmp_path: Path,
    write_pairs: Callable[..., Path],
    bad_checkpoints: dict[str, Path],
    checkpoint: Callable[..., Path],
) -> None:
    store = f"store={tmp_path / 'store'}"
    folders = {"sound": checkpoint("llama"), **bad_checkpoints}
    models = [
        word
        for name, path in folders.items()
        for word in (f"+models.{name}.path={path}", f"+models.{name}.family=scalar")
    ]
    data = f"data.pairs={write_pairs([ROW, {**ROW, 'id': 2}])}"
    done = cli("run", *models, "model=[longest]", "benchmarks=[pairs]", data, "pool=local", "device=cpu", store)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr

    board = json.loads(cli("leaderboard", store, "output=json").stdout)["models"]
    assert {entry["name"] for entry in board[:2]} == {"sound", "longest"}
    assert [(entry["rows_missing"], entry["failure"]) for entry in board[:2]] == [(0, None)] * 2
    failed = {entry["name"]: entry for entry in board[2:]}
    expected = {"causal": ["LlamaForCausalLM", "not a reward model", "models.causal.family"]}
    expected |= {name: parts for name, (_, parts) in CHECKPOINTS.items()}
    assert failed.keys() == expected.keys()
    text = cli("leaderboard", store).stdout
    status = cli("status", store).stdout
    for name, parts in expected.items():
        entry = failed[name]
        assert (entry["overall"], entry["rows_missing"]) == (None, 2)
        for part in parts:
            assert part in entry["failure"]
        given_up = [line for line in done.stderr.splitlines() if line.startswith(f"error: model '{name}' is given up")]
        assert len(given_up) == 1
        assert entry["failure"] in given_up[0]
        assert f"note: {name} is incomplete: 2 of 2 rows missing: {entry['failure']}" in text
        assert f"{name}: 0 of 2 measurements, 2 missing  failed: {entry['failure']}" in status


def test_a_model_that_cannot_be_pinned_fails_alone_until_it_can(
    cli: Cli, tmp_path: Path, write_pairs: Callable[..., Path], checkpoint: Callable[..., Path]
) -> None:
    later, hub = tmp_path / "later", "org/not-here"
    words = [f"+models.later.path={later}", "+models.later.family=scalar"]
    words += [f"+models.hub.path={hub}", "+models.hub.family=dpo", "+models.hub.scoring.reference_free=avg"]
    where = ["benchmarks=[pairs]", f"data.pairs={write_pairs([ROW, {**ROW, 'id': 2}])}", f"store={tmp_path / 'store'}"]
    here = ["pool=local", "device=cpu"]
    done = cli("run", *words, "model=[longest]", *where, *here)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    board = {entry["name"]: entry for entry in json.loads(cli("leaderboard", where[2], "output=json").stdout)["models"]}
    status = cli("status", where[2]).stdout
    assert (board["longest"]["rows_missing"], board["longest"]["failure"]) == (0, None)
    for name, part in {"later": f"models.later.path={later}", "hub": f"models.hub.path={hub}"}.items():
        entry = board[name]
        assert (entry["overall"], entry["rows_missing"], entry["rows"]) == (None, 2, 2)
        assert part in entry["failure"]
        assert f"error: model '{name}' is given up: {entry['failure']}" in done.stderr
        assert f"{name}: nothing was asked of it  failed: {entry['failure']}" in status
    assert cli("verify", where[2]).returncode == 0
    assert len(cli("scores", where[2], "output=jsonl").stdout.splitlines()) == 4

    shutil.copytree(checkpoint("llama"), later)
    assert cli("run", *words[:2], "model=[longest]", *where, *here).returncode == 0
    again = cli("run", *words, "model=[longest]", *where, *here, "models.later.path=/nowhere")
    assert again.returncode == 1
    entry = {row["name"]: row for row in json.loads(cli("leaderboard", where[2], "output=json").stdout)["models"]}
    assert (entry["later"]["rows_missing"], entry["later"]["failure"]) == (0, None), "what was scored stays"


class GatedHub(BaseHTTPRequestHandler):
    """A hub with one repository, which gives its files to nobody without a token."""

    def do_GET(self) -> None:
        known = self.path.startswith("/api/models/org/gated")
        body = json.dumps({"id": "org/gated", "sha": "a" * 40, "gated": "manual"}).encode() if known else b"restricted"
        self.send_response(200 if known else 401)
        if not known:
            self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *words: Any) -> None:
        """Says nothing."""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gated_repository_without_a_token_fails_alone(
    cli: Cli, tmp_path: Path, write_pairs: Callable[..., Path], device: str
) -> None:
    """On GPUs it is seen when the dtype is asked for, else by the worker; the remedy is the same."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), GatedHub)
    Thread(target=server.serve_forever, daemon=True).start()
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(tmp_path / "hf")}
    words = ["model=[longest]", "+models.gated.path=org/gated", "+models.gated.family=scalar", f"device={device}"]
    data = f"data.pairs={write_pairs([ROW])}"
    done = cli("run", *words, data, "pool=local", "store=s", "output=json", settings={**hub, "HF_HUB_OFFLINE": "0"})
    server.shutdown()
    server.server_close()
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    found = {model["name"]: model for model in json.loads(done.stdout)["models"]}
    assert found["longest"]["rows_missing"] == 0
    for text in (found["gated"]["failure"], done.stderr, cli("status", "store=s").stdout):
        assert "org/gated" in text
        assert "a gated repository; accept its terms on the hub and set HF_TOKEN" in text


def test_nothing_is_written_where_no_model_can_be_pinned(
    cli: Cli, tmp_path: Path, write_pairs: Callable[..., Path]
) -> None:
    words = [f"+models.{name}.{key}" for name in "ab" for key in (f"path=/nowhere/{name}", "family=scalar")]
    data = f"data.pairs={write_pairs([ROW])}"
    done = cli("run", *words, "benchmarks=[pairs]", data, "pool=local", f"store={tmp_path / 'store'}")
    assert done.returncode == 2
    assert "error: models.b.path=/nowhere/b: no such folder" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "store").exists()
