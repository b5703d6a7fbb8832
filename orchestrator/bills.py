"""Pure: what a run's answers from endpoints cost, from the measurements themselves, so that a resumed run adds up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.plan import Plan, StreamPlan
from workers.protocol import Measurement, ModelSpec

MILLION = 1e6


@dataclass(frozen=True)
class Bill:
    """The tokens that a run paid for at one endpoint; `dollars` is None where the model's file has no prices."""

    model: str
    answers: int
    refused: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None

    def __str__(self) -> str:
        price = "no prices in its file" if self.dollars is None else f"${self.dollars:,.4f}"
        refused = f", {self.refused} refused" if self.refused else ""
        return (
            f"{self.model}: {self.answers} answers{refused}, {self.prompt_tokens:,} prompt tokens, "
            f"{self.completion_tokens:,} completion tokens: {price}"
        )


def owed_to_endpoints(plan: Plan) -> list[StreamPlan]:
    """The streams that a run has to pay for."""
    return [stream for stream in plan.streams.values() if stream.owed and stream.spec.endpoint]


def bill(stream: StreamPlan, rows: Mapping[str, Measurement]) -> Bill:
    """What the answers cost that were owed and are there now; `rows` by request digest."""
    return charge(stream.spec, [rows[request.digest] for request in stream.owed if request.digest in rows])


def charge(spec: ModelSpec, rows: Collection[Measurement]) -> Bill:
    """What answers of an endpoint cost, at the prices of the model's file."""
    asked = sum(row.num_tokens for row in rows)
    written = int(sum(row.extra.get("completion_tokens", 0.0) for row in rows))
    refused = sum("refused" in row.extra for row in rows)
    return Bill(spec.name, len(rows), refused, asked, written, dollars(spec.endpoint, asked, written))


def dollars(endpoint: Mapping[str, Any], asked: int, written: int) -> float | None:
    """What tokens cost at an endpoint, whose prices are dollars per million; None where it has none."""
    prices = [endpoint.get(name) for name in ("input_price", "output_price")]
    if any(price is None for price in prices):
        return None
    return sum((price or 0.0) * count / MILLION for price, count in zip(prices, (asked, written), strict=True))
