"""How long a front page of 500 models takes to make and to open, in headless Chromium."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from orchestrator.benchmarks import Example
from orchestrator.benchmarks.rewardbench import RULES, SECTIONS
from orchestrator.reducer import Imported, ScoredRow, reduce
from orchestrator.site import page
from orchestrator.site.build import SCRIPT
from workers.protocol import Message, Model

MODELS, OPENED = 500, 7


def main() -> int:
    """Print the seconds of each part; needs chromium and playwright."""
    draws = np.random.default_rng(0)
    examples = [
        Example(subset, str(row), (Message("user", f"{subset} {row}"),), ("good", "bad"))
        for counts in SECTIONS.values()
        for subset, count in counts.items()
        for row in range(min(count, 447))
    ]
    models = []
    for number in range(MODELS):
        won = draws.random(len(examples)) < draws.uniform(0.4, 0.95)
        rows = tuple(ScoredRow(row, (), (float(win), 0.5)) for row, win in zip(examples, won, strict=True))
        models.append(Imported(Model(f"org-model-{number}-of-a-longish-name", "scalar", ()), rows))
    started = time.perf_counter()
    board = reduce(models, "rewardbench", RULES["rewardbench-v1"], "0" * 32, examples, lambda _: {}, {})
    reduced = time.perf_counter()
    links = {entry.name: f"rewardbench/{entry.name}.html" for entry in board.entries}
    html = page(board, links, script=SCRIPT)
    print(f"{MODELS} models x {len(examples)} rows: reduced in {reduced - started:.1f} s")
    print(f"front page {len(html.encode()) / 1e6:.2f} MB, made in {time.perf_counter() - reduced:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.html"
        path.write_text(html, encoding="utf-8")
        seconds = _opened(path)
    print(f"opened in {statistics.median(seconds):.2f} s (median of {OPENED}, from the request to its last event)")
    return 0


def _opened(path: Path) -> list[float]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found = []
        for _ in range(OPENED):
            opened = browser.new_page()
            opened.goto(f"file://{path}")
            found.append(opened.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
            opened.close()
        browser.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
