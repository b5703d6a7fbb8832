"""The driver over a pool in this process: real workers and engines, and every kind of failure once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from orchestrator import driver
from orchestrator.benchmarks import Example
from orchestrator.cost import Placement
from orchestrator.events import Done, Event, Failed, Linted, Load, Ready, Start
from orchestrator.faults import Limits
from orchestrator.local_pool import LocalPool
from orchestrator.pin import pin_model
from orchestrator.plan import Plan, make_plan
from orchestrator.scheduler import Scheduler
from orchestrator.streams import StreamState
from tests.scripted_engine import SCRIPT, Script
from workers.actor import Sink
from workers.errors import EngineError, ModelError, StoreError
from workers.protocol import Finding, Measurement, Message, Model, ModelSpec

EXAMPLES = [
    Example("easy", str(row), (Message("user", f"q{row}"),), (f"good {row}" + "!" * row, f"bad {row}"))
    for row in range(6)
]
TOTAL = 2 * len(EXAMPLES)
SHARD_ROWS = 4


@pytest.fixture(autouse=True)
def script() -> Iterator[Script]:
    """The scripted engine's script, empty before and after each test."""
    SCRIPT.clear()
    yield SCRIPT
    SCRIPT.clear()


class Kept:
    """A sink in memory; raises what it is told to, once each."""

    def __init__(self, *problems: BaseException) -> None:
        self.rows: list[Measurement] = []
        self.provenance: list[Mapping[str, str]] = []
        self.problems = list(problems)

    def __call__(self, spec: ModelSpec, rows: Sequence[Measurement], provenance: Mapping[str, str]) -> None:
        if self.problems:
            raise self.problems.pop(0)
        self.rows += rows
        self.provenance.append(provenance)


def baseline(name: str, score: str) -> Model:
    return pin_model(name, {"family": "baseline", "options": {"score": score}}, cuda=False)


def scripted(name: str = "odd") -> Model:
    entry = {"family": "baseline", "engine": "tests.scripted_engine", "options": {"of": name}}
    return pin_model(name, entry, cuda=False)


class Sweep:
    """A plan, its scheduler and its pool; `states` by model once it has run."""

    def __init__(self, *models: Model, sink: Sink, **limits: Any) -> None:
        self.plan: Plan = make_plan(models, {"b": EXAMPLES}, {}, {}, SHARD_ROWS)
        self.pool = LocalPool(sink, {name: stream.owed for name, stream in self.plan.streams.items()}, gpus=0)
        self.scheduler = Scheduler(self.plan.streams.values(), self.pool.capacity(), Limits(**limits))
        self.events: list[Event] = []

    def run(self) -> dict[str, StreamState]:
        try:
            driver.run(self.scheduler, self.pool, lambda event: self.events.append(event) if event else None)
        finally:
            self.pool.close()
        assert self.scheduler.finished
        return {state.spec.name: state for state in self.scheduler.streams.values()}


def test_models_are_scored_whole_one_after_the_other() -> None:
    sink = Kept()
    models = [baseline("longest", "longest"), baseline("shortest", "shortest"), baseline("random", "random")]
    states = Sweep(*models, sink=sink).run()
    assert {name: (state.done, state.failures) for name, state in states.items()} == {
        name: (TOTAL, []) for name in ("longest", "shortest", "random")
    }
    assert len({row.key for row in sink.rows}) == len(sink.rows) == 3 * TOTAL
    assert states["longest"].tokens == sum(len(text) for example in EXAMPLES for text in example.responses)


def test_the_kept_values_are_the_models() -> None:
    sink = Kept()
    sweep = Sweep(baseline("longest", "longest"), sink=sink)
    sweep.run()
    (stream,) = sweep.plan.streams.values()
    lengths = {request.digest: float(len(request.responses[0])) for request in stream.owed}
    assert {row.request: row.value for row in sink.rows} == lengths
    assert [facts["shard"] for facts in sink.provenance] == [shard.id for shard in stream.shards]


def test_a_worker_lints_all_its_requests_then_loads_then_scores(script: Script) -> None:
    sweep = Sweep(scripted(), sink=Kept())
    sweep.run()
    assert script.log == [f"lint odd {TOTAL}", "load odd", *["run odd"] * 3, "close odd"]
    assert [type(event) for event in sweep.events] == [Linted, Ready, Done, Done, Done]


@pytest.mark.parametrize("problem", [EngineError("CUDA error"), RuntimeError("CUDA error")], ids=["own", "foreign"])
def test_an_error_that_passes_is_tried_again_by_a_fresh_engine(script: Script, problem: Exception) -> None:
    script.runs += [None, problem]
    sink = Kept()
    states = Sweep(scripted(), sink=sink).run()
    assert (states["odd"].done, states["odd"].failures, states["odd"].failed) == (TOTAL, [], None)
    assert len({row.key for row in sink.rows}) == len(sink.rows) == TOTAL
    assert script.log[1:] == [
        *["load odd", "run odd", "run odd", "close odd"],
        "load odd",
        *["run odd"] * 2,
        "close odd",
    ]


