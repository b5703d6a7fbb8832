"""Leaderboards, plans and scores as text, Markdown, CSV, JSON and Parquet. Returns strings; prints only streams."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.benchmarks import OVERALL
from orchestrator.reducer import Entry, Leaderboard
from orchestrator.statistics import Interval

WIDTH = 200
TIED = " ≈"
"""Behind the ranks of a model that the rows do not tell from the next one."""


def boards(found: Sequence[Leaderboard], output: str) -> str:
    """Leaderboards in an output format; JSON is one object for one board, a list for several."""
    if output == "json":
        return as_json(found)
    if output == "csv":
        return as_csv(found).rstrip("\n")
    if output == "markdown":
        return "\n".join(as_markdown(board) for board in found)
    if output == "latex":
        return "\n".join(as_latex(board) for board in found)
    return "\n".join(_as_text(board) for board in found)


def as_json(found: Sequence[Leaderboard]) -> str:
    """Fractions as JSON; NaN cannot occur."""
    values = [board.to_json() for board in found]
    return json.dumps(values[0] if len(values) == 1 else values, indent=1, ensure_ascii=False, allow_nan=False)


def as_csv(found: Sequence[Leaderboard]) -> str:
    """One line a model, fractions; sections and subsets as columns."""
    rows = [record for board in found for record in flat(board)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines: list[Sequence[Any]] = [columns, *([row.get(column) for column in columns] for row in rows)]
    return "".join(f"{_csv_line(line)}\n" for line in lines)


def as_parquet(board: Leaderboard) -> bytes:
    """The same columns as the CSV."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(flat(board)), buffer)
    return buffer.getvalue()


def as_markdown(board: Leaderboard) -> str:
    """A table of percentages with the notes below it."""
    header, rows = _cells(board)
    lines = [header, ["---"] * 3 + ["---:"] * (len(header) - 3), *rows]
    table = "\n".join("| " + " | ".join(markdown(cell) for cell in line) + " |" for line in lines)
    notes = "".join(f"\n- {markdown(note)}" for note in notes_on(board))
    return f"**{board.benchmark}**, rule {board.rule}, data {board.data_hash[:12]}\n\n{table}\n{notes}\n"


def as_latex(board: Leaderboard) -> str:
    """The same table for LaTeX with booktabs, the notes as comments."""
    header, rows = _cells(board)
    lines = [" & ".join(map(_latex, line)) + r" \\" for line in (header, *rows)]
    notes = [f"% {' '.join(note.split())}" for note in notes_on(board)]
    columns = "lll" + "r" * (len(header) - 3)
    about = f"% {board.benchmark}, rule {board.rule}, data {board.data_hash[:12]}"
    table = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([about, *notes, *table, r"\end{tabular}"])


def flat(board: Leaderboard) -> list[dict[str, Any]]:
    """One flat record a model, and a null baseline."""
    return [
        {
            "benchmark": board.benchmark,
            "rule": board.rule,
            "data_hash": board.data_hash,
            "name": entry.name,
            "family": entry.family,
            "overall": entry.overall,
            **_bounds(entry, OVERALL, OVERALL),
            "rank_best": entry.ranks[0] if entry.ranks else None,
            "rank_worst": entry.ranks[1] if entry.ranks else None,
            "tied_with_next": entry.tied,
            **{f"section:{name}": value for name, value in entry.sections.items()},
            **{
                bound: value
                for name in entry.sections
                for bound, value in _bounds(entry, name, f"section:{name}").items()
            },
            **{f"subset:{name}": cell.accuracy for name, cell in entry.subsets.items()},
            "rows": entry.rows,
            "rows_missing": entry.rows_missing,
            "ties": entry.ties,
            "truncated": entry.truncated,
            "not_finite": entry.not_finite,
            "unparsed": entry.unparsed,
            "within_noise": entry.within_noise,
            "gpu_hours": entry.gpu_hours,
            "dollars": entry.dollars,
            "failure": entry.failure,
        }
        for entry in (*board.entries, *board.nulls)
    ]


def _bounds(entry: Entry, cell: str, name: str) -> dict[str, float | None]:
    """The two ends of a cell's interval as columns."""
    found = entry.intervals.get(cell)
    low, high = (None, None) if found is None else (found.low, found.high)
    return {f"{name}_low": low, f"{name}_high": high}


def notes_on(board: Leaderboard) -> list[str]:
    """What a reader must know: incomplete models, absent sections, scores that are no numbers, texts without any."""
    notes = []
    for entry in board.entries:
        if not entry.complete:
            reason = f": {entry.failure}" if entry.failure else ""
            notes.append(f"{entry.name} is incomplete: {entry.rows_missing} of {entry.rows} rows missing{reason}")
        if entry.not_finite:
            notes.append(f"{entry.name}: {entry.not_finite} rows have a score that is not a number; they count as lost")
        if entry.unparsed:
            scored = entry.rows - entry.rows_missing
            notes.append(f"{entry.name}: {entry.unparsed} of {scored} rows have a text without a verdict; see `scores`")
    if noisy := [f"{entry.name} {entry.within_noise}" for entry in board.entries if entry.within_noise]:
        notes.append(f"verdicts that numerical noise could turn (what `check` lets pass): {', '.join(noisy)}")
    if any(entry.tied for entry in board.entries):
        notes.append(f"{TIED.strip()}: the rows do not tell this model from the next one (95%, paired bootstrap)")
    if board.entries and board.entries[0].complete:
        absent = [name for name, value in board.entries[0].sections.items() if value is None]
        if absent:
            notes.append(f"no rows of {', '.join(absent)}: the overall is the mean of the other sections")
    return notes


