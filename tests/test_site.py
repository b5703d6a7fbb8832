"""The page is inert, self-contained and says who is ranked."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from orchestrator import __version__
from orchestrator.reducer import Cell, Entry, Leaderboard
from orchestrator.site import page

DASH = "\u2013"
REPLACED = "\ufffd"
VOID = {"input", "meta"}
TEXT_COLORS = [("text", "card"), ("text", "page"), ("muted", "card"), ("muted", "page"), ("link", "card")]

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style></title></bdi></table><h1>gone",
    "{{ 7 * 7 }}{% raw %}",
    "http://example.org/x.js //example.org/y.css",
    "&lt;b&gt; &amp;amp;",
]


class Page(HTMLParser):
    """A page's elements, texts and attributes; `AssertionError` if its tags do not balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))
        if "tr" in self.open and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data

    def row(self, model: str) -> list[str]:
        """The cells of a model's row in either table of models."""
        return next(
            cells
            for row in self.rows
            if any(cell.startswith(model) for cell in row[:2]) and (cells := [c.strip() for c in row])
        )

    def isolated(self) -> set[str]:
        """What stands in a <bdi> of its own."""
        return {data for tag, data in self.texts if tag == "bdi"}


def entry(name: str, **values: Any) -> Entry:
    settled: dict[str, Any] = {
        "family": "scalar",
        "overall": 0.75,
        "sections": {"Chat": 0.8125, "Safety": 0.5},
        "subsets": {"easy": Cell(0.9375, 1600), "hard": Cell(0.25, 8)},
        "rows": 1608,
        "rows_missing": 0,
        "ties": 3,
        "truncated": 2,
        "not_finite": 0,
        "unparsed": 0,
        "failure": None,
    }
    return Entry(name=name, **settled | values)


def broken(name: str, **values: Any) -> Entry:
    return entry(name, **{"overall": None, "rows_missing": 1200, **values})


def board(*entries: Entry, **values: str) -> Leaderboard:
    named = {"benchmark": "rewardbench", "rule": "rewardbench-v1", "data_hash": "bbab0ce2ac781b35"} | values
    return Leaderboard(**named, entries=entries)


def test_a_complete_model_is_ranked_with_all_its_numbers() -> None:
    html = Page(page(board(entry("first"), entry("second", overall=0.5))))
    assert html.row("first") == ["1", "firstscalar", "75.0", "81.2", "50.0", "1,608", "3", "2"]
    assert html.row("second")[:3] == ["2", "secondscalar", "50.0"]
    assert ["easy", "93.8 92.5-94.8", "1,600"] in [[cell.strip() for cell in row] for row in html.rows]
    bars = [given.get("style") or "" for _, given in html.tags]
    assert {"--at:75.00%", "--at:81.25%", "--at:25.00%"} <= {bar.split(";")[0] for bar in bars}
    assert "--at:25.00%;--low:7.15%;--high:59.07%" in bars


def test_rule_data_and_version_are_shown() -> None:
    texts = [text for _, text in Page(page(board(entry("m")))).texts]
    assert {"rewardbench", "rewardbench-v1", "bbab0ce2ac781b35", f"made by rewardsweep {__version__}"} <= set(texts)


def test_an_incomplete_model_has_a_reason_and_no_rank() -> None:
    html = Page(page(board(entry("whole"), broken("half", failure="out of memory"), broken("never"))))
    assert html.row("half") == ["halfscalar", "1,200 of 1,608", "out of memory"]
    assert html.row("never")[2] == DASH
    ranks = [row[0] for row in html.rows if row and row[0].isdigit()]
    assert ranks == ["1"]


def test_only_incomplete_models() -> None:
    html = page(board(broken("half")))
    assert "No complete models yet." in html
    assert Page(html).row("half")[1] == "1,200 of 1,608"


def test_nothing_is_a_dash_and_never_a_number() -> None:
    empty = entry("m", overall=None, sections={"Chat": None}, subsets={"easy": Cell(None, 7)}, rows=0)
    html = Page(page(board(empty)))
    assert html.row("m")[:4] == ["1", "mscalar", DASH, DASH]
    assert ["easy", DASH, "7"] in [[cell.strip() for cell in row] for row in html.rows]
    assert "None" not in "".join(text for _, text in html.texts)


def test_an_empty_leaderboard() -> None:
    html = page(board())
    assert "No complete models yet." in html
    assert "<table" not in html
    assert Page(html)


def test_models_without_sections_and_with_different_ones() -> None:
    assert Page(page(board(entry("m", sections={})))).row("m")[2:4] == ["75.0", "1,608"]
    mixed = Page(page(board(entry("m", sections={"A": 1.0}), entry("n", sections={"B": 0.0}))))
    assert mixed.row("m")[3:5] == ["100.0", DASH]
    assert mixed.row("n")[3:5] == [DASH, "0.0"]


