"""Tiny reward models with random weights, built on the spot: for demos, tests and benchmarks without a network.

A checkpoint is what a hub download would be, readable by transformers 4.51 and 5. Equal arguments give
byte-identical weights and tokenizer on a machine. Weights start larger than usual, so that scores of two
conversations differ by far more than float32 noise.
"""

from __future__ import annotations

import argparse
import json
import random
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

POSITIONS = 8192
CAUSAL_GAIN, ENCODER_GAIN = 0.7, 1.0
"""Standard deviation of the weights, times the square root of the hidden size: scores spread over about one."""

WORDS = """
the of and to in is you that it for on are with as this be at have from or by not but what all were when we there can
your which their will each about how if out up other many then them these some would make like into time has look two
more write see number no way could people my than first its now find long made may part over new only work know give
return string integer value input output array vector element index loop error code class method test true false print
length count step solution equation total prime factor simplify root triangle question language model information
provide use include consider ensure process system person health safe legal harmful sorry cannot assist understand
recommend support history culture business company computer network data research science energy music game recipe"""
ENDINGS = ("", "", "", "", "s", "ed", "ing", "er", "ly", "ion", "able", "ment", "n't", "'s")
MARKS = (". ", ". ", ", ", ", ", "? ", "! ", ": ", "; ", ".\n\n", "\n- ", "\n\n1. **", "** ", " (", ") ", " = ", '"')
SNIPPETS = (
    "def solve(values: List[int]) -> bool:\n    for i in range(len(values)):\n        if values[i] == 0:\n",
    "\\[ x^2 + \\frac{a}{b} = \\sqrt{c} \\]\n\n```java\n    public static String get() {\n<|user|>\n<|assistant|>\n",
)
TURNS = (
    "{% for turn in messages %}{{ '<|' + turn['role'] + '|>\\n' + turn['content'] }}"
    "{% if turn['role'] == 'assistant' and eos_token %}{{ eos_token }}{% endif %}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}"
)
LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
GPT_TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
BERT_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
_DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
_BUCKETS = {"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True}


def corpus() -> list[str]:
    """Made-up English, markdown and code, the same at every call."""
    draw, words, texts = random.Random(0), WORDS.split(), []
    for _ in range(400):
        parts = [draw.choice(SNIPPETS)]
        for word in draw.choices(words, [1 / (rank + 10) for rank in range(len(words))], k=100):
            written = (word.capitalize() if draw.random() < 0.15 else word) + draw.choice(ENDINGS)
            parts.append(written + (draw.choice(MARKS) if draw.random() < 0.15 else " "))
        texts.append("".join(parts) + f"{draw.randrange(1000)} {draw.randrange(100)}")
    return texts


def byte_level(texts: Iterable[str], vocab_size: int, tokens: Mapping[str, str], *, bos: bool) -> Any:
    """A byte-level BPE: any text round-trips. With `bos` it puts the BOS in front by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special, alphabet = list(dict.fromkeys(tokens.values())), pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = partial(trainers.BpeTrainer, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer(vocab_size=vocab_size, show_progress=False))
    if bos:
        start = (tokens["bos_token"], tokenizer.token_to_id(tokens["bos_token"]))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    return tokenizer


def word_piece(texts: Iterable[str], vocab_size: int, tokens: Mapping[str, str]) -> Any:
    """A lower-casing WordPiece of the pieces that save the most characters: the library's trainer is not repeatable."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    saved: Counter[str] = Counter()
    for word, count in words.items():
        for start, end in combinations(range(len(word) + 1), 2):
            saved["##" * (start > 0) + word[start:end]] += count * (end - start - 1)
    letters = sorted({*string.digits, *string.ascii_lowercase, *string.punctuation, *"".join(words)})
    ranked = sorted((piece for piece in saved if saved[piece]), key=lambda piece: (-saved[piece], piece))
    pieces = [*tokens.values(), *letters, *(f"##{letter}" for letter in letters), *ranked]
    vocabulary = {piece: index for index, piece in enumerate(pieces[:vocab_size])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=tokens["unk_token"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoders.WordPiece()
    tokenizer.add_special_tokens(list(tokens.values()))
    around = [(token, vocabulary[token]) for token in (tokens["cls_token"], tokens["sep_token"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return tokenizer


@dataclass(frozen=True)
class Architecture:
    """What tells one kind of checkpoint from the others; `config` extends what all of them share."""

    tokenizer: Callable[[Iterable[str], int, Mapping[str, str]], Any]
    tokens: Mapping[str, str]
    template: str
    causal: bool
    config: Mapping[str, Any]


_BOS, _BARE = partial(byte_level, bos=True), partial(byte_level, bos=False)
_ROPE, _PARTIAL_ROPE = {"rope_theta": 10000.0}, {"rotary_pct": 0.25, "rotary_emb_base": 10000}
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(_BOS, LLAMA_TOKENS, "{{ bos_token }}" + TURNS, True, _ROPE),
    "gpt-neox": Architecture(_BARE, GPT_TOKENS, TURNS, True, _PARTIAL_ROPE),
    "gpt2": Architecture(_BARE, GPT_TOKENS, TURNS, True, {}),
    "bert": Architecture(word_piece, BERT_TOKENS, TURNS, False, {}),
    "deberta-v2": Architecture(word_piece, BERT_TOKENS, TURNS, False, _DISENTANGLED | _BUCKETS),
}


def build(
    folder: Path,
    architecture: str,
    *,
    texts: Iterable[str] | None = None,
    seed: int = 0,
    hidden_size: int = 64,
    head_size: int = 16,
    layers: int = 2,
    vocab_size: int = 2000,
    causal: bool = False,
) -> Path:
    """Write a reward model, or with `causal` a language model, and return its folder.

    `hidden_size` is a multiple of `head_size` (of which vLLM on a CPU wants at least 32); `texts` replaces the corpus
    that the tokenizer is trained on.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    kind = ARCHITECTURES[architecture]
    if causal and not kind.causal:
        raise ValueError(f"{architecture} has no causal model; {[n for n, k in ARCHITECTURES.items() if k.causal]} do")
    tokenizer = kind.tokenizer(corpus() if texts is None else texts, vocab_size, kind.tokens)
    ids = {f"{name}_id": tokenizer.token_to_id(token) for name, token in kind.tokens.items()}
    shape = {"hidden_size": hidden_size, "intermediate_size": 4 * hidden_size, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": hidden_size // head_size, "max_position_embeddings": POSITIONS, "num_labels": 1}
    config = AutoConfig.for_model(
        architecture.replace("gpt-neox", "gpt_neox"),
        vocab_size=max(vocab_size, tokenizer.get_vocab_size()),
        initializer_range=(CAUSAL_GAIN if kind.causal else ENCODER_GAIN) / hidden_size**0.5,
        **{name: ids.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        **shape,
        **kind.config,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto: Any = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
        auto.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    _for_both_versions(folder, kind)
    return folder


def _for_both_versions(folder: Path, kind: Architecture) -> None:
    """The tokenizer's configuration, and in the model's the keys that only transformers 4 reads."""
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
        **kind.tokens,
        "chat_template": kind.template,
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {
        **kind.config,
        "torch_dtype": "float32",
    }
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Build a small zoo and one model file for each of its checkpoints."""
    from workers import tiny_judge, tiny_pairs  # which build on this file

    parser = argparse.ArgumentParser(description="Build tiny reward models and their model files.")
    parser.add_argument("folder", type=Path, help="gets zoo/<name>/ and conf/model/<name>.yaml")
    folder = parser.parse_args().folder.resolve()
    (models := folder / "conf" / "model").mkdir(parents=True, exist_ok=True)
    entries: dict[str, dict[str, Any]] = {
        f"tiny-{architecture}": {"path": _built(folder / "zoo", architecture), "family": "scalar"}
        for architecture in ("llama", "gpt-neox", "bert")
    }
    policy, reference = (_built(folder / "zoo", "llama", causal=True, seed=seed) for seed in (0, 1))
    entries["tiny-dpo"] = {"path": policy, "reference": reference, "family": "dpo"}
    judge = tiny_judge.build(folder / "zoo" / "tiny-judge")
    entries["tiny-judge"] = {
        "path": judge,
        "family": "judge",
        "engine": "transformers",
        "options": "{max_new_tokens: 8}",
    }
    entries["tiny-pairrm"] = {"path": tiny_pairs.build_pairrm(folder / "zoo" / "tiny-pairrm"), "family": "pairrm"}
    for name, entry in entries.items():
        lines = "".join(f"  {key}: {value}\n" for key, value in entry.items())
        (models / f"{name}.yaml").write_text(f"# @package models\n{name}:\n{lines}", encoding="utf-8")


def _built(zoo: Path, architecture: str, *, causal: bool = False, seed: int = 0) -> Path:
    """A checkpoint's folder, built unless it is there."""
    path = zoo / f"tiny-{architecture}{f'-causal-{seed}' if causal else ''}"
    if not (there := (path / "tokenizer_config.json").exists()):
        build(path, architecture, causal=causal, seed=seed)
    print(f"{path.name}: {path} ({'already there' if there else 'built'})")
    return path


if __name__ == "__main__":
    main()
