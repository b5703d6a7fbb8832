"""Tiny reward models with random weights, built on the spot: for demos, tests and benchmarks without a network.

A checkpoint is what a hub download would be: config.json, model.safetensors, tokenizer.json and
tokenizer_config.json, readable by transformers 4.51 and 5. Equal arguments give byte-identical weights and
tokenizer. Weights are larger than usual at initialisation, so that scores differ between conversations.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

POSITIONS = 8192
"""Context of every checkpoint, also of those with absolute positions."""

DEMO = ("llama", "gpt-neox", "bert")

WORDS = """
the of and to in is you that it for on are with as this be at have from or by not but what all were when we there can
your which their will each about how if out up other many then them these some would make like him into time has look
two more write see number no way could people my than first water been call who its now find long down day did get come
made may part over new sound take only little work know place year live back give most very after thing our just name
good sentence man think say great where help through much before line right too mean old any same tell boy follow want
show also around form three small set put end does another well large must big even such because turn here why ask went
read need different move try kind hand picture again change off play spell air away animal house point page letter
mother answer found study still learn should world high every near add food between own below country last school
father keep tree never start city earth eye light thought head under story saw left few while along might close
something seem next hard open example begin life always those both paper together got group often run important until
child feet side car mile night walk white sea began grow took river four carry state once book hear stop without second
later miss idea enough eat face watch far really almost let above girl sometimes mountain cut young talk soon list song
being leave family function return string integer value input output result array vector element index loop error code
python class method variable test check true false none self print range length count step solution equation therefore
total sum positive negative prime factor formula simplify expression square root triangle angle probability question
language model information provide use using include consider ensure process system person health safe safety legal
illegal harmful sorry cannot assist request understand advice recommend support resource community history culture
government market business product customer service company computer software network data research science theory
energy physical chemical material temperature pressure movie music game art author character poem recipe ingredient cook
minute hour week month morning email message report summary detail user assistant instruction prompt response following
remember possible however instead various several specific common experience create develop improve increase reduce
require problem reason"""
ENDINGS = ("", "", "", "", "s", "ed", "ing", "er", "ly", "ion", "able", "ment", "n't", "'s")
MARKS = (
    ". ",
    ". ",
    ", ",
    ", ",
    "? ",
    "! ",
    ": ",
    "; ",
    ".\n\n",
    "\n- ",
    "\n\n1. **",
    "** ",
    " (",
    ") ",
    " = ",
    '"',
    "(",
)
SNIPPETS = (
    "def solve(values: List[int]) -> bool:\n    for i in range(len(values)):\n        if values[i] == 0:\n",
    "#include <vector>\nstd::vector<int> result;\n    for (int i = 0; i < n; i++) {\n        result.push_back(i);\n    }\n",
    "func Solve(x []int) (out string) {\n\tfor i, v := range x {\n\t\tif v != 0 {\n\t\t\treturn\n\t\t}\n\t}\n}\n",
    "public static int count(String text) {\n        return text.length();\n    }\n}\n```\n\n```java\n",
    "\\[ x^2 + \\frac{a}{b} = \\sqrt{c} \\]\n\n# Answer\n\n<|user|>\n<|assistant|>\nuser: assistant: ",
)

TURNS = (
    "{% for turn in messages %}{{ '<|' + turn['role'] + '|>\\n' + turn['content'] }}"
    "{% if turn['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% if not loop.last %}{{ '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}"
)
PLAIN_TURNS = (
    "{% for turn in messages %}{{ turn['role'] + ': ' + turn['content'] }}"
    "{% if not loop.last %}{{ ' ' + sep_token + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ' + sep_token + ' assistant: ' }}{% endif %}"
)
LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
GPT_TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
BERT_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
DEBERTA = {
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}


def byte_level(texts: Iterable[str], vocab_size: int, tokens: Mapping[str, str], *, bos: bool) -> Any:
    """A byte-level BPE: any text round-trips. With `bos`, it puts the BOS in front itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(dict.fromkeys(tokens.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if bos:
        start = tokens["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A $B:1", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    return tokenizer


def word_piece(texts: Iterable[str], vocab_size: int, tokens: Mapping[str, str]) -> Any:
    """A lower-casing WordPiece with [CLS] and [SEP] around a text.

    The library's trainer orders equal pieces by chance; here the pieces that save the most characters are taken.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    savings: Counter[str] = Counter()
    for word, count in words.items():
        for start in range(len(word)):
            for end in range(start + 2, len(word) + 1):
                savings["##" * (start > 0) + word[start:end]] += count * (end - start - 1)
    letters = sorted({*map(chr, range(33, 127)), *"".join(words)} - set("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    ranked = sorted(savings, key=lambda piece: (-savings[piece], piece))
    pieces = [*tokens.values(), *letters, *(f"##{letter}" for letter in letters), *ranked][:vocab_size]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=tokens["unk_token"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoders.WordPiece()
    tokenizer.add_special_tokens(list(tokens.values()))
    around = [(token, vocabulary[token]) for token in (tokens["cls_token"], tokens["sep_token"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
    )
    return tokenizer


def corpus(documents: int = 400) -> list[str]:
    """Made-up English, markdown and code, the same at every call."""
    draw = random.Random(0)
    words = WORDS.split()
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(words))))
    texts = []
    for _ in range(documents):
        parts = [draw.choice(SNIPPETS)]
        for word in draw.choices(words, cum_weights=weights, k=100):
            word += draw.choice(ENDINGS)
            mark = draw.choice(MARKS) if draw.random() < 0.15 else " "
            parts.append((word.capitalize() if draw.random() < 0.15 else word) + mark)
        texts.append("".join(parts) + f"{draw.randrange(1000)} {draw.randrange(100)}")
    return texts


@dataclass(frozen=True)
class Architecture:
    """How one kind of checkpoint differs: `config` holds what is not the same for all of them."""

    tokenizer: Callable[[Iterable[str], int, Mapping[str, str]], Any]
    tokens: Mapping[str, str]
    template: str
    gain: float
    config: Mapping[str, Any]
    causal: bool = True


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(
        partial(byte_level, bos=True),
        LLAMA_TOKENS,
        "{{ bos_token }}" + TURNS,
        2.0,
        {"num_key_value_heads": 2, "rope_theta": 10000.0},
    ),
    "gpt-neox": Architecture(
        partial(byte_level, bos=False), GPT_TOKENS, TURNS, 2.0, {"rotary_pct": 0.25, "rotary_emb_base": 10000}
    ),
    "gpt2": Architecture(partial(byte_level, bos=False), GPT_TOKENS, TURNS, 2.0, {}),
    "bert": Architecture(word_piece, BERT_TOKENS, PLAIN_TURNS, 2.0, {}, causal=False),
    "deberta-v2": Architecture(word_piece, BERT_TOKENS, PLAIN_TURNS, 2.0, DEBERTA, causal=False),
}
"""By name; the model type of transformers is the name without its hyphen where it has none (`gpt_neox`)."""


def build(
    folder: Path,
    architecture: str,
    *,
    texts: Iterable[str] | None = None,
    seed: int = 0,
    hidden_size: int = 64,
    layers: int = 2,
    vocab_size: int = 2000,
    causal: bool = False,
) -> Path:
    """Write a checkpoint with one reward output, or with `causal` a language model, and return its folder.

    `hidden_size` is a multiple of 32 (heads are 16 wide); `texts` trains the tokenizer in place of the corpus.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = ARCHITECTURES[architecture]
    if causal and not kind.causal:
        raise ValueError(
            f"{architecture} is no causal model; causal are {[n for n, k in ARCHITECTURES.items() if k.causal]}"
        )
    tokenizer = kind.tokenizer(corpus() if texts is None else texts, vocab_size, kind.tokens)
    ids = {
        f"{name.removesuffix('_token')}_token_id": tokenizer.token_to_id(token) for name, token in kind.tokens.items()
    }
    config = AutoConfig.for_model(
        architecture.replace("gpt-neox", "gpt_neox"),
        vocab_size=max(vocab_size, tokenizer.get_vocab_size()),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 16,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=POSITIONS,
        initializer_range=kind.gain / hidden_size**0.5,
        **({} if causal else {"num_labels": 1}),
        **kind.config,
        **{name: ids.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loader = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
        model = loader.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    _for_both_versions(folder, kind)
    return folder


def _for_both_versions(folder: Path, kind: Architecture) -> None:
    """The tokenizer's configuration, and the model's with the keys that transformers 4 reads added."""
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
        **kind.tokens,
        "chat_template": kind.template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {**config, **kind.config, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Build a small zoo and one model file for each of its checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="gets zoo/<name>/ and conf/model/<name>.yaml")
    folder = parser.parse_args().folder.resolve()
    for architecture in DEMO:
        name = f"tiny-{architecture}"
        path = folder / "zoo" / name
        there = (path / "tokenizer_config.json").exists()
        if not there:
            build(path, architecture)
        model_file = folder / "conf" / "model" / f"{name}.yaml"
        model_file.parent.mkdir(parents=True, exist_ok=True)
        model_file.write_text(f"# @package models\n{name}:\n  path: {path}\n  family: scalar\n", encoding="utf-8")
        print(f"{name}: {path} ({'already there' if there else 'built'})")


if __name__ == "__main__":
    main()
