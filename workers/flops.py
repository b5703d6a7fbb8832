"""How much work a model is, by formula, and how fast a device can be.

A pass over T tokens whose attention reads P pairs of query and key costs `2 N T + 4 L H d P` floating point operations:
a multiplication and an addition for each of the N weights in matrices, and for each pair the product of two vectors of
d numbers and the sum of one more, in H heads of L layers (Chowdhery et al. 2022, PaLM, appendix B, without the factor
three for training). Of a mixture of experts N counts the experts that a token is sent to. What an output embedding
reads costs `2 x hidden size x vocabulary` besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PEAKS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "A6000": 154.8,
}
"""Dense teraFLOP/s of matrices in bfloat16 and float16 with sums in float32, from NVIDIA's data sheets; longest names
first where one holds another."""


@dataclass(frozen=True)
class Cost:
    """Floating point operations of a model: for each token, each pair that attention reads, and each row of logits."""

    token: int
    pair: int
    logits: int

    def of(self, tokens: int, pairs: int, logits: int = 0) -> int:
        """Those of a pass."""
        return self.token * tokens + self.pair * pairs + self.logits * logits


def cost(weights: int, layers: int, width: int, hidden: int, vocabulary: int) -> Cost:
    """The formula: `weights` in matrices that a token meets, `width` of all heads of a layer together."""
    return Cost(2 * weights, 4 * layers * width, 2 * hidden * vocabulary)


def cost_of(model: Any) -> Cost:
    """The cost of a model of transformers, counted on its layers."""
    body = model.base_model
    config = body.config.get_text_config()
    heads, hidden = (getattr(config, name, 0) for name in ("num_attention_heads", "hidden_size"))
    size = getattr(config, "head_dim", None) or (hidden // heads if heads else 0)
    layers = getattr(config, "num_hidden_layers", 0)
    return cost(weights(body, config), layers, heads * size, hidden, config.vocab_size)


def peak(device: str, dtype: str) -> float | None:
    """FLOP/s that a known GPU can reach with matrices of that dtype; None where we do not know."""
    if dtype not in ("bfloat16", "float16"):
        return None
    words = device.replace("-", " ").split()
    known = [figure for name, figure in PEAKS.items() if set(name.split()) <= set(words)]
    return known[0] * 1e12 if known else None


def mfu(facts: Mapping[str, str], seconds: float, gpus: float) -> float | None:
    """Model FLOPs utilisation: the share of its GPUs' peak that an engine reached; None where either is unknown."""
    most = peak(facts.get("device", ""), facts.get("dtype", ""))
    if most is None or not facts.get("flops") or seconds <= 0:
        return None
    return float(facts["flops"]) / (seconds * most * max(gpus, 1))


def weights(part: Any, config: Any) -> int:
    """Weights in matrices that a token meets: linear layers (`Conv1D` in GPT-2), and the experts it is sent to."""
    kinds = {"Linear", "Conv1D"}
    found = [module for module in part.modules() if kinds & {kind.__name__ for kind in type(module).__mro__}]
    dense: int = sum(module.weight.numel() for module in found)
    experts = [values for values in part.parameters() if values.dim() == 3]
    chosen = getattr(config, "num_experts_per_tok", None) or 0
    return dense + sum(int(values.numel()) * chosen // int(values.shape[0]) for values in experts)
