"""The named chat templates: byte for byte what FastChat 0.2.36 writes, the reference's text for old checkpoints."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from workers import templates
from workers.errors import InputError
from workers.templates import named_template

FASTCHAT = """
import json, sys
import rewardbench.chattemplates
from fastchat.conversation import get_conv_template

texts = []
for name, messages, prompt in json.load(sys.stdin):
    conversation = get_conv_template(name)
    for message in messages:
        if message["role"] == "system":
            conversation.set_system_message(message["content"])
        else:
            role = conversation.roles[message["role"] == "assistant"]
            conversation.append_message(role, message["content"])
    if prompt:
        conversation.append_message(conversation.roles[1], None)
    texts.append(conversation.get_prompt())
json.dump(texts, sys.stdout)
"""
"""What the reference does with a conversation, run by its own interpreter."""

ROBIN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.\n"
)
BEAVER = "BEGINNING OF CONVERSATION: "

# Per template: the text in front, the prompt, its answer, a second question, its answer, the header of an answer,
# and what the system message "S" puts in front instead.
GOLDEN: Mapping[str, tuple[str, str, str, str, str, str, str]] = {
    "tulu": (
        "",
        "<|user|>\nQ1\n",
        "<|assistant|>\nA1\n",
        "<|user|>\nQ2\n",
        "<|assistant|>\nA2\n",
        "<|assistant|>\n",
        "S\n",
    ),
    "pku-align": (BEAVER, "USER: Q1 ", "ASSISTANT: A1 ", "USER: Q2 ", "ASSISTANT: A2 ", "ASSISTANT: ", "S "),
    "openbmb": ("", "User: Q1\n\n", "Assistant: A1\n\n", "User: Q2\n\n", "Assistant: A2\n\n", "Assistant: ", "S"),
    "Ziya": (
        "\n\n",
        "Human: Q1\n\n",
        "Assistant: A1\n\n",
        "Human: Q2\n\n",
        "Assistant: A2\n\n",
        "Assistant: ",
        "S\n\n",
    ),
    "oasst_pythia": (
        "",
        "<|prompter|>Q1<|endoftext|>",
        "<|assistant|>A1<|endoftext|>",
        "<|prompter|>Q2<|endoftext|>",
        "<|assistant|>A2<|endoftext|>",
        "<|assistant|>",
        "S",
    ),
    "raw": ("", "Q1", "A1", "Q2", "A2", "", "S"),
    "Robin": (
        ROBIN,
        "###Human:\nQ1\n",
        "###Assistant:\nA1\n",
        "###Human:\nQ2\n",
        "###Assistant:\nA2\n",
        "###Assistant:\n",
        "S\n",
    ),
    "llama-2": (
        "[INST] ",
        "Q1 ",
        "[/INST] A1 </s><s>",
        "[INST] Q2 ",
        "[/INST] A2 </s><s>",
        "[/INST]",
        "[INST] <<SYS>>\nS\n<</SYS>>\n\n",
    ),
    "Yi-34b-chat": (
        "",
        "<|im_start|>user\nQ1<|im_end|>\n",
        "<|im_start|>assistant\nA1<|im_end|>\n",
        "<|im_start|>user\nQ2<|im_end|>\n",
        "<|im_start|>assistant\nA2<|im_end|>\n",
        "<|im_start|>assistant\n",
        "S<|im_end|>\n",
    ),
    "mistral": ("[INST] ", "Q1 ", "[/INST] A1</s>", "[INST] Q2 ", "[/INST] A2</s>", "[/INST]", "[INST] S\n"),
}
PIECES = (
    "",
    " ",
    "Q",
    "one\ntwo",
    "\n",
    " spaces  ",
    "a\r\nb",
    "{{ x }} {% y %} {#",
    "{}",
    "<s>[/INST]</s>",
    "日本\U0001f600",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A tokenizer without a vocabulary: only its way to render a template is used."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=Tokenizer(models.BPE()))


def conversation(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def rendered(tokenizer: Any, name: str, messages: Sequence[dict[str, str]], *, prompt: bool = False) -> str:
    template = named_template(name)
    return str(
        tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=prompt)
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_text_is_fastchats(name: str, tokenizer: Any) -> None:
    front, question, answer, again, last, header, system = GOLDEN[name]
    assert rendered(tokenizer, name, conversation("Q1")) == front + question
    assert rendered(tokenizer, name, conversation("Q1", "A1")) == front + question + answer
    assert rendered(tokenizer, name, conversation("Q1", "A1", "Q2")) == front + question + answer + again
    assert rendered(tokenizer, name, conversation("Q1", "A1", "Q2", "A2")) == front + question + answer + again + last
    assert rendered(tokenizer, name, conversation("Q1", "")) == front + question + header, "an empty answer has no end"
    assert rendered(tokenizer, name, conversation("Q1"), prompt=True) == front + question + header
    with_system = [{"role": "system", "content": "S"}, *conversation("Q1", "A1")]
    assert rendered(tokenizer, name, with_system) == system + question + answer


@pytest.mark.parametrize("name", GOLDEN)
def test_what_fastchat_cannot_write_is_refused(name: str, tokenizer: Any) -> None:
    """A turn that no header exists for is an error with the template's name, not silently another turn."""
    late_system = [*conversation("Q1"), {"role": "system", "content": "S"}]
    for messages in (late_system, [{"role": "tool", "content": "T"}]):
        with pytest.raises(Exception, match=rf"the template {name} takes one system message in front"):
            rendered(tokenizer, name, messages)


@pytest.mark.parametrize("name", ["llama-2", "mistral"])
def test_templates_that_count_turns_refuse_other_orders(name: str, tokenizer: Any) -> None:
    """FastChat tags these by position: two questions in a row would make the second one an answer."""
    for messages in (conversation("Q1")[:1] * 2, conversation("Q1", "A1")[1:]):
        with pytest.raises(Exception, match=rf"the template {name} .* user and assistant in turn; turn \d is"):
            rendered(tokenizer, name, messages)


def test_every_file_has_golden_strings() -> None:
    assert sorted(path.stem for path in templates.FOLDER.glob("*.jinja")) == sorted(GOLDEN)


def test_an_unknown_name_is_refused_with_the_closest_one() -> None:
    known = "Robin, Yi-34b-chat, Ziya, llama-2, mistral, oasst_pythia, openbmb, pku-align, raw, tulu"
    with pytest.raises(InputError) as caught:
        named_template("tulu2")
    assert str(caught.value) == f"unknown chat template 'tulu2': did you mean 'tulu'? available: {known}"
    with pytest.raises(InputError) as caught:
        named_template("../templates/tulu")
    assert "available:" in str(caught.value)


@pytest.mark.reference
def test_random_conversations_equal_the_installed_fastchat(tokenizer: Any, reference_venv: Path) -> None:
    python = reference_venv / "bin" / "python"
    draw, cases = random.Random(0), []
    for index in range(200):
        texts = ["".join(draw.choices(PIECES, k=draw.randrange(4))) for _ in range(draw.randrange(1, 7))]
        system = [{"role": "system", "content": draw.choice(PIECES)}] if draw.random() < 0.3 else []
        prompt = len(texts) % 2 == 1 and draw.random() < 0.5
        cases.append((list(GOLDEN)[index % len(GOLDEN)], system + conversation(*texts), prompt))
    answer = subprocess.run(
        [python, "-W", "ignore", "-c", FASTCHAT], input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    expected = json.loads(answer.stdout)
    assert [rendered(tokenizer, name, messages, prompt=prompt) for name, messages, prompt in cases] == expected
