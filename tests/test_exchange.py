"""The reference's result files in, and ours out: joined by row, marked, and the same after a round trip."""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from orchestrator.benchmarks import find
from orchestrator.imports import files, read
from tests.conftest import Cli
from workers.errors import InputError

ROWS = [
    {
        "prompt": f"q {n}",
        "chosen": "long " * (n % 7),
        "rejected": "short " * 3,
        "subset": "hep-go" if n % 2 else "hep-cpp",
        "id": n,
    }
    for n in range(40)
]
SCORES = {
    "model": "org/Model-1",
    "model_type": "Seq. Classifier",
    "chat_template": "tulu",
    "text_chosen": ["x"] * 40,
    "subset": [row["subset"] for row in ROWS],
    "id": [row["id"] for row in ROWS],
    "results": [int(n % 3 == 0) for n in range(40)],
    "scores_chosen": [[float(n % 3 == 0)] for n in range(40)],
    "scores_rejected": [[0.5]] * 40,
}
WON = {name: [n % 3 == 0 for n in range(40) if ROWS[n]["subset"] == name] for name in ("hep-go", "hep-cpp")}


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(row)}\n" for row in value) if path.suffix == ".jsonl" else json.dumps(value, indent=4)
    path.write_text(lines, encoding="utf-8")
    return path


def models(cli: Cli, *words: str) -> dict[str, dict[str, Any]]:
    done = cli("leaderboard", "store=s", "output=json", *words)
    assert done.returncode == 0, done.stderr
    return {model["name"]: model for model in json.loads(done.stdout)["models"]}


@pytest.fixture
def data(write_pairs: Any) -> str:
    return f"data.rewardbench={write_pairs(ROWS)}"


def test_scores_of_rows_become_a_row_of_every_table(cli: Cli, tmp_path: Path, data: str) -> None:
    write(tmp_path / "r" / "eval-set-scores" / "m.json", SCORES)
    write(tmp_path / "r" / "eval-set" / "m.json", {"model": "org/Model-1", "hep-go": 0.1, "hep-cpp": 0.2})
    assert cli("run", "model=[longest]", data, "store=s", "pool=local").returncode == 0
    done = cli("import", str(tmp_path / "r"), "store=s")
    assert done.returncode == 0, done.stderr
    assert "org-Model-1+imported: 40 of 40 rows" in done.stderr
    found = models(cli)["org-Model-1+imported"]
    expected = {name: sum(won) / len(won) for name, won in WON.items()}
    assert {name: cell["accuracy"] for name, cell in found["subsets"].items()} == pytest.approx(expected)
    assert found["overall"] == pytest.approx(sum(expected.values()) / 2)
    assert found["ranks"] is not None
    compared = json.loads(cli("compare", "org-Model-1+imported", "longest", "store=s", "output=json").stdout)
    assert compared["comparisons"][0]["accuracy"] == pytest.approx(found["overall"])


def test_into_an_empty_store_and_twice(cli: Cli, tmp_path: Path, data: str) -> None:
    file = write(tmp_path / "m.json", SCORES)
    for _ in range(2):
        done = cli("import", str(file), "store=s", data)
        assert done.returncode == 0, done.stderr
    assert list(models(cli)) == ["org-Model-1+imported"]
    runs = json.loads(cli("status", "store=s", "output=json").stdout)["runs"]
    assert len(runs) == 1


def test_the_command_lines_own_files(cli: Cli, tmp_path: Path, data: str) -> None:
    rows = [
        {
            "prompt": "rendered",
            "results": int(n % 3 == 0),
            "scores_chosen": float(n % 3 == 0),
            "scores_rejected": 0.5,
            "subset": ROWS[n]["subset"],
            "id": n,
        }
        for n in range(40)
    ]
    write(tmp_path / "out" / "org" / "m_outputs.jsonl", rows)
    write(
        tmp_path / "out" / "org" / "m.json",
        {"accuracy": 0.35, "num_prompts": 40, "model": "org/m", "extra_results": {"hep-go": 0.4}},
    )
    done = cli("import", str(tmp_path / "out"), "store=s", data)
    assert "org-m+imported: 40 of 40 rows" in done.stderr
    assert models(cli)["org-m+imported"]["subsets"]["hep-go"]["accuracy"] == pytest.approx(sum(WON["hep-go"]) / 20)


