"""The verb `site`: leaderboards, models, comparisons and insights of a store as one folder of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from orchestrator import cluster, insights, metrics, records, zoo
from orchestrator.benchmarks import Example, Judged, Rule
from orchestrator.compare import comparisons, disagreements
from orchestrator.config import Settings, named_folder
from orchestrator.cost import Gpu
from orchestrator.leaderboards import Scored, board, existing_store, scored, selected_benchmarks
from orchestrator.outlook import compared
from orchestrator.paths import slug
from orchestrator.plan import needs_of
from orchestrator.progress import say
from orchestrator.records import Run
from orchestrator.reducer import Entry, Leaderboard, judge, score_rows
from orchestrator.site import Links, page, render
from orchestrator.spent import spent
from orchestrator.stores import Store, Stream
from orchestrator.tables import amount, percent
from workers.protocol import Measurement, Model, ModelSpec

SCRIPT = (Path(__file__).parent / "site.js").read_text(encoding="utf-8")
WORST = 10
"""Lost rows on a model's page."""
CHARACTERS = 4_000
"""Of each text on a model's page."""


@dataclass(frozen=True)
class Section:
    """One benchmark of the site: its leaderboard and the rows of its complete models, best first."""

    name: str
    rule: Rule
    known: Scored
    board: Leaderboard
    judged: Mapping[str, Sequence[Judged]]
    stream: Callable[[str], Stream]
    devices: Mapping[str, Gpu]

    def read(self, fingerprint: str) -> Mapping[str, Measurement]:
        """The measurements of a fingerprint."""
        return self.stream(fingerprint).rows


def site(settings: Settings) -> int:
    """The verb: write the pages."""
    folder = named_folder(settings)
    store = existing_store(settings)
    runs = records.load_runs(store)
    names = selected_benchmarks(settings, runs)
    pages = dict(_pages([_section(store, settings, name) for name in names], runs, _sizes()))
    for path, html in pages.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(html, encoding="utf-8")
    say(f"{len(pages)} pages: {folder / 'index.html'}")
    return 0


def _sizes() -> dict[str, float]:
    """Billions of parameters of the models that ship, by name."""
    return {listed.name: listed.entry["size"] for listed in zoo.load() if listed.entry.get("size") is not None}


def _section(store: Store, settings: Settings, name: str) -> Section:
    known, made, stream = scored(store, settings, name), board(store, settings, name, []), cache(store.read)
    judged = known.judged(
        [entry.name for entry in made.entries if entry.complete], lambda fingerprint: stream(fingerprint).rows
    )
    devices = cluster.priced(settings.dollars)
    return Section(name, known.benchmark.rule(settings.rule), known, made, judged, stream, devices)


