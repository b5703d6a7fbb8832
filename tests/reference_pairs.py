"""Runs inside the reference's environment: its pairwise pipelines on tiny checkpoints, one pair at a time, on a CPU.

    python reference_pairs.py JOBS.json OUT.json

JOBS maps a family to `{"path": checkpoint, "pairs": [[conversation, conversation], ...]}`. OUT gets, for each pair, the
margin where the pipeline gives one, else its verdict; of SteamSHP the verdict in the order given, without its draw.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from rewardbench.models import betterpairrm, pairrm, shp, slicpairpm
from transformers.tokenization_utils_base import BatchEncoding

to = BatchEncoding.to
BatchEncoding.to = lambda self, device, *args, **kwargs: to(self, "cpu")
torch.Tensor.cuda = lambda self, *args, **kwargs: self
random.shuffle = lambda values: None


def pipeline(family: str, path: str) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    if family in ("pairrm", "better_pairrm"):
        module = {"pairrm": pairrm.PairRMPipeline, "better_pairrm": betterpairrm.BetterPairRMPipeline}[family]
        made = module("", pairrm.DebertaV2PairRM.from_pretrained(path), tokenizer)
        return lambda first, second: made([first], [second], output_logits=True)[0]
    if family == "steamshp":
        asked = shp.SHPPipeline("", transformers.T5ForConditionalGeneration.from_pretrained(path), tokenizer)
        return lambda first, second: float(asked([first], [second])[0])
    fast = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    slicpairpm.AutoTokenizer.from_pretrained = lambda *args, **kwargs: fast  # it only renders the context
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    ranked = slicpairpm.SlicPairPMPipeline("", model, tokenizer)
    return lambda first, second: float(ranked([first], [second])[0])


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = {}
    for family, job in jobs.items():
        compare = pipeline(family, job["path"])
        with torch.inference_mode():
            found[family] = [compare(*pair) for pair in job["pairs"]]
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
