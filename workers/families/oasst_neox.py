"""OpenAssistant's reward models: GPT-NeoX, and one layer on the last state or on the mean of all.

Source: rewardbench 0.1.4, `models/openassistant.py`: `score = w h + b`, layer `out_proj`; the configuration's `pooling`
is `last` or `mean`. Its own mean fails on its shapes; here it is the mean over the tokens of the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.checkpoint import raw_config
from workers.families.scalar import values, wanted
from workers.heads import Answer, LinearHead
from workers.protocol import Kind, ModelSpec
from workers.render import Rendered

VERSION = "1"
ENGINES = ("transformers",)
KIND: Kind = "reward"
TIES = "lose"
SCORING: Mapping[str, tuple[Any, ...]] = {}
__all__ = ["ENGINES", "KIND", "SCORING", "TIES", "VERSION", "config", "head", "values", "wanted"]


def config(spec: ModelSpec) -> Any:
    """GPT-NeoX's configuration: transformers does not know this model by its name."""
    from transformers import AutoConfig

    values = {name: value for name, value in raw_config(spec).items() if name not in ("model_type", "architectures")}
    return AutoConfig.for_model("gpt_neox", **values)


class MeanHead(LinearHead):
    """The layer on the mean state of a row."""

    def read(self, rows: Sequence[Rendered], inputs: Mapping[str, Any]) -> list[Answer]:
        """One score a row."""
        hidden = self.model(**inputs).last_hidden_state.float()
        means = [state[: len(row.ids)].mean(0) for state, row in zip(hidden, rows, strict=True)]
        return [Answer(float(self.model.reward_head(mean)[0])) for mean in means]


def head(spec: ModelSpec, config: Any) -> LinearHead:
    """The head of the configuration's pooling."""
    return (MeanHead if getattr(config, "pooling", "last") == "mean" else LinearHead)(spec, config, "out_proj")