def _pages(sections: Sequence[Section], runs: Sequence[Run], sizes: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Paths below the folder and their HTML; the first benchmark is the front page."""
    fronts = {made.name: "index.html" if at == 0 else f"{made.name}.html" for at, made in enumerate(sections)}
    for made in sections:
        links = {entry.name: f"{made.name}/{slug(entry.name)}.html" for entry in made.board.entries}
        others = [(name, path) for name, path in fronts.items() if name != made.name]
        pairs = _neighbours(made)
        nav = [*others, *([("insights", f"{made.name}/insights.html")] if made.judged else [])]
        yield fronts[made.name], page(made.board, links, sizes, nav, SCRIPT)
        back = [(f"{made.name} leaderboard", f"../{fronts[made.name]}")]
        for entry in made.board.entries:
            beside = [
                (f"compared with {two if one == entry.name else one}", f"{file}.html")
                for (one, two), file in pairs.items()
                if entry.name in (one, two)
            ]
            yield links[entry.name], _model_page(made, entry, [*back, *beside], runs, sizes)
        for (one, two), file in pairs.items():
            yield f"{made.name}/{file}.html", _comparison_page(made, one, two, back)
        if made.judged:
            yield f"{made.name}/insights.html", _insights_page(made, back)


def _neighbours(made: Section) -> dict[tuple[str, str], str]:
    """Pairs of models that follow each other in the ranking, and the files of their comparisons."""
    names = list(made.judged)
    return {(one, two): f"{slug(one)}-and-{slug(two)}" for one, two in pairwise(names)}


def _comparison_page(made: Section, one: str, two: str, nav: Links) -> str:
    pair = {name: made.judged[name] for name in (one, two)}
    return render(
        "comparison",
        f"{one} and {two}",
        nav,
        board=made.board,
        rows=comparisons(pair, made.rule),
        far=disagreements(pair),
    )


def _insights_page(made: Section, nav: Links) -> str:
    whole = [entry for entry in made.board.entries if entry.complete]
    models = {
        entry.name: made.judged[entry.name]
        for entry in whole
        if entry.family != "baseline" and entry.name in made.judged
    }
    found = insights.groups(whole)
    return render(
        "insights",
        f"Insights: {made.name}",
        nav,
        board=made.board,
        models=len(models),
        groups=found,
        says=insights.says(found),
        lengths=insights.lengths(made.judged),
        agreement=insights.agreement(made.judged),
        hardest=insights.hardest(made.known.examples, models) if models else [],
    )


def _model_page(made: Section, entry: Entry, nav: Links, runs: Sequence[Run], sizes: Mapping[str, float]) -> str:
    model = made.known.models.get(entry.name)
    return render(
        "model",
        entry.name,
        nav,
        board=made.board,
        entry=entry,
        type=insights.type_of(entry.family),
        size=sizes.get(entry.name),
        sections=made.rule.sections,
        provenance=[
            _provenance(spec) | measured(made.stream(spec.fingerprint), made.devices)
            for spec in (model.streams if model else ())
        ],
        history=list(_history(made, entry.name, runs)),
        worst=_worst(made.judged.get(entry.name, ())),
    )


def _provenance(spec: ModelSpec) -> dict[str, str]:
    """What a score depends on, as text; what is not set is left out."""
    shown = {
        **spec.identity,
        "environment": ", ".join(map(" ".join, spec.environment)),
        "fingerprint": spec.fingerprint,
    }
    return {name: str(value) for name, value in shown.items() if value not in (None, "", {}, (), [])}


def measured(stream: Stream, devices: Mapping[str, Gpu]) -> dict[str, str]:
    """What the parts of a stream say: where and with what they were computed, tokens, hours of GPUs with loading."""
    parts = stream.provenance
    said = {name: sorted({part[name] for part in parts if part.get(name)}) for name in SAID}
    took = spent(parts, devices)
    work = f"{took.tokens:,} tokens in {took.compute_seconds:,.1f} s, {took.seconds:,.1f} s with loading"
    told = {
        "GPU-hours": amount(took.gpu_hours, 3) if took.gpu_hours else "",
        "CPU-hours": amount(took.cpu_hours, 3) if took.cpu_hours else "",
        "dollars": amount(took.dollars, 2) if took.on_devices else "",
        "MFU": "" if took.mfu is None else f"{percent(took.mfu)}%",
    }
    facts = {f"measured: {name}": ", ".join(values) for name, values in said.items() if values} | {"work": work}
    return facts | {name: value for name, value in told.items() if value}


SAID = ("device", "attention", "architecture", "parameters", "commit", "rewardsweep")
"""Facts of the footers that a page shows; the name of a host is none of them."""


def _history(made: Section, name: str, runs: Sequence[Run]) -> Iterator[dict[str, str | float | None]]:
    """The runs that asked for the model, latest first; scores are made from the store where the rows are today's."""
    overall = partial(_overall, made, {})
    for run in reversed(runs):
        asked = {model.name: model for model in run.models}
        if name in asked and made.name in run.benchmarks:
            specs = {spec.name for spec in asked[name].streams}
            took = [one for one in compared(lambda one: made.stream(one).provenance, run, made.devices)]
            costs = [cost for cost in run.outcome.costs if cost.model == name] if run.outcome else []
            yield {
                "started": run.started,
                "state": run.outcome.state if run.outcome else "running, or killed",
                "overall": overall(asked[name]) if run.benchmarks[made.name] == made.known.data_hash else None,
                "identity": " ".join(spec.fingerprint[:12] for spec in asked[name].streams),
                "data": run.benchmarks[made.name][:12],
                "commit": run.facts.get("commit", "")[:12],
                "cost": ", ".join(f"${cost.dollars:.2f}" for cost in costs if cost.dollars is not None),
                "seconds": ", ".join(
                    f"{one.measured.seconds:,.1f} ({one.predicted['seconds']:,.1f})"
                    for one in took
                    if one.model in specs
                ),
            }


def _overall(made: Section, known: dict[tuple[str, ...], float | None], model: Model) -> float | None:
    """The overall of a model as a run pinned it, each identity reduced once."""
    identity = tuple(spec.fingerprint for spec in model.streams)
    if identity and identity not in known:
        needs = needs_of([model], made.known.examples)
        rows = judge(model, score_rows(model, needs[model.asks], made.read))
        whole = len(rows) == len(made.known.examples)
        known[identity] = metrics.score(rows, made.rule).overall if whole else None
    return known.get(identity)


def _worst(rows: Sequence[Judged]) -> list[dict[str, Any]]:
    """The rows lost by the widest margin, with their texts."""
    lost = [(metrics.margin(row), row.example) for row in rows if metrics.margin(row) < 0]
    lost.sort(key=lambda pair: (pair[0], pair[1].key))
    return [
        {"subset": row.subset, "id": row.id, "margin": margin, "texts": list(_texts(row))}
        for margin, row in lost[:WORST]
    ]


def _texts(row: Example) -> Iterator[tuple[str, str]]:
    for turn in row.prompt:
        yield turn.role, _cut(turn.content)
    for at, response in enumerate(row.responses):
        yield "chosen" if at < row.num_chosen else "rejected", _cut(response)


def _cut(text: str) -> str:
    more = len(text) - CHARACTERS
    return text if more <= 0 else f"{text[:CHARACTERS]}\n[{more:,} more characters]"
