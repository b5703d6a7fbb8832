"""The site: every page inert and self-contained, read in a real browser where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.benchmarks import Example, Judged
from orchestrator.cost import GPUS
from orchestrator.insights import agreement, groups, hardest, lengths, says, type_of
from orchestrator.paths import slug
from orchestrator.site.build import measured
from orchestrator.stores import Stream
from tests.conftest import Cli
from tests.test_site import HOSTILE, Page, board, entry

SCREENSHOTS = os.environ.get("REWARDSWEEP_SCREENSHOTS")
"""A folder that keeps what the browser shows, at three widths."""
HUGE = "x" * 1_000_000
ROWS = [
    {
        "prompt": HOSTILE[n % len(HOSTILE)] + "\u202e" if n else HUGE,
        "chosen": "long " * (n % 7 if n else 50) + HOSTILE[0],
        "rejected": "short " * 3,
        "subset": "hep-go" if n % 2 else "donotanswer",
        "id": n,
    }
    for n in range(40)
]
RESULT = {
    "model": "<script>alert(1)</script>",
    "model_type": "Generative <b>",
    "subset": [row["subset"] for row in ROWS],
    "id": [row["id"] for row in ROWS],
    "results": [n % 3 / 2 for n in range(40)],
}


@pytest.fixture
def made(cli: Cli, tmp_path: Path, write_pairs: Any) -> Path:
    words = [f"data.rewardbench={write_pairs(ROWS)}", "store=s", "pool=local"]
    assert cli("run", "model=[longest,shortest,random]", *words).returncode == 0
    (tmp_path / "m.json").write_text(json.dumps(RESULT))
    assert cli("import", str(tmp_path / "m.json"), "store=s").returncode == 0
    pairs = [f"data.pairs={write_pairs(ROWS[1:20])}", "store=s", "pool=local"]
    assert cli("run", "model=[longest]", *pairs).returncode == 0
    done = cli("site", str(tmp_path / "public"), "store=s")
    assert done.returncode == 0, done.stderr
    assert "pages: " in done.stderr
    return tmp_path / "public"


def test_every_page_is_whole_inert_and_linked(made: Path) -> None:
    pages = sorted(made.rglob("*.html"))
    names = {str(path.relative_to(made)) for path in pages}
    assert {"index.html", "rewardbench.html", "pairs/insights.html", "rewardbench/insights.html"} <= names
    assert len([name for name in names if name.startswith("rewardbench/")]) == 4 + 3 + 1
    reached = set()
    for path in pages:
        html = path.read_text(encoding="utf-8")
        parsed = Page(html)
        scripts = [given for tag, given in parsed.tags if tag == "script"]
        assert len(scripts) == (path.parent == made)
        assert not [name for _, given in parsed.tags for name in given if name.startswith("on") or name == "src"]
        assert not set(html) & set("\u202e\u2066\x00")
        for href in [given["href"] or "" for tag, given in parsed.tags if tag == "a"]:
            assert "//" not in href
            if not href.startswith("#"):
                target = (path.parent / href).resolve()
                assert target in {page.resolve() for page in pages}
                reached.add(target)
        policy = next(given["content"] or "" for _, given in parsed.tags if given.get("http-equiv"))
        assert policy.startswith("default-src 'none'; ")
    assert reached == {page.resolve() for page in pages}


def test_a_models_page_has_provenance_runs_and_lost_rows(made: Path) -> None:
    html = (made / "rewardbench" / f"{slug('shortest')}.html").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row] for row in Page(html).rows]
    assert ["family", "baseline"] in rows
    assert any(row[1:2] == ["done"] for row in rows)
    assert any(row[0] == "work" and row[1].endswith("with loading") for row in rows if row)
    assert "Rows lost by the widest margin" in html
    assert "[996,000 more characters]" in html
    assert len(html) < 200_000


def test_hours_are_of_gpus_and_loading_counts_once_a_run() -> None:
    footer = {
        "gpus": "2",
        "mfu": "0.61",
        "run": "r",
        "load_seconds": "60",
        "compute_seconds": "30",
        "tokens": "1000",
        "host": "secret-host",
    }
    parts = tuple(footer | {"device": device, "commit": "c"} for device in ("NVIDIA H200", "NVIDIA H200"))
    found = measured(Stream(provenance=parts), GPUS)
    assert found["work"] == "2,000 tokens in 60.0 s, 120.0 s with loading"
    assert (found["GPU-hours"], found["dollars"], found["MFU"]) == ("0.067", "0.53", "61.0%")
    assert (found["measured: device"], "secret-host" in str(found)) == ("NVIDIA H200", False)
    assert "GPU-hours" not in measured(Stream(provenance=(footer | {"device": "cpu"},)), GPUS)


def test_a_name_cannot_leave_the_folder() -> None:
    for name in ("../../etc/passwd", "/root", "..", "a/b", "", "con\x00", "x" * 500):
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", slug(name))
        assert not slug(name).startswith(".")
    assert slug("a/b") != slug("a-b")


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "name one folder"), (["a", "b"], "name one folder"), (["file"], "is a file; name a folder")],
)
def test_a_mistake_is_one_line(cli: Cli, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "file").write_text("")
    named = [str(tmp_path / word) if word == "file" else word for word in words]
    done = cli("site", *named, "store=s")
    assert (done.returncode, message in done.stderr, len(done.stderr.splitlines())) == (2, True, 1)


@pytest.fixture
def browser() -> Iterator[Any]:
    path = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


def shown(page: Any) -> list[str]:
    return [text.split("\n")[0] for text in page.locator("table.board tbody tr:visible .model").all_inner_texts()]


def test_in_a_browser(browser: Any, made: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    front = f"file://{made}/rewardbench.html"
    page.goto(front)
    everyone = shown(page)
    assert len(everyone) == 5
    page.get_by_role("button", name="Model").click()
    assert shown(page) == sorted(everyone, key=str.lower)
    page.get_by_role("button", name="Safety").click()
    values = page.locator("table.board tbody tr:visible td.score").evaluate_all(
        "all => all.map(one => one.dataset.value)"
    )
    assert len(values) == 5 * 5
    safety = [float(value) for value in values[3::5]]
    assert safety == sorted(safety, reverse=True)
    page.get_by_label("Search").fill("LONG")
    assert shown(page) == ["longest"]
    assert page.locator("output").inner_text() == "1 of 5 models"
    page.get_by_label("Search").fill("")
    page.get_by_label("Type").select_option("judge")
    assert [name for name in shown(page) if "alert" in name] == shown(page) != []
    link = page.url
    other = context.new_page()
    other.goto(link)
    assert (shown(other), link.partition("#")[2] != "") == (shown(page), True)
    other.close()
    for path in sorted(made.rglob("*.html")):
        page.goto(f"file://{path}")
    assert said == []
    assert all(url.startswith(f"file://{made}/") for url in asked)


@pytest.mark.parametrize("width", [375, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(browser: Any, made: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    for path in ("rewardbench.html", f"rewardbench/{slug('longest')}.html", "rewardbench/insights.html"):
        page.goto(f"file://{made}/{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if SCREENSHOTS:
            name = f"{path.replace('/', '-')}-{width}-{scheme}.png"
            page.screenshot(path=Path(SCREENSHOTS) / name, full_page=False)


def test_it_can_be_read_without_scripts(browser: Any, made: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"file://{made}/rewardbench.html")
    assert len(shown(page)) == 5
    assert not page.locator("form.controls").is_visible()


def test_types_side_by_side() -> None:
    assert [type_of(name) for name in ("scalar", "dpo", "judge", "pairrm", "baseline", "new")] == [
        "classifier",
        "DPO",
        "judge",
        "pairwise",
        "baseline",
        "other",
    ]
    sections = {"Chat": 0.8, "Prior Sets": 0.6}
    entries = [
        entry("a", overall=0.9, sections={"Chat": 0.9, "Prior Sets": 0.8}),
        entry("b", overall=0.8, sections={"Chat": 0.8, "Prior Sets": 0.7}),
        entry("c", overall=0.7, family="dpo", sections=sections),
        entry("d", overall=0.3, family="dpo", sections=sections),
        entry("e", overall=0.85, family="judge"),
    ]
    found = {group.type: group for group in groups(entries)}
    assert (found["classifier"].mean, found["classifier"].best_model) == (pytest.approx(0.85), "a")
    assert found["classifier"].spread == pytest.approx(0.1 / 2**0.5)
    assert found["DPO"].carried == pytest.approx(-0.2)
    assert (found["judge"].spread, found["judge"].carried) == (None, None)
    assert says(groups(entries)) == [
        "DPO models vary more than classifiers: 28.3 and 7.1.",
        "DPO models carry over less to the prior sets: -20.0 and -10.0.",
        "The best judge trails the best classifier: 85.0 and 90.0.",
    ]
    assert says(groups(entries[:2])) == []


def test_agreement_hard_rows_and_length_by_hand() -> None:
    examples = [Example("s", str(n), (), ("long response", "short"), 1) for n in range(2)]
    examples += [Example("s", "2", (), ("short", "long response"), 1)]
    won = {"a": (1, 1, 0), "b": (1, 0, 0), "c": (1, 1, 1)}
    judged = {
        name: [Judged(row, (float(win), 0.5)) for row, win in zip(examples, wins, strict=True)]
        for name, wins in won.items()
    }
    shares = dict(agreement(judged))
    assert shares["a"] == pytest.approx([1, 2 / 3, 2 / 3])
    assert shares["b"] == pytest.approx([2 / 3, 1, 1 / 3])
    assert [(row.id, row.won) for row in hardest(examples, judged)] == [("2", 1), ("1", 2), ("0", 3)]
    assert [(row.model, row.gap) for row in lengths(judged)] == [("a", 1.0), ("b", 0.5), ("c", 0.0)]


def test_the_front_page_has_no_script_where_none_is_given() -> None:
    from orchestrator.site import page

    assert "<script" not in page(board(entry("m")))
