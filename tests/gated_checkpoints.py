"""Tiny random checkpoints with the parameter names of the published ones, readable by transformers 4.51 and 5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workers import tiny_zoo

SIZE, LAYERS, WORDS = 32, 2, 2000
OBJECTIVES, QUANTILES, GATES, INNER = 19, 5, 3, 24
LLAMA3 = {
    "<|begin_of_text|>": 128000,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eot_id|>": 128009,
    "<|pad|>": 128256,
    "assistant": 78191,
    "\n\n": 271,
}
"""Tokens of Llama 3 that a gate is read from, at the ids that they have there."""
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{{ '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\n\n' "
    "+ turn['content'] | trim + '<|eot_id|>' }}{% endfor %}"
)
CHATML = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn['role'] + '\n' + turn['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
)
LLAMA3_NAMES = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|pad|>"}
CHATML_NAMES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|reward|>"],
}


def build(folder: Path, family: str, seed: int = 0, **config: Any) -> Path:
    """Write the checkpoint of a family; `config` replaces values of its configuration."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        {"internlm2": _internlm2, "ldl": _ldl, "worldpm": _worldpm, "skywork_vl": _skywork_vl}.get(family, _llama)(
            folder, family, config
        )
    return folder


def _llama(folder: Path, family: str, config: dict[str, Any]) -> None:
    """ArmoRM, QRM and Nemotron."""
    import torch

    gated = {"gating_temperature": 5.0, "gating_hidden_dim": INNER, "gating_n_hidden": GATES}
    values = _shared("llama", "LlamaForRewardModelWithGating") | {"vocab_size": 128257, "pad_token_id": 128256}
    values |= {"bos_token_id": 128000, "eos_token_id": 128009, "num_objectives": OBJECTIVES, **gated}
    if family == "nemotron":
        _save(folder, values | {"architectures": ["LlamaForCausalLM"]} | config, "AutoModelForCausalLM", {}, "")
        return _llama3_tokenizer(folder)
    quantiles = 1 if family == "armorm" else config.get("num_quantiles", QUANTILES)
    values |= {} if family == "armorm" else {"num_quantiles": quantiles}
    own: dict[str, Any] = {
        "regression_layer.weight": torch.randn(OBJECTIVES * quantiles, SIZE) / 4,
        "reward_transform_matrix": (torch.eye(OBJECTIVES) + 0.1 * torch.randn(OBJECTIVES, OBJECTIVES))
        .bfloat16()
        .float(),
        "gating.logit_scale": torch.tensor([1.5]),
    }
    width = SIZE
    for gate in range(GATES):
        name = f"gating.layers.{gate if family == 'armorm' else 3 * gate}"
        own[f"{name}.weight"] = torch.randn(INNER, width) * (2 / width) ** 0.5
        if family == "armorm":
            own[f"{name}.bias"] = torch.randn(INNER)
        else:
            norm = f"gating.layers.{3 * gate + 2}"
            own |= {f"{norm}.{part}": torch.randn(INNER) for part in ("weight", "bias", "running_mean")}
            own[f"{norm}.running_var"] = 0.5 + torch.rand(INNER)
            own[f"{norm}.num_batches_tracked"] = torch.tensor(7)
        width = INNER
    last = f"gating.layers.{GATES if family == 'armorm' else 3 * GATES}"
    own |= {f"{last}.weight": torch.randn(OBJECTIVES, INNER), f"{last}.bias": torch.randn(OBJECTIVES)}
    _save(folder, values | config, "AutoModel", own)
    return _llama3_tokenizer(folder)


def _ldl(folder: Path, family: str, config: dict[str, Any]) -> None:
    import torch

    values = _shared("gemma2", "LDLRewardModel27B") | {
        "num_objectives": 220,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 1.0,
        "sliding_window": 4096,
        "hidden_activation": "gelu_pytorch_tanh",
        **config,
    }
    _save(folder, values, "AutoModel", {}, "")
    width = values.pop("width", INNER)

    def layers(numbers: tuple[int, ...], out: int) -> dict[str, Any]:
        sizes = (SIZE, width, width, out)
        made = {}
        for at, number in enumerate(numbers):
            made[f"network.{number}.weight"] = torch.randn(sizes[at + 1], sizes[at]) * (2 / sizes[at]) ** 0.5
            made[f"network.{number}.bias"] = 0.1 * torch.randn(sizes[at + 1])
        return made

    torch.save(layers((0, 2, 4), values["num_objectives"]), folder / "regression_layer.pt")
    torch.save(layers((0, 3, 6), values["num_objectives"] // 10), folder / "gating_layer.pt")
    _chatml_tokenizer(folder, bos=True)


def _worldpm(folder: Path, family: str, config: dict[str, Any]) -> None:
    import torch
    from transformers import AutoTokenizer

    own = {
        "score.0.weight": torch.randn(SIZE, SIZE) / 4,
        "score.0.bias": torch.randn(SIZE),
        "score.2.weight": torch.randn(1, SIZE) / 4,
        "score.2.bias": torch.randn(1),
    }
    values = _shared("qwen2", "Qwen2ForRewardModel") | {
        "auto_map": {"AutoConfig": "configuration_gone.Gone", "AutoModel": "modeling_gone.Gone"}
    }
    _save(folder, values | config, "AutoModel", own)
    _chatml_tokenizer(folder, bos=False)
    # transformers 5 gives every Qwen2 model Qwen's way of splitting text, transformers 4 the file's: let it be the same
    AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))


