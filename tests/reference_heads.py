"""Runs inside the reference's environment: its own classes and pipelines on tiny checkpoints, in float32 on a CPU.

    python reference_heads.py JOBS.json OUT.json

JOBS maps a family to `{"path": checkpoint, "conversations": [[message, ...], ...]}`; OUT gets a list of scores for
each. What the reference forces on a GPU (device, flash attention, bfloat16) is replaced; its arithmetic is not (QRM on
Llama 3 holds one matrix in bfloat16, so that only autocast can multiply with it: it is made float32). Where a
model is code from the hub, the published formula by hand stands in for it and the pipeline is the reference's own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from published_heads import PUBLISHED
from rewardbench.models import armorm, internlm, ldlreward, pipeline, qrm, skyvl, worldpm
from transformers.tokenization_utils_base import BatchEncoding

FAMILIES: dict[str, Callable[[Path, Any], Callable[..., Any]]] = {
    "armorm": lambda path, tokenizer: armorm.ArmoRMPipeline("", Answering(path, "armorm"), tokenizer),
    "qrm_llama3": lambda path, tokenizer: pipeline.RewardBenchPipeline(
        "", qrm.LlamaForRewardModelWithGating3.from_pretrained(path).float(), tokenizer
    ),
    "qrm_llama31": lambda path, tokenizer: pipeline.RewardBenchPipeline(
        "", qrm.LlamaForRewardModelWithGating31.from_pretrained(path), tokenizer
    ),
    "ldl": lambda path, tokenizer: ldlreward.LDLPipeline(
        "", ldlreward.LDLRewardModel27B.from_pretrained(str(path)), tokenizer
    ),
    "internlm2": lambda path, tokenizer: internlm.InternLMPipeline("", PUBLISHED["internlm2"](path), tokenizer),
    "worldpm": lambda path, tokenizer: worldpm.WorldPMPipeline("", PUBLISHED["worldpm"](path), tokenizer),
    "skywork_vl": lambda path, tokenizer: skyvl.SkyVLPipeline("", vision_language(path), tokenizer),
}


class Answering(torch.nn.Module):
    """A hand-written model that answers as a model of transformers does."""

    def __init__(self, path: Path, family: str) -> None:
        super().__init__()
        self.inner = PUBLISHED[family](path)

    def forward(self, **inputs: Any) -> Any:
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=self.inner(**inputs))


def vision_language(path: Path) -> Any:
    """The model that the reference wraps, and its value head, which the reference takes from the hub by name."""
    skyvl.cached_file = lambda path_or_repo_id, filename: path / filename
    return transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(path)


def on_a_cpu() -> None:
    """Devices, kernels and dtypes that the reference insists on."""
    to, load = BatchEncoding.to, transformers.PreTrainedModel.from_pretrained.__func__

    def stay(self: Any, device: Any, *args: Any, **kwargs: Any) -> Any:
        return to(self, "cpu", *args, **kwargs)

    def plain(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return load(cls, *args, **(kwargs | {"attn_implementation": "eager", "torch_dtype": torch.float32}))

    BatchEncoding.to = stay
    transformers.PreTrainedModel.from_pretrained = classmethod(plain)


def scores(family: str, path: Path, conversations: list[Any]) -> list[float]:
    """One conversation a call."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    reference = FAMILIES[family](path, tokenizer)
    found = []
    with torch.inference_mode():
        for messages in conversations:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            found.append(float(torch.as_tensor(reference([text], max_length=8192)).flatten()[0]))
    return found


def main() -> None:
    on_a_cpu()
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = {name: scores(name, Path(job["path"]), job["conversations"]) for name, job in jobs.items()}
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
