"""The documentation is true: its links lead somewhere, and its commands run or say why they do not.

A block of commands without a mark is run here, in this process, with small models and a small store. A comment right
before it says otherwise: `<!-- run -->`, by another program (`test_deploy_docs`), `<!-- tested: tests/FILE.py -->`,
or `<!-- not run: REASON -->`. What stands in for what is too large, or somewhere else, is `STAND_INS`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli
from tests.conftest import ROOT
from tests.fake_endpoint import serving
from tests.pages import BLOCKS, PAGES, Block, blocks, name_of, words
from workers import tiny_zoo

RUN_HERE = [block for block in BLOCKS if not block.mark]
SCORING = ("run", "check", "nightly")
"""Verbs that would start Ray."""
REWARDBENCH = (*SCORING, "plan", "import")
"""Verbs that take RewardBench unless they are told otherwise; it is on the hub, and the demo's pairs are here."""
STAND_INS = {
    "...": "model=[longest]",
    "+models.mine.path=...": "+models.mine.path=./my-checkpoint",
    "benchmarks=[rewardbench]": "benchmarks=[demo]",
    "store=s3://bucket/prefix": "store=scores",
    "store=s3://bucket/nightly": "store=nights",
    "suite=small": "suite=baselines",
}
FILES = {
    "my_pairs.jsonl": '{"prompt": "q", "chosen": "a longer answer", "rejected": "short"}\n',
    "downstream.csv": "model,gain\nmine,0.3\nlongest,0.1\nrandom,0.2\n",
}
SHELL_ONLY = re.compile(r"[|&;<>$`]")
ADDRESS = "http://localhost:8000/v1"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader of the pages has it: checkpoints, files, and a store in which they were scored."""
    folder = tmp_path_factory.mktemp("desk")
    tiny_zoo.build(folder / "my-checkpoint", "llama")
    tiny_zoo.build(folder / "policy", "llama", causal=True, seed=1)
    tiny_zoo.build(folder / "sft", "llama", causal=True, seed=2)
    for name, text in (FILES | shown_files()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with at(folder):
        assert rewardsweep(
            "run +models.mine.path=./my-checkpoint +models.mine.family=scalar suite=baselines store=scores"
        )
        assert rewardsweep("export results store=scores")
        shutil.copytree("results/demo", "results", dirs_exist_ok=True)
    return folder


def shown_files() -> dict[str, str]:
    """The YAML files that pages show, by the path that ends the sentence before."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return dict(re.findall(r"`(mine/\S+\.yaml)`:\n\n```yaml\n(.*?)```", pages, re.DOTALL))


@contextmanager
def at(folder: Path) -> Iterator[None]:
    """In this folder, without a hub, with a judge's endpoint and a webhook that answer."""
    with pytest.MonkeyPatch.context() as patch, serving() as endpoint:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OPENAI_API_KEY", "a-key-of-the-tests")
        patch.setenv("SLACK_WEBHOOK", endpoint.url)
        patch.setenv("REWARDSWEEP_TEST_ENDPOINT", endpoint.url)
        yield


def rewardsweep(command: str) -> bool:
    """Whether the command ends well, with what stands in for what is not here; a plan may find models too large."""
    arguments = arranged(words(command))
    return cli.main(arguments) in ((0, 1) if arguments[0] == "plan" else (0,))


def arranged(given: list[str]) -> list[str]:
    """The words behind the program's name: run in this process, without Ray, on what is here."""
    if given[:3] == ["python", "-m", "orchestrator"]:
        given = ["rewardsweep", *given[3:]]
    verb, *rest = [STAND_INS.get(word, word) for word in given[given[0] == "rewardsweep" :]]
    here = os.environ["REWARDSWEEP_TEST_ENDPOINT"]
    rest = [word.replace(ADDRESS, here) for word in rest]
    for name in re.findall(r"model=\[(gpt[\w-]+)\]", " ".join(rest)):
        rest.append(f"models.{name}.endpoint={{url: '{here}', key: OPENAI_API_KEY}}")
    asked = [word for word in rest if word.startswith(("benchmarks=", "data.", "suite=baselines", "--help"))]
    benchmark = ["benchmarks=[demo]"] if verb in REWARDBENCH and not asked else []
    return [verb, *rest, *benchmark, *(["pool=local"] if verb in SCORING and "--help" not in rest else [])]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_every_block_of_commands_is_run_or_says_why_not(block: Block) -> None:
    kind, _, rest = block.mark.partition(": ")
    assert kind in ("", "run", "tested", "not run"), f"{block.page}: unknown mark {block.mark!r}"
    if kind == "":
        for command in block.commands:
            program = words(command)[0]
            assert program in ("rewardsweep", "make") or "-m orchestrator " in command, f"mark it: {command}"
            assert not SHELL_ONLY.search(re.sub(r"'[^']*'|#.*", "", command)), f"needs a shell, mark it: {command}"
    if kind == "tested":
        test = (ROOT / rest).read_text(encoding="utf-8")
        files = {Path(word).name for word in re.findall(r"deploy/\S+\.\w+", block.text)}
        assert all(name in test for name in files), f"{rest} does not use {files}"
    if kind == "not run":
        assert len(rest.split()) >= 3, "say why"


def test_pages_are_read_as_they_are_meant() -> None:
    """The net itself: commands are found with and without a language, trees and output are not."""
    text = "<!-- not run: a good reason -->\n```\nrewardsweep run  # x\n```\n```sh\nls \\\n -l\n```\n```\na/  b\n```\n"
    assert [(block.mark, block.commands) for block in blocks("page", text)] == [
        ("not run: a good reason", ["rewardsweep run  # x"]),
        ("", ["ls   -l"]),
    ]
    assert any("rewardsweep verify store=scores" in block.text for block in RUN_HERE if block.page == "README.md")


@pytest.mark.parametrize("page", sorted({block.page for block in RUN_HERE}))
def test_commands_run_as_they_are_written(page: str, desk: Path, tmp_path: Path) -> None:
    """A page's commands follow each other in one folder."""
    shutil.copytree(desk, tmp_path / "desk")
    with at(tmp_path / "desk"):
        for block in RUN_HERE:
            for command in block.commands if block.page == page else ():
                if words(command)[0] == "make":
                    rehearsed(words(command))
                else:
                    assert rewardsweep(command), f"{page}: {command}"


def test_the_lines_for_a_notebook_read_a_table(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(desk)
    found: dict[str, Any] = {}
    exec(code, found)
    assert {"mine", "longest"} <= set(found["table"]["name"])


def rehearsed(command: list[str]) -> None:
    """A target of make: what it does is what CI runs; here it must be one."""
    done = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        target = (page.parent / link) if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"
    for path in re.findall(
        r"(?<![\w/.-])(?:deploy|tests|docs|bench)/[\w./-]+\.(?:py|md|ya?ml|sh|sbatch|json|toml)\b", text
    ):
        if "NAME" not in path:
            assert (ROOT / path).exists() or (page.parent / path).exists(), path


def anchors(page: Path) -> set[str]:
    """Of the page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    links = re.findall(r"\]\(([^)#]+)\)", index.read_text(encoding="utf-8"))
    known = {(index.parent / link).resolve() for link in links}
    assert {page for page in PAGES if page.is_relative_to(index.parent)} - known == {index}
