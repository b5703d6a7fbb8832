"""A tiny judge that always prefers the response it is shown first: a null model for position bias.

An honest language model with weights set by hand. All layers are zero, so a token's embedding alone decides the next
one: any token is followed by the verdict, and the verdict by the end.
"""

from __future__ import annotations

import json
from pathlib import Path

from workers import tiny_zoo

VERDICT = "[[A]]"
LOGIT = 10.0


def build(folder: Path, verdict: str = VERDICT, head_size: int = 16) -> Path:
    """Write a Llama that answers `verdict` to everything, and return its folder."""
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer

    tiny_zoo.build(folder, "llama", causal=True, head_size=head_size)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([verdict])
    tokenizer.save(str(folder / "tokenizer.json"))
    said, end = (tokenizer.token_to_id(token) for token in (verdict, tiny_zoo.LLAMA_TOKENS["eos_token"]))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rows, size = tokenizer.get_vocab_size(), config["hidden_size"]
    weights = {
        name: torch.ones_like(tensor) if "norm" in name else torch.zeros_like(tensor)
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    embedding, output = torch.zeros(rows, size), torch.zeros(rows, size)
    embedding[:, 0] = 1.0
    embedding[said] = torch.eye(size)[1]
    output[said, 0] = output[end, 1] = LOGIT
    weights |= {"model.embed_tokens.weight": embedding, "lm_head.weight": output}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": rows}, indent=2) + "\n", encoding="utf-8")
    return folder
