"""The float32 products of a model's linear layers on a CPU, by oneDNN.

torch hands them to MKL, which leaves AVX-512 unused on processors that are not Intel's and so computes at half their
rate; oneDNN, which torch holds as well, does not. Without AVX-512 MKL is the faster one, by a tenth at a width of 768
and a fifth at 4,096 (an EPYC of the third generation), and stays. oneDNN's result for a token is the same bits
whatever the other tokens of the call. The weights are arranged once for it and take the place of those that were
loaded; those that are an embedding's too stay.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from workers.errors import first_line

TOKENS = 1024
"""Tokens of a call that the weights are arranged for; any other number is computed as well."""

WIDE = "AVX512"
"""What torch calls the processors on which oneDNN is the faster one."""

TRIAL, TOLERANCE = 64, 1e-5
"""Size of the matrices that are tried, and the largest difference from torch's product, relative to its values."""


def adopt(model: Any) -> str:
    """Let every plain linear layer in float32 on the CPU multiply by oneDNN; who multiplies, with the reason."""
    import torch

    layers: list[Any] = [
        layer
        for layer in model.modules()
        if type(layer) is torch.nn.Linear and layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"
    ]
    if not layers:
        return "torch (no linear layers in float32 on a CPU)"
    if reason := _unfit():
        return f"torch ({reason})"
    kept = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    for layer in layers:
        if not any(layer.weight is weight for weight in kept):
            layer.weight = torch.nn.Parameter(_arranged(layer.weight.detach()), requires_grad=False)
        layer.forward = partial(_forward, layer)
    return "oneDNN"


def _unfit() -> str:
    """Why oneDNN's product cannot be used here: it is not a public operation of torch, so it is tried."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "built without oneDNN"
    if torch.backends.cpu.get_cpu_capability() != WIDE:
        return "as fast without AVX-512"
    values = torch.arange(TRIAL * TRIAL, dtype=torch.float32).remainder(13).reshape(TRIAL, TRIAL) - 6
    wanted = torch.nn.functional.linear(values, values, values[0])
    try:
        found = [_product(values, weight, values[0]) for weight in (values, _arranged(values))]
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        return f"no product by oneDNN: {first_line(error)}"
    largest = max((product - wanted).abs().max().item() for product in found)
    return "" if largest <= TOLERANCE * wanted.abs().max().item() else "oneDNN's product is another"


def _forward(layer: Any, states: Any) -> Any:
    return _product(states, layer.weight, layer.bias)


def _product(states: Any, weight: Any, bias: Any) -> Any:
    """[..., in] times [out, in], and the bias: as `torch.nn.functional.linear`."""
    import torch

    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


def _arranged(weight: Any) -> Any:
    """The same numbers in the order in which oneDNN reads them."""
    import torch

    return torch.ops.mkldnn._reorder_linear_weight(weight, TOKENS)
