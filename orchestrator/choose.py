"""Which engine serves a model, and why. `rewardsweep plan` shows the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers import plugins
from workers.actor import environment
from workers.errors import InputError, ModelError

AUTO = "auto"


def engine_of(name: str, entry: Mapping[str, Any], cuda: bool, assumed: bool = False) -> tuple[str, str]:
    """The engine's name and the reason, for a model's file on machines with or without GPUs.

    An engine that the file names is taken as it is. Else, of the engines that the family lists: vLLM where it is
    installed and has an advantage that cannot change what a score means, transformers otherwise, since its scores
    are the ones that are compared with the reference. `assumed`: vLLM counts as installed, on a cluster not at hand.
    """
    given, family = entry.get("engine") or AUTO, plugins.resolve("workers.families", entry["family"])
    if given != AUTO:
        return given, "named in the model's file"
    known = [engine for engine in family.ENGINES if engine in plugins.available("workers.engines")]
    if "transformers" not in known:
        return known[0], f"the engine of family {entry['family']}"
    installed = "vllm" in known and (assumed or is_installed("vllm"))
    gpus = int(entry.get("gpus") or 1) if cuda else 0
    if gpus > 1:
        return ("vllm", f"{gpus} GPUs: tensor parallel") if installed else _alone(name, entry, gpus, known, assumed)
    if entry.get("numerics") == "exact" or family.KIND != "generate":
        return "transformers", "its scores are the ones compared with the reference"
    if gpus and installed:
        return "vllm", "it writes many answers at a time"
    return "transformers", "vLLM is not installed; it writes many answers at a time" if gpus else "no GPU"


def _alone(name: str, entry: Mapping[str, Any], gpus: int, known: list[str], assumed: bool) -> tuple[str, str]:
    """What becomes of a model for several GPUs where vLLM does not serve it: a plan says so, a run stops."""
    if assumed:
        return "transformers", f"family {entry['family']} has no vLLM"
    remedy = "install rewardsweep[vllm]" if "vllm" in known else f"family {entry['family']} has no vLLM; set it to 1"
    raise InputError(f"models.{name}.gpus={gpus}: only vLLM spreads a model over GPUs; {remedy}")


def is_installed(engine: str) -> bool:
    """Whether the libraries of an engine are installed here."""
    try:
        environment(plugins.resolve("workers.engines", engine).PACKAGES)
    except ModelError:
        return False
    return True
