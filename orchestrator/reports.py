"""Pure: a night's report as one line, JSON, Markdown, a page and a message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from orchestrator import tables, webhook
from orchestrator.benchmarks import OVERALL
from orchestrator.changes import Changes, Moved
from orchestrator.charts import charts
from orchestrator.drift import Drift
from orchestrator.records import Outcome
from orchestrator.site import render
from orchestrator.snapshots import FOLDER, Snapshot

OK, REGRESSION, INCOMPLETE = 0, 10, 20
STATES = {OK: "ok", REGRESSION: "regression", INCOMPLETE: "incomplete"}
POSTED_LINES = 20


@dataclass(frozen=True)
class Report:
    """A night and what it found. `problems` are why it is incomplete, `notes` what is worth knowing besides."""

    snapshot: Snapshot
    changes: tuple[Changes, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    outcome: Outcome
    store: str

    @property
    def regressions(self) -> list[str]:
        """Significant falls of an overall and alarms of drift, over all benchmarks."""
        return [line for one in self.changes for line in one.regressions]

    @property
    def code(self) -> int:
        """The exit code. What is missing may hide a regression, so it comes first."""
        return INCOMPLETE if self.problems else REGRESSION if self.regressions else OK

    @property
    def place(self) -> str:
        """The folder of the night."""
        return f"{self.store}/{FOLDER}/{self.snapshot.night}"

    @property
    def title(self) -> str:
        """The night and how it ended."""
        return f"Nightly {self.snapshot.night}: {STATES[self.code]}"

    @property
    def counts(self) -> list[str]:
        """What there is to tell, in numbers; empty where nothing is different."""
        made = self.changes
        numbers = {
            "regression": len(self.regressions),
            "problem": len(self.problems),
            "new model": len({name for one in made for name in one.new}),
            "removed model": len({name for one in made for name in one.removed}),
            "recovered model": len({name for one in made for name in one.recovered}),
            "changed data set": sum(one.data is not None for one in made),
            "changed model": len({moved.model for one in made for moved in one.moved}),
            "significant move": sum(bool(moved.significant) for one in made for moved in one.moved),
            "drift alarm": sum(found.alarm for one in made for found in one.drifts),
            "changed rank": sum(len(one.places) for one in made),
        }
        return [f"{count} {what}{'' if count == 1 else 's'}" for what, count in numbers.items() if count]

    def to_json(self) -> dict[str, Any]:
        """The object of report.json."""
        return {
            "schema": 1,
            "night": self.snapshot.night,
            "previous": self.snapshot.previous,
            "made": self.snapshot.made,
            "state": STATES[self.code],
            "exit_code": self.code,
            "regressions": self.regressions,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "account": asdict(self.outcome.account),
            "costs": [asdict(cost) for cost in self.outcome.costs],
            "benchmarks": [_changes_json(one) for one in self.changes],
        }


def files_of(report: Report) -> dict[str, bytes]:
    """The report in the forms that a night keeps."""
    return {
        "report.json": _json(report, indent=1).encode(),
        "report.md": as_markdown(report).encode(),
        "index.html": as_page(report).encode(),
    }


def printed(report: Report, output: str) -> str:
    """What the command prints: one line, unless the Markdown is asked for."""
    if output == "markdown":
        return as_markdown(report).rstrip("\n")
    return _json(report, indent=None) if output == "json" else line(report)


def line(report: Report) -> str:
    """The night in one line."""
    account = report.outcome.account
    models = {model["name"] for board in report.snapshot.boards.values() for model in board["models"]}
    told = ", ".join(report.counts) or ("nothing changed" if report.snapshot.previous else "the first night")
    return (
        f"nightly {report.snapshot.night}: {STATES[report.code]}; {len(models)} models, {account.scored} of "
        f"{account.asked} measurements scored; {told}; {report.place}/report.md"
    )


def payload(report: Report) -> dict[str, Any]:
    """The message to a webhook."""
    told = [*report.problems, *report.regressions, *report.notes]
    more = [f"and {len(told) - POSTED_LINES} more"] if len(told) > POSTED_LINES else []
    counts = [", ".join(report.counts) or "nothing changed"]
    return webhook.message(report.title, [*counts, *told[:POSTED_LINES], *more], f"{report.place}/report.md")


def front_page(report: Report) -> bytes:
    """The page once more, for the folder above the night's."""
    return as_page(report, f"{report.snapshot.night}/").encode()


def as_page(report: Report, folder: str = "") -> str:
    """The report as a page, with the last nights as lines; `folder` leads from the page to the night's files."""
    before = report.snapshot.previous
    nav = [(f"leaderboard of {one.benchmark}", f"{folder}{quote(one.benchmark)}/index.html") for one in report.changes]
    return render(
        "nightly",
        report.title,
        nav=[*nav, (f"night of {before}", f"{folder}../{before}/index.html")] if before else nav,
        report=report,
        state=STATES[report.code],
        sections=[(one.benchmark, list(_tables(one)), list(_words(one))) for one in report.changes],
        charts=charts(report.snapshot),
    )