def listing(rows: Sequence[Mapping[str, Any]], output: str, title: str) -> str:
    """Records with the same keys, at least one, as a table in an output format."""
    if output == "json":
        return json.dumps(rows, indent=1, ensure_ascii=False)
    header = list(rows[0])
    lines = [["" if value is None else str(value) for value in row.values()] for row in rows]
    if output == "csv":
        return "\n".join(_csv_line(line) for line in [header, *lines])
    if output == "markdown":
        ruled = [header, ["---"] * len(header), *lines]
        return "\n".join("| " + " | ".join(map(markdown, line)) + " |" for line in ruled)
    return _text_table(header, lines, title)


def print_scores(lines: Iterable[dict[str, Any]], output: str) -> None:
    """Stream scores to standard output; text shows the first rows only when it goes to a terminal.

    What a judge wrote is in JSON and JSON lines alone.
    """
    if output == "json":
        found = [{**line, "score": finite(line["score"])} for line in lines]
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    if output == "jsonl":
        for line in lines:
            print(json.dumps({**line, "score": finite(line["score"])}, ensure_ascii=False))
        return
    shown = islice(lines, 50) if output == "text" and sys.stdout.isatty() else lines
    rows = [
        {name: "" if value is None else str(value) for name, value in line.items() if name != "texts"} for line in shown
    ]
    if rows:
        print(listing(rows, output, "scores").rstrip("\n"))


def finite(value: float | None) -> float | str | None:
    """JSON has no NaN and no infinity: they are written as text."""
    return value if value is None or math.isfinite(value) else str(value)


def _as_text(board: Leaderboard) -> str:
    header, rows = _cells(board)
    title = f"{board.benchmark}, rule {board.rule}, data {board.data_hash[:12]}"
    return _text_table(header, rows, title) + "".join(f"note: {note}\n" for note in notes_on(board))


def _cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the readable tables, percentages to one decimal."""
    sections = list(board.entries[0].sections) if board.entries else []
    header = ["rank", "model", "family", "overall", "95%", "ranks", *sections, "rows", "missing", "ties", "truncated"]
    header += ["GPU-hours", "dollars"]
    rows = []
    for rank, entry in placed(board):
        numbers = [entry.rows, entry.rows_missing, entry.ties, entry.truncated]
        percentages = [percent(entry.sections[name]) for name in sections]
        sure = [percent(entry.overall), span(entry.intervals.get(OVERALL)), ranks(entry)]
        took = [amount(entry.gpu_hours, 3), amount(entry.dollars, 2)]
        rows.append([str(rank or "-"), entry.name, entry.family, *sure, *percentages, *map(str, numbers), *took])
    return header, rows


def placed(board: Leaderboard) -> list[tuple[int | None, Entry]]:
    """Ranks and entries as a table shows them: null baselines that were not run stand among the ranked, unranked."""
    ranked = [(rank if entry.complete else None, entry) for rank, entry in enumerate(board.entries, 1)]
    whole = [pair for pair in ranked if pair[1].complete] + [(None, entry) for entry in board.nulls]
    whole.sort(key=lambda pair: -(pair[1].overall if pair[1].overall is not None else -1.0))
    return whole + [pair for pair in ranked if not pair[1].complete]


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal, a dash for nothing."""
    return "-" if value is None else f"{100 * value:.1f}"


def amount(value: float | None, digits: int) -> str:
    """A number with so many decimals, a dash for nothing."""
    return "-" if value is None else f"{value:,.{digits}f}"


def span(found: Interval | None) -> str:
    """An interval in percent, a dash for none."""
    return "-" if found is None else f"{percent(found.low)}-{percent(found.high)}"


def ranks(entry: Entry) -> str:
    """The ranks that the rows leave open, with a mark where they do not tell a model from the next one."""
    if entry.ranks is None:
        return "-"
    low, high = entry.ranks
    return (f"{low}" if low == high else f"{low}-{high}") + (TIED if entry.tied else "")


def _text_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    table = Table(title=escape(title), title_justify="left")
    for index, name in enumerate(header):
        numeric = bool(rows) and all(_numeric(row[index]) for row in rows)
        table.add_column(escape(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    buffer = io.StringIO()
    width = None if sys.stdout.isatty() else WIDTH
    Console(file=buffer, width=width or Console().width, force_terminal=False).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _numeric(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "", 1).lstrip("-").isdigit()


def _csv_line(cells: Sequence[Any]) -> str:
    """One record without its line end; `csv` quotes only the line breaks that its own line end holds."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n")


def markdown(cell: str) -> str:
    """Text that Markdown shows as it is: no markup, link or HTML, and no further cell or line."""
    one_line = " ".join(cell.splitlines())
    return re.sub(r"([\\`*\[\]|])", r"\\\1", one_line.replace("&", "&amp;").replace("<", "&lt;"))


LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "≈": r"$\approx$"}
)


def _latex(cell: str) -> str:
    return " ".join(cell.split()).translate(LATEX)
