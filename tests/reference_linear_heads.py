"""Runs inside the reference's environment: its own classes on tiny checkpoints, one row of ids at a time, on a CPU.

    python reference_linear_heads.py JOBS.json OUT.json

JOBS maps a name to `{"family": ..., "path": checkpoint, "ids": [[...], ...]}`; OUT gets a list of scores for each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from rewardbench.models import beaver, grm, inform, openassistant, openbmb, starling


def starling_gpt(path: str) -> Any:
    """The language model beside the checkpoint is its base; the weights are loaded over it, as the builder does."""
    model = starling.GPTRewardModel(f"{path}/base")
    model.load_state_dict(torch.load(f"{path}/pytorch_model.bin"), strict=False)
    return model


FAMILIES: dict[str, Any] = {
    "oasst_neox": openassistant.GPTNeoXRewardModel.from_pretrained,
    "starling_gpt": starling_gpt,
    "starling_llama": starling.LlamaForSequenceClassification.from_pretrained,
    "openbmb_llama": openbmb.LlamaRewardModel.from_pretrained,
    "grm": grm.GRewardModel.from_pretrained,
    "inf_orm": inform.INFORMForSequenceClassification.from_pretrained,
    "beaver_reward": beaver.LlamaForScore.from_pretrained,
    "beaver_cost": beaver.LlamaForScore.from_pretrained,
}


def score(family: str, model: Any, ids: list[int]) -> float:
    row = torch.tensor([ids])
    with torch.inference_mode():
        found = model(input_ids=row, attention_mask=torch.ones_like(row))
    if family in ("beaver_reward", "beaver_cost"):
        return float(found.end_scores) * (1 if family == "beaver_reward" else -1)
    found = found["scores"] if isinstance(found, dict) and "scores" in found else getattr(found, "logits", found)
    return float(found[0] if isinstance(found, list) else found.flatten()[0])


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = {}
    for name, job in jobs.items():
        model = FAMILIES[job["family"]](job["path"]).eval().float()
        found[name] = [score(job["family"], model, ids) for ids in job["ids"]]
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
