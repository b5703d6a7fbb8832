"""`deploy/dashboards`: alerts tested by promtool; the dashboard asks for metrics that exist, in queries that parse."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT
from tests.test_deploy_kuberay import crd

pytestmark = pytest.mark.deploy
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)"
)

DASHBOARDS = ROOT / "deploy" / "dashboards"
TELEMETRY = "orchestrator.telemetry"
AGREED = {
    "rewardsweep_rows_total": ("model", "state"),
    "rewardsweep_tokens_total": ("model",),
    "rewardsweep_mfu": ("model",),
    "rewardsweep_ooms_total": ("model",),
    "rewardsweep_retries_total": ("model",),
    "rewardsweep_queue_shards": ("model",),
    "rewardsweep_gpu_seconds_total": ("model", "kind", "phase"),
    "rewardsweep_dollars_total": ("model",),
    "rewardsweep_sweep_progress": (),
    "rewardsweep_owed_rows": (),
    "rewardsweep_last_event_timestamp_seconds": (),
}
"""The contract with the code that exports: every metric and its labels."""
PREFIX = "ray_"
"""What Ray puts before the name of a metric of its users."""


def exported() -> Mapping[str, tuple[str, ...]]:
    """The metrics as the code exports them, where this version has that code."""
    if importlib.util.find_spec(TELEMETRY) is None:
        return AGREED
    return {metric.name: tuple(metric.labels) for metric in importlib.import_module(TELEMETRY).METRICS}


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DASHBOARDS / "grafana.json").read_text(encoding="utf-8"))
    return loaded


def panel_queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((DASHBOARDS / "rules.yaml").read_text(encoding="utf-8"))
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def metrics(query: str) -> dict[str, set[str]]:
    """Every metric of rewardsweep that a query asks for, with the labels it selects by."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"\b((?:ray_)?rewardsweep_\w+)(\{[^}]*\})?", query):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", selector))
    return found


def test_the_code_exports_what_was_agreed() -> None:
    assert exported() == AGREED


@pytest.mark.parametrize("query", [*panel_queries(), *(rule["expr"] for rule in rules())])
def test_a_query_names_metrics_and_labels_that_exist(query: str) -> None:
    known = {PREFIX + name: set(labels) for name, labels in exported().items()}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = metrics(query)
    assert asked or any(name in query for name in recorded) or query.startswith("vector(")
    for name, labels in asked.items():
        assert name in known, f"no metric {name}"
        assert labels <= known[name], f"{name} has no label {labels - known[name]}"
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
    assert grouped <= set().union(*(known[name] for name in asked)) | set()


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for query in panel_queries() for name in metrics(query)}
    assert shown == {PREFIX + name for name in exported()}


def test_panels_have_places_of_their_own_and_a_source() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


@needs_promtool
def test_queries_of_the_dashboard_parse(tmp_path: Path) -> None:
    """Prometheus itself reads them, as recording rules, with Grafana's variables filled in."""
    filled = [query.replace("$__rate_interval", "5m").replace("$model", ".*") for query in panel_queries()]
    written = {
        "groups": [{"name": "panels", "rules": [{"record": f"panel:{n}", "expr": q} for n, q in enumerate(filled)]}]
    }
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump(written))
    promtool("check", "rules", str(tmp_path / "panels.yaml"))


@needs_promtool
def test_alerts_hold_against_scripted_series() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", str(DASHBOARDS / "rules.yaml"))
    promtool("test", "rules", str(DASHBOARDS / "rules.test.yaml"))
    tested = (DASHBOARDS / "rules.test.yaml").read_text(encoding="utf-8")
    for rule in rules():
        assert "record" in rule or re.search(rf"alertname: {rule['alert']}\n +exp_alerts", tested), rule["alert"]


@needs_promtool
@pytest.mark.parametrize(("old", "new"), [("> 0.05", "> 0.5"), ("for: 30m", "for: 3h"), ("[1d]", "[10d]")])
def test_the_tests_of_alerts_find_a_change(tmp_path: Path, old: str, new: str) -> None:
    text = (DASHBOARDS / "rules.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "rules.yaml").write_text(text.replace(old, new))
    shutil.copy(DASHBOARDS / "rules.test.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", "rules.test.yaml"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode != 0


def test_the_rules_make_a_prometheus_rule_of_the_operator() -> None:
    """What docs/deploy/dashboards.md pipes into kubectl."""
    done = subprocess.run(["sh", str(DASHBOARDS / "prometheus-rule.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = yaml.safe_load(done.stdout)
    assert [rule for group in made["spec"]["groups"] for rule in group["rules"]] == rules()
    jsonschema.validate(made, crd("PrometheusRule"))


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