def test_a_baseline_says_so() -> None:
    html = page(board(entry("model"), entry("longest", family="baseline")))
    assert Page(html).row("longest")[1] == "longestbaseline"
    assert html.count('<tr class=" baseline"') == 1
    assert html.count('<details class="baseline">') == 1


def test_the_best_of_a_column_is_marked() -> None:
    made = board(entry("m", sections={"Chat": 0.5}), entry("n", overall=0.5, sections={"Chat": 0.75}))
    assert re.findall(r'class="bar best"[^>]*>([\d.]+)', page(made)) == ["75.0", "75.0"]


def test_notes_are_shown() -> None:
    html = Page(page(board(entry("m", not_finite=4, sections={"Chat": None}))))
    texts = html.isolated()
    assert ": 4 rows have a score that is not a number; they count as lost" in texts
    assert "no rows of Chat: the overall is the mean of the other sections" in texts


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_is_only_text(text: str) -> None:
    made = [
        entry(text, family=text, sections={text: 0.5}, subsets={text: Cell(0.5, 1)}),
        broken(f"half {text}", failure=f"because {text}"),
    ]
    html = page(board(*made, benchmark=text, rule=text, data_hash=text))
    parsed = Page(html)
    harmless = Page(page(board(entry("m", sections={"s": 0.5}, subsets={"t": Cell(0.5, 1)}), *made[1:])))
    assert {tag for tag, _ in parsed.tags} == {tag for tag, _ in harmless.tags}
    assert {text, f"half {text}", f"because {text}"} <= parsed.isolated()
    assert len([tag for tag, _ in parsed.tags if tag == "h1"]) == 1
    assert not [name for _, given in parsed.tags for name in given if name.startswith("on") or name == "src"]
    assert all("example.org" not in (value or "") for _, given in parsed.tags for value in given.values())


def test_the_page_asks_for_nothing() -> None:
    html = page(board(entry("m"), broken("half", failure="lost")))
    assert not re.search(r"//|<script|<link|<img|<iframe|url\(|@import|javascript:|\bsrc=", html, re.IGNORECASE)
    tags = Page(html).tags
    assert all((given.get("href") or "#").startswith("#") for _, given in tags)
    policy = next(given["content"] for _, given in tags if given.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_links_lead_to_the_subsets_of_their_model() -> None:
    tags = Page(page(board(entry("a"), entry("b"), broken("c"), broken("d")))).tags
    ids = [given["id"] for _, given in tags if "id" in given]
    links = [given["href"] for tag, given in tags if tag == "a"]
    assert len(ids) == len(set(ids))
    assert len(links) == len(set(links)) == 4
    assert {f"#{name}" for name in ids} >= set(links)


def test_characters_that_reorder_text_are_replaced() -> None:
    html = page(board(entry("safe\u202egnp.exe\u2069"), broken("nul\x00", failure="\x1b[31mred\ud800\r\nnext")))
    assert not set(html) & set("\u202e\u2069\x00\x1b\ud800")
    isolated = Page(html).isolated()
    assert f"safe{REPLACED}gnp.exe{REPLACED}" in isolated
    assert any(text.startswith(f"{REPLACED}[31mred{REPLACED}\r\nnext") for text in isolated)
    assert html.encode()


def test_a_name_in_another_script_stands_alone_in_its_note() -> None:
    arabic = "\u0646\u0645\u0648\u0630\u062c"
    isolated = Page(page(board(entry(arabic, not_finite=3)))).isolated()
    assert arabic in isolated
    assert ": 3 rows have a score that is not a number; they count as lost" in isolated


def test_a_huge_failure_is_clamped_and_can_be_scrolled() -> None:
    html = page(board(broken("half", failure="x" * 1_000_000)))
    clamped = [given for _, given in Page(html).tags if given.get("class") == "long"]
    assert len(clamped) == 2
    assert all(given["tabindex"] == "0" and given["aria-label"] for given in clamped)
    assert re.search(r"\.long \{[^}]*max-height[^}]*overflow: auto[^}]*overflow-wrap: anywhere", html)


def test_tables_are_accessible() -> None:
    html = page(board(entry("m"), broken("half")))
    tags = Page(html).tags
    assert all(given.get("scope") in ("col", "row") for tag, given in tags if tag == "th")
    assert html.count("<table") == html.count("<caption") == 4
    regions = [given for _, given in tags if "scroll" in (given.get("class") or "")]
    assert len(regions) == 2
    assert all(given["tabindex"] == "0" and given["role"] == "region" and given["aria-label"] for given in regions)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast(scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", page(board()), re.DOTALL)
    colors = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme]))
    assert all(contrast(colors[front], colors[back]) >= 4.5 for front, back in TEXT_COLORS)
    assert contrast(colors["first"], colors["card"]) >= 4.5
    assert all(contrast(colors[bar], colors["track"]) >= 3 for bar in ("fill", "quiet"))


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    shares = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