def as_markdown(report: Report) -> str:
    """The report for people and for issue trackers."""
    snapshot, account = report.snapshot, report.outcome.account
    since = f"compared with {snapshot.previous}" if snapshot.previous else "the first night: nothing to compare with"
    parts = [
        f"# {report.title}",
        f"Made {snapshot.made}, {since}. {account.scored} of {account.asked} measurements were scored, "
        f"{account.reused} were in the store. {', '.join(report.counts) or 'Nothing changed'}.",
        *_list("Regressions", report.regressions),
        *_list("Incomplete", report.problems),
        *_list("Notes", report.notes),
    ]
    for one in report.changes:
        parts.append(f"## {tables.markdown(one.benchmark)}, rule {tables.markdown(one.rule)}")
        words, found = _words(one), _tables(one)
        parts += [f"- {tables.markdown(said)}" for said in words] or ([] if found else ["Nothing changed."])
        for title, rows in found:
            parts += [f"### {title}", tables.listing(rows, "markdown", title)]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _list(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", *(f"- {tables.markdown(words)}" for words in lines)] if lines else []


def _words(one: Changes) -> list[str]:
    """What came, went and failed on one benchmark."""
    if one.first:
        return ["the first night with this benchmark"]
    found = []
    if one.earlier_rule is not None:
        found.append(f"rule: was {one.earlier_rule}; ranks are not compared")
    if one.data is not None:
        rows = "" if one.data.added is None else f": {one.data.added} rows came, {one.data.gone} went"
        found.append(f"data: was {one.data.before[:12]}, is {one.data.after[:12]}{rows}")
    names = {"new": one.new, "removed": one.removed, "recovered": one.recovered}
    return found + [f"{what}: {', '.join(models)}" for what, models in names.items() if models]


def _tables(one: Changes) -> list[tuple[str, list[dict[str, str]]]]:
    """What changed in numbers, as titled tables; those without rows are left out."""
    found = [
        (
            "Without a whole result",
            [_missing_row(gap.model, gap.rows_missing, gap.since, gap.reason) for gap in one.missing],
        ),
        ("Scores made otherwise than before", [_moved_row(moved) for moved in one.moved]),
        ("Sections that moved significantly", [row for moved in one.moved for row in _section_rows(moved)]),
        ("Drift of unchanged models under other versions", [_drift_row(drifted) for drifted in one.drifts]),
        ("Ranks", [{"model": p.model, "before": str(p.before), "after": str(p.after)} for p in one.places]),
    ]
    return [(title, rows) for title, rows in found if rows]


def _missing_row(model: str, rows: int, since: str | None, reason: str) -> dict[str, str]:
    return {"model": model, "rows missing": str(rows), "last whole": since or "never", "reason": reason}


def _moved_row(moved: Moved) -> dict[str, str]:
    tested = moved.cells[0] if moved.cells else None
    return {
        "model": moved.model,
        "since": moved.since,
        "what changed": ", ".join(moved.causes),
        "overall": f"{tables.percent(moved.before)} -> {tables.percent(moved.after)}",
        "difference on shared rows": f"{100 * tested.difference:+.1f}" if tested else "-",
        "95%": f"{100 * tested.low:+.1f} to {100 * tested.high:+.1f}" if tested else "-",
        "p, Holm": f"{tested.p_holm:.2g}" if tested else "-",
        "rows": str(moved.rows),
        "verdict": moved.note or ("significant" if tested in moved.significant else "within chance"),
    }


def _section_rows(moved: Moved) -> list[dict[str, str]]:
    return [
        {
            "model": moved.model,
            "section": cell.cell,
            "difference": f"{100 * cell.difference:+.1f}",
            "p, Holm": f"{cell.p_holm:.2g}",
        }
        for cell in moved.significant
        if cell.cell != OVERALL
    ]


def _drift_row(found: Drift) -> dict[str, str]:
    return {
        "model": found.model,
        "versions": ", ".join(found.versions),
        "scores": str(found.requests),
        "largest": f"{found.largest:.3g}",
        "median": f"{found.median:.3g}",
        "beyond noise": str(found.beyond),
        "other tokens": str(found.retokenised),
        "other texts": str(found.texts),
        "verdicts turned": f"{found.turned} of {found.rows}",
        "verdict": "ALARM" if found.alarm else "holds",
    }


def _changes_json(one: Changes) -> dict[str, Any]:
    """Fractions, as in the leaderboard; infinite differences as text."""
    values = asdict(one)
    for moved, row in zip(one.moved, values["moved"], strict=True):
        row["significant"] = [cell.cell for cell in moved.significant]
    for drifted, row in zip(one.drifts, values["drifts"], strict=True):
        row["alarm"] = drifted.alarm
        row |= {name: tables.finite(row[name]) for name in ("largest", "median")}
    return values


def _json(report: Report, indent: int | None) -> str:
    return json.dumps(report.to_json(), indent=indent, ensure_ascii=False, allow_nan=False)