def _skywork_vl(folder: Path, family: str, config: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    vision = {
        "model_type": "qwen2_5_vl",
        "depth": 1,
        "hidden_size": 16,
        "out_hidden_size": SIZE,
        "intermediate_size": 16,
        "num_heads": 2,
        "fullatt_block_indexes": [0],
    }
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]}
    values = _shared("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration") | {
        "vision_config": vision,
        "rope_scaling": rope,
        "image_token_id": WORDS + 90,
        "video_token_id": WORDS + 91,
        "vision_start_token_id": WORDS + 92,
        **config,
    }
    _save(folder, values, "AutoModelForImageTextToText", {}, "")
    head = {"v_head.summary.weight": torch.randn(1, SIZE) / 4, "v_head.summary.bias": torch.randn(1)}
    save_file(head, folder / "value_head.safetensors", {"format": "pt"})
    _chatml_tokenizer(folder, bos=False)


def _internlm2(folder: Path, family: str, config: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    values = _shared("internlm2", "InternLM2ForRewardModel") | {"bias": False, "rope_theta": 1000000.0, **config}
    heads, keys = values["num_attention_heads"], values["num_key_value_heads"]
    packed, inner = (heads + 2 * keys) * SIZE // heads, values["intermediate_size"]
    shapes = {
        "attention.wqkv": (packed, SIZE),
        "attention.wo": (SIZE, SIZE),
        "feed_forward.w1": (inner, SIZE),
        "feed_forward.w3": (inner, SIZE),
        "feed_forward.w2": (SIZE, inner),
    }
    own = {"model.tok_embeddings.weight": torch.randn(values["vocab_size"], SIZE)}
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        own |= {f"{layer}.{name}.weight": torch.randn(shape) / shape[1] ** 0.5 for name, shape in shapes.items()}
        own |= {f"{layer}.{name}.weight": 0.5 + torch.rand(SIZE) for name in ("attention_norm", "ffn_norm")}
    own |= {"model.norm.weight": 0.5 + torch.rand(SIZE), "v_head.weight": torch.randn(1, SIZE)}
    save_file(own, folder / "model.safetensors", {"format": "pt"})
    _chatml_tokenizer(folder, bos=True)
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    reward = next(token["id"] for token in tokens if token["content"] == "<|reward|>")
    (folder / "config.json").write_text(json.dumps(values | {"reward_token_id": reward}), encoding="utf-8")


def _shared(model_type: str, architecture: str) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "vocab_size": WORDS + 100,
        "hidden_size": SIZE,
        "intermediate_size": 4 * SIZE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "hidden_act": "silu",
        "max_position_embeddings": tiny_zoo.POSITIONS,
        "initializer_range": 0.15,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "torch_dtype": "float32",
    }


def _save(folder: Path, values: dict[str, Any], auto: str, own: dict[str, Any], prefix: str = "model.") -> None:
    """The weights of a class of transformers, their names after `prefix`, with a head's own; then the configuration."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
    from transformers.utils import logging

    logging.disable_progress_bar()
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    getattr(transformers, auto).from_config(config, dtype=torch.float32).save_pretrained(folder)
    body = {f"{prefix}{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(body | own, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")


def _llama3_tokenizer(folder: Path) -> None:
    """A byte-level BPE with the tokens of `LLAMA3` at their ids, BOS in front."""
    made = json.loads(
        tiny_zoo.byte_level(tiny_zoo.corpus(), WORDS, {"bos_token": "<|begin_of_text|>"}, bos=True).to_str()
    )
    vocabulary = made["model"]["vocab"]
    displaced = next(token for token, number in vocabulary.items() if number == LLAMA3["\n\n"])
    vocabulary |= {displaced: WORDS, **LLAMA3}
    made["added_tokens"] = [
        {"id": number, "content": token, "special": token.startswith("<"), "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for token, number in LLAMA3.items()
    ]
    made["post_processor"]["special_tokens"]["<|begin_of_text|>"]["ids"] = [LLAMA3["<|begin_of_text|>"]]
    (folder / "tokenizer.json").write_text(json.dumps(made), encoding="utf-8")
    _tokenizer_config(folder, LLAMA3_NAMES, LLAMA3_TEMPLATE)


def _chatml_tokenizer(folder: Path, bos: bool) -> None:
    """A byte-level BPE with ChatML's tokens; with `bos` template and tokenizer both put one in front."""
    special = {name: token for name, token in CHATML_NAMES.items() if isinstance(token, str)}
    tokens = special | {token: token for token in CHATML_NAMES["additional_special_tokens"]}
    made = tiny_zoo.byte_level(tiny_zoo.corpus(), WORDS, tokens, bos=bos)
    made.save(str(folder / "tokenizer.json"))
    _tokenizer_config(folder, CHATML_NAMES, ("{{ bos_token }}" if bos else "") + CHATML)


def _tokenizer_config(folder: Path, names: dict[str, Any], template: str) -> None:
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": tiny_zoo.POSITIONS,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
        **names,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