def test_an_error_that_stays_costs_one_row(script: Script) -> None:
    """The last shard fails twice, so does its first half once, and the first row of that twice more."""
    script.runs += [None, None, *[ValueError("odd\nshape")] * 3, None, ValueError("odd\nshape"), None]
    script.runs += [ValueError("odd\nshape")]
    states = Sweep(scripted(), baseline("longest", "longest"), sink=Kept(), max_attempts=2).run()
    ((_, reason),) = states["odd"].quarantined
    assert reason.endswith("ValueError: odd")
    assert (states["odd"].done, states["odd"].failures) == (TOTAL - 1, [])
    assert states["longest"].done == TOTAL


def test_a_request_without_a_score_costs_one_row_and_is_not_tried_again(script: Script) -> None:
    script.unscored.append("one conversation of 9 tokens does not fit")
    states = Sweep(scripted(), sink=Kept()).run()
    ((shard, reason),) = states["odd"].failures
    assert (len(shard.requests), reason) == (1, "one conversation of 9 tokens does not fit")
    assert states["odd"].done == TOTAL - 1


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (ModelError("models.odd: no head"), "models.odd: no head"),
        (OSError("no such file"), "model 'odd': cannot be loaded: OSError: no such file"),
    ],
    ids=["own", "foreign"],
)
def test_a_model_that_cannot_be_loaded_is_given_up_with_its_reason(
    script: Script, problem: Exception, reason: str
) -> None:
    script.loads.append(problem)
    states = Sweep(scripted(), baseline("longest", "longest"), sink=Kept()).run()
    assert (states["odd"].failed, states["odd"].failed_rows, states["odd"].done) == (reason, TOTAL, 0)
    assert states["longest"].done == TOTAL
    assert script.log == [f"lint odd {TOTAL}", "load odd"]


def test_a_preflight_that_fails_loads_nothing(script: Script) -> None:
    script.findings.append(Finding("template", "error", "no chat template"))
    states = Sweep(scripted(), sink=Kept()).run()
    assert states["odd"].failed == "preflight: no chat template"
    assert script.log == [f"lint odd {TOTAL}"]


def test_a_preflight_that_breaks_gives_up_the_model(script: Script) -> None:
    script.lints.append(KeyError("chat_template"))
    states = Sweep(scripted(), sink=Kept()).run()
    assert states["odd"].failed == "model 'odd': preflight failed: KeyError: 'chat_template'"
    assert "load odd" not in script.log


def test_a_store_that_recovers_loses_nothing() -> None:
    sink = Kept(StoreError("disk full"))
    sweep = Sweep(baseline("longest", "longest"), sink=sink)
    assert sweep.run()["longest"].done == len(sink.rows) == TOTAL
    assert sweep.scheduler.aborted is None


def test_a_store_that_stays_broken_aborts_everything() -> None:
    sink = Kept(*[StoreError("disk full")] * 100)
    sweep = Sweep(baseline("longest", "longest"), baseline("random", "random"), sink=sink)
    states = sweep.run()
    assert str(sweep.scheduler.aborted) == "disk full"
    assert {(state.done, state.failed_rows) for state in states.values()} == {(0, TOTAL)}
    assert sink.rows == []
    reasons = {reason for state in states.values() for _, reason in state.failures}
    assert reasons == {"disk full", "run aborted"}
    assert len(sink.problems) >= 90, "nothing is tried for ever"


@pytest.mark.parametrize("stage", ["lints", "loads", "runs"])
def test_an_interrupt_passes_and_every_engine_is_closed(script: Script, stage: str) -> None:
    planned: list[BaseException | None] = getattr(script, stage)
    planned.append(KeyboardInterrupt())
    sink = Kept()
    sweep = Sweep(scripted(), sink=sink)
    with pytest.raises(KeyboardInterrupt):
        sweep.run()
    assert script.log.count("close odd") == (stage == "runs")
    assert sink.rows == []
    sweep.pool.close()
    assert script.log.count("close odd") == (stage == "runs"), "closed once"


def test_close_ends_all_workers(script: Script) -> None:
    models = [scripted("a"), scripted("b")]
    pool = LocalPool(Kept(), {}, gpus=2)
    for number, model in enumerate(models):
        pool.perform(Start(number, model.streams[0], Placement("cpu", 0, 1, 0.0, ()), ("local",)))
        pool.perform(Load(number))
    assert [type(pool.next_event(1.0)) for _ in models] == [Ready, Ready]
    pool.close()
    assert script.log == ["load a", "load b", "close a", "close b"]


def test_an_answer_that_is_too_short_is_an_error_and_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beside the wrong request would be false scores."""
    monkeypatch.setattr("tests.scripted_engine.ScriptedEngine.run", lambda engine, requests: [])
    sink = Kept()
    sweep = Sweep(scripted(), sink=sink, max_attempts=1)
    state = sweep.run()["odd"]
    assert state.failed_rows + len(state.quarantined) == TOTAL
    assert state.failed is not None, "a model whose every shard fails is given up before all rows were tried alone"
    assert sink.rows == []
    assert all(isinstance(event.error, EngineError) for event in sweep.events if isinstance(event, Failed))
