"""Tiny checkpoints of models that compare two responses: the published parameter names, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workers import tiny_zoo

MARKERS = ("<|source|>", "<|candidate1|>", "<|candidate2|>")
TASKS = 3


def build_pairrm(folder: Path, *, seed: int = 0, hidden_size: int = 64) -> Path:
    """A PairRM on a tiny DeBERTa-v2, unless it is there; the folder."""
    if (folder / "tokenizer_config.json").exists() and "cand1_prefix_id" in (folder / "config.json").read_text():
        return folder
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer

    tiny_zoo.build(folder, "deberta-v2", seed=seed, hidden_size=hidden_size)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(list(MARKERS))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ids = [int(tokenizer.token_to_id(marker) or 0) for marker in MARKERS]
    config |= dict(zip(("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id"), ids, strict=True))
    config |= {
        "cand_prefix_id": ids[1],
        "sep_token_id": tokenizer.token_to_id("[SEP]"),
        "n_tasks": TASKS,
        "drop_out": 0.0,
    }
    config |= {"architectures": ["DebertaV2PairRM"], "vocab_size": max(config["vocab_size"], max(ids) + 1)}
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=draw) / hidden_size**0.5

    held = load_file(folder / "model.safetensors")
    weights = {
        name.replace("deberta.", "pretrained_model.", 1): tensor
        for name, tensor in held.items()
        if name.startswith("deberta.")
    }
    words = "pretrained_model.embeddings.word_embeddings.weight"
    weights[words] = torch.cat([weights[words], normal(config["vocab_size"] - len(weights[words]), hidden_size)])
    weights |= {"head_layer.1.weight": normal(hidden_size, 2 * hidden_size), "head_layer.1.bias": normal(hidden_size)}
    weights |= {"head_layer.4.weight": normal(TASKS, hidden_size), "head_layer.4.bias": normal(TASKS)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def build_steamshp(folder: Path, *, seed: int = 0) -> Path:
    """A T5 whose first token reads A about as often as not; the folder."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tiny_zoo.build(folder, "llama", causal=True)
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink(missing_ok=True)
    held = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes: dict[str, Any] = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": held["vocab_size"],
    }
    ids = {name: held[name] for name in ("pad_token_id", "eos_token_id")}
    sizes |= {"decoder_start_token_id": held["pad_token_id"], "tie_word_embeddings": False}
    config = T5Config(**sizes, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        others = torch.ones(config.vocab_size, 1) * 1e-3
        others[_letter(folder)] = 1
        model.lm_head.weight.data *= others
    model.save_pretrained(folder)
    return folder


def _letter(folder: Path) -> int:
    from tokenizers import Tokenizer

    letter = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("A")
    assert letter is not None, "every byte is a token"
    return letter
