"""What a plan says: a line a stream of measurements and the sweep as a whole; what a run keeps of it for later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator import tables
from orchestrator.checkpoints import UNPINNED
from orchestrator.placing import Predicted, Prediction
from orchestrator.plan import StreamPlan
from orchestrator.progress import duration
from workers.protocol import ModelSpec

SWEEP = ""
"""The name under which a run's record keeps what concerns the whole sweep."""


def show(found: Prediction, output: str) -> str:
    """What a run would do and take."""
    rows = [_row(stream, found.streams[name]) for name, stream in found.plan.streams.items()]
    if output == "json":
        return json.dumps({**_totals(found), "streams": rows}, indent=1, ensure_ascii=False)
    if output == "csv":
        return tables.listing(rows, output, "plan")
    return tables.listing([_cells(row) for row in rows], output, "plan") + "\n".join(_lines(found, rows, output))


def record(found: Prediction) -> dict[str, dict[str, float]]:
    """What a run keeps of its prediction, by fingerprint."""
    kept = {
        name: {"tokens": one.tokens, "seconds": one.seconds, "gpu_hours": one.gpu_hours, "dollars": one.dollars}
        for name, one in found.streams.items()
        if one.shares
    }
    if not kept:
        return {}
    return {**kept, SWEEP: {"makespan": found.forecast.makespan, "bound": found.forecast.bound}}


def pinned(spec: ModelSpec) -> bool:
    """Whether everything that the spec names is known by its content."""
    return UNPINNED not in f"{spec.weights} {spec.tokenizer_files}"


def _row(stream: StreamPlan, found: Predicted) -> dict[str, Any]:
    spec = stream.spec
    by_file = "" if pinned(spec) else "by its file, not pinned: "
    return {
        "model": spec.name,
        "family": spec.family,
        "engine": spec.engine,
        "engine_reason": spec.engine_reason,
        "dtype": spec.dtype,
        "fingerprint": spec.fingerprint,
        "pinned": pinned(spec),
        "wanted": stream.total,
        "reused": stream.reused,
        "owed": len(stream.owed),
        "shards": len(stream.shards),
        "tokens": found.tokens,
        "placement": found.placement,
        "replicas": len(found.shares),
        "seconds": round(found.seconds, 1),
        "gpu_hours": round(found.gpu_hours, 4),
        "dollars": round(found.dollars, 2),
        "rates": found.rates,
        "why_not": found.why_not,
        "reason": f"{by_file}{stream.reason}",
    }


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a person reads."""
    placed = row["placement"] or ("none" if row["why_not"] else "-")
    return {
        "model": row["model"],
        "engine": row["engine"],
        "dtype": row["dtype"],
        "owed": row["owed"],
        "reused": row["reused"],
        "tokens": row["tokens"],
        "placement": placed,
        "replicas": row["replicas"],
        "GPU-hours": f"{row['gpu_hours']:.3f}",
        "dollars": f"{row['dollars']:.2f}",
        "why": row["reason"],
    }


def _totals(found: Prediction) -> dict[str, Any]:
    plan, sweep = found.plan, found.forecast
    return {
        "wanted": plan.total,
        "reused": plan.total - plan.owed,
        "owed": plan.owed,
        "tokens": sum(one.tokens for one in found.streams.values()),
        "gpu_hours": round(found.gpu_hours, 4),
        "dollars": round(found.dollars, 2),
        "makespan_seconds": round(sweep.makespan, 1),
        "lower_bound_seconds": round(sweep.bound, 1),
        "makespan_over_bound": round(sweep.ratio, 4),
        "impossible": {found.plan.streams[name].spec.name: found.streams[name].why_not for name in sweep.impossible},
    }


def _lines(found: Prediction, rows: list[dict[str, Any]], output: str) -> list[str]:
    """The sweep in sentences."""
    plan, sweep = found.plan, found.forecast
    lines = ["", ""] if output == "markdown" else []
    lines.append(f"{plan.owed} of {plan.total} measurements are owed")
    if any(one.shares for one in found.streams.values()):
        lines.append(
            f"predicted: {duration(sweep.makespan)}, at least {duration(sweep.bound)} (ratio {sweep.ratio:.3f}); "
            f"{found.gpu_hours:,.2f} GPU-hours, ${found.dollars:,.2f}"
        )
    rates = dict.fromkeys(row["rates"].partition(";")[0] for row in rows if row["rates"])
    lines += [f"rate: {rate}" for rate in rates]
    lines += [f"not placed: {row['model']}: {row['why_not']}" for row in rows if row["why_not"]]
    unpinned = sum(not row["pinned"] for row in rows)
    if unpinned:
        lines.append(
            f"{unpinned} of {len(rows)} streams are planned by their files alone: all they want counts as owed"
        )
    return lines