def test_accuracies_alone_have_no_intervals(cli: Cli, tmp_path: Path, data: str) -> None:
    file = write(
        tmp_path / "m.json", {"model": "old", "model_type": "DPO", "hep-go": 0.5, "hep-cpp": 1.0, "ref_model": "x"}
    )
    done = cli("import", str(file), "store=s", data)
    assert "old+imported: accuracies of subsets only" in done.stderr
    found = models(cli)["old+imported"]
    assert (found["overall"], found["family"], found["overall_interval"], found["ranks"]) == (0.75, "dpo", None, None)
    assert cli("leaderboard", "store=s").returncode == 0
    half = write(tmp_path / "half.json", {"model": "half", "hep-go": 0.5})
    assert cli("import", str(half), "store=s").returncode == 0
    found = models(cli)["half+imported"]
    assert (found["overall"], found["rows_missing"]) == (None, 20)
    done = cli("compare", "old+imported", "half+imported", "store=s")
    assert (done.returncode, "has no scores on 40 rows" in done.stderr) == (2, True)


def test_missing_rows_are_missing_and_judges_share_ties(cli: Cli, tmp_path: Path, data: str) -> None:
    columns = {name: SCORES[name][:-1] for name in ("subset", "id")}
    judge = {"model": "judge", "model_type": "Generative RM", "results": [0.5] * 39, **columns}
    done = cli("import", str(write(tmp_path / "j.json", judge)), "store=s", data)
    assert "judge+imported: 39 of 40 rows" in done.stderr
    found = models(cli)["judge+imported"]
    assert (found["rows_missing"], found["overall"], found["family"]) == (1, None, "judge")
    assert found["subsets"]["hep-cpp"]["accuracy"] == 0.5


def test_a_round_trip_changes_nothing(cli: Cli, tmp_path: Path, data: str) -> None:
    assert cli("run", "model=[longest,random]", data, "store=s", "pool=local").returncode == 0
    done = cli("export", str(tmp_path / "out"), "store=s")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "rewardbench"
    (scores,) = (folder / "eval-set-scores").glob("random-*.json")
    content = json.loads(scores.read_text())
    assert content["id"][:2] == [0, 10]
    assert len(content["scores_chosen"]) == len(content["text_rejected"]) == 40
    assert scores.read_text() == json.dumps(content, indent=4, sort_keys=True, ensure_ascii=False)
    before = models(cli)
    done = cli("import", str(folder / "eval-set-scores"), "store=s")
    assert done.returncode == 0, done.stderr
    after = models(cli)
    for name in ("longest", "random"):
        own, back = before[name], after[f"{name}+imported"]
        for key in ("overall", "sections", "subsets", "ties", "overall_interval"):
            assert own[key] == back[key]
    (card,) = (folder / "model-cards").glob("random-*.md")
    index = yaml.safe_load(card.read_text().strip("-\n"))["model-index"][0]
    assert index["name"] == "random"
    assert index["results"][0]["metrics"][0]["value"] == pytest.approx(before["random"]["overall"], abs=1e-6)


def test_the_references_own_table_code_reads_what_is_exported(cli: Cli, tmp_path: Path, data: str) -> None:
    """`analysis/get_benchmark_results.py` reads `eval-set` files as flat records and takes subsets by name."""
    assert cli("run", "model=[longest]", data, "store=s", "pool=local").returncode == 0
    assert cli("export", str(tmp_path / "out"), "store=s").returncode == 0
    (file,) = (tmp_path / "out" / "rewardbench" / "eval-set").glob("*.json")
    record = json.loads(file.read_text())
    assert {name for name, value in record.items() if isinstance(value, float)} == {"hep-go", "hep-cpp"}
    assert (record["model"], record["chat_template"]) == ("longest", "tokenizer")


def test_several_responses_are_columns_of_lists(cli: Cli, tmp_path: Path, shared: Path) -> None:
    data = f"data.rewardbench2={shared / 'data' / 'rewardbench2_ties_sample.jsonl.gz'}"
    assert cli("run", "model=[longest]", data, "store=s", "pool=local").returncode == 0
    assert cli("export", str(tmp_path / "out"), "store=s").returncode == 0
    done = cli(
        "import", str(tmp_path / "out" / "rewardbench2" / "eval-set-scores"), "store=s", "benchmarks=[rewardbench2]"
    )
    assert "longest+imported: 8 of 8 rows" in done.stderr
    found = models(cli)
    assert found["longest"]["overall"] == found["longest+imported"]["overall"]


