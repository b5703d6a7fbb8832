"""A checkpoint's files on this machine's disk, ahead of need.

While one model computes, the next one's files come from the hub: `fetch` is what a pool calls in the background, and
what a worker calls before it loads. Files that are there are not asked for again; two that fetch the same ones wait for
each other (the hub's cache locks each file).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from workers.errors import ModelError, boundary
from workers.protocol import ModelSpec

TOKENIZER = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""What a tokenizer and a configuration are made of."""
WEIGHTS = ("*.safetensors",)
PICKLED, CODE = ("*.bin",), ("*.py",)
"""Of these only what a model's file allows."""


def fetch(spec: ModelSpec) -> float:
    """Bring the checkpoint's files and its tokenizer's to this machine; the seconds that it took.

    `ModelError` where the hub does not give them. A folder of this machine is used where it lies.
    """
    started = time.perf_counter()
    with boundary(ModelError, f"model {spec.name!r}: cannot fetch {spec.path}"):
        if spec.revision is not None:
            _from_hub(spec.path, spec.revision, _patterns(spec))
        if spec.tokenizer is not None and spec.tokenizer_revision is not None:
            _from_hub(spec.tokenizer, spec.tokenizer_revision, (*TOKENIZER, *(CODE if spec.trust_remote_code else ())))
    return time.perf_counter() - started


def _patterns(spec: ModelSpec) -> tuple[str, ...]:
    pickled = PICKLED if spec.allow_pickle else ()
    return (*TOKENIZER, *WEIGHTS, *pickled, *(CODE if spec.trust_remote_code else ()))


def _from_hub(path: str, revision: str, patterns: Sequence[str]) -> None:
    """The files at the top of a repository; folders in it hold other forms of the same weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    snapshot_download(path, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"])