def test_published_verdicts_of_66_models(cli: Cli, shared: Path, tmp_path: Path) -> None:
    """Real per-row results on the public half: every model is there with the accuracy that its verdicts have."""
    folder, keep = shared / "data" / "per-example-scores", shared / "data" / "rewardbench_filtered.jsonl.gz"
    keys = list(lines(folder / "rewardbench_v1_row_keys.jsonl.gz"))
    for model in lines(folder / "rewardbench_v1_results.jsonl.gz"):
        results = list(map(int, model["results"]))
        columns = {"subset": [key["subset"] for key in keys], "id": [key["id"] for key in keys]}
        write(
            tmp_path / "r" / f"{model['model'].replace('/', '_')}.json",
            {"model": model["model"], **columns, "results": results},
        )
    done = cli("import", str(tmp_path / "r"), "store=s", f"data.rewardbench={keep}")
    assert done.returncode == 0, done.stderr
    assert Counter(line.rpartition(": ")[2] for line in done.stderr.splitlines()) == {"1493 of 1493 rows": 66}
    found = models(cli)
    assert len(found) == 66
    own = {(row.subset, row.id) for row in find("rewardbench").load(str(keep))}
    for model in lines(folder / "rewardbench_v1_results.jsonl.gz"):
        won = [
            r
            for key, r in zip(keys, model["results"], strict=True)
            if key["subset"] == "hep-go" and ("hep-go", str(key["id"])) in own
        ]
        name = next(name for name in found if name == f"{model['model'].replace('/', '-')}+imported")
        assert found[name]["subsets"]["hep-go"]["accuracy"] == pytest.approx(won.count("1") / len(won))


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as rows:
        return [json.loads(row) for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not a JSON file of rewardbench"),
        ("a.json", "[]", "one object is expected"),
        ("a.json", '{"model": "m"}', "no accuracies of subsets"),
        ("a.json", '{"results": [1, 0], "subset": ["a"]}', "lists of one length"),
        ("a.json", '{"results": ["x"], "subset": ["a"]}', "a score is not a number"),
        ("a_outputs.jsonl", '{"prompt": "q"}\n', "every line needs `results`"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert message in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no"):
        files(str(tmp_path / "empty"))


def test_nothing_is_kept_where_one_file_is_bad(cli: Cli, tmp_path: Path, data: str) -> None:
    write(tmp_path / "r" / "a.json", SCORES)
    (tmp_path / "r" / "b.json").write_text("{")
    done = cli("import", str(tmp_path / "r"), "store=s", data)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no store there" in cli("leaderboard", "store=s").stderr
    for words, message in (
        ([], "name a file"),
        ([str(tmp_path / "r" / "a.json"), "benchmarks=[pairs,demo]"], "name one benchmark"),
    ):
        done = cli("import", *words, "store=s")
        assert (done.returncode, message in done.stderr) == (2, True)


class Hub(BaseHTTPRequestHandler):
    """What `upload_folder` needs of a hub; keeps what it is sent."""

    sent: ClassVar[list[tuple[str, str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.sent.append((self.path, self.headers.get("Authorization") or "", body))
        if self.headers.get("Authorization") != "Bearer hf_good":
            self.answer(401, {"error": "Invalid credentials"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.answer(200, {"files": modes})
        elif "/commit/" in self.path:
            self.answer(
                200,
                {
                    "commitUrl": f"http://{self.headers['Host']}/datasets/org/scores/commit/{'a' * 40}",
                    "commitOid": "1",
                    "hookOutput": "",
                    "success": True,
                },
            )
        else:
            self.answer(200, {"url": f"http://{self.headers['Host']}/datasets/org/scores"})

    def do_GET(self) -> None:
        self.answer(200, {"id": "org/scores", "sha": "0" * 40, "siblings": []})

    def answer(self, code: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_results_are_pushed_only_when_asked_for(cli: Cli, tmp_path: Path, data: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    hub = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_good"}
    assert cli("run", "model=[longest]", data, "store=s", "pool=local").returncode == 0
    assert cli("export", str(tmp_path / "out"), "store=s", settings=hub).returncode == 0
    assert Hub.sent == []
    done = cli("export", str(tmp_path / "out"), "store=s", "push=org/scores", settings=hub)
    assert done.returncode == 0, done.stderr
    assert "pushed: " in done.stderr
    (commit,) = [body for path, _, body in Hub.sent if "/commit/" in path]
    paths = {json.loads(line)["value"].get("path") for line in commit.splitlines()} - {None}
    assert {path.split("/")[1] for path in paths} == {"eval-set", "eval-set-scores", "model-cards"}
    hub["HF_TOKEN"] = "hf_canary"
    done = cli("export", str(tmp_path / "out"), "store=s", "push=org/scores", settings=hub)
    server.shutdown()
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)
    assert "push=org/scores: the hub does not take it" in done.stderr
    assert "canary" not in done.stdout + done.stderr
