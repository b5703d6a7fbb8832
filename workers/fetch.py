"""A checkpoint's files on this machine's disk, ahead of need.

While one model computes, the next one's files come from the hub or a bucket: `fetch` is what a pool calls in the
background, and what a worker calls before it loads. Files that are there are not asked for again; two that fetch the
same ones wait for each other (the hub's cache locks each file, ours the checkpoint).
"""

from __future__ import annotations

import time
from dataclasses import replace

from workers import bucketed, buckets
from workers.errors import ModelError, StoreError, boundary
from workers.protocol import ModelSpec

TOKENIZER = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""What a tokenizer and a configuration are made of."""
WEIGHTS = ("*.safetensors",)
PICKLED, CODE = ("*.bin", "*.pt"), ("*.py",)
"""Of these only what a model's file allows."""
TRAINING = ("optimizer*", "scheduler*", "rng_state*", "training_args*")
"""What is only for going on with training."""


def fetch(spec: ModelSpec, weights: bool = True) -> float:
    """Bring the checkpoint's files and its tokenizer's to this machine; the seconds that it took.

    `ModelError` where the hub or the bucket does not give them. A folder of this machine is used where it lies. Without
    `weights` come the files that a preflight reads; of the hub's, transformers fetches those that it reads itself.
    """
    started = time.perf_counter()
    with boundary(ModelError, f"model {spec.name!r}: cannot fetch {spec.path}"):
        if spec.revision is not None:
            _bring(spec, spec.path, spec.revision, weights, weights)
        if spec.tokenizer is not None and spec.tokenizer_revision is not None:
            _bring(spec, spec.tokenizer, spec.tokenizer_revision, False, weights)
    return time.perf_counter() - started


def local(spec: ModelSpec) -> ModelSpec:
    """The spec as an engine reads it: what was fetched from a bucket is a folder of this machine."""
    if spec.revision is not None and buckets.is_bucket(spec.path):
        spec = replace(spec, path=str(bucketed.folder_of(spec.path, spec.revision)), revision=None)
    if spec.tokenizer is not None and spec.tokenizer_revision is not None and buckets.is_bucket(spec.tokenizer):
        folder = bucketed.folder_of(spec.tokenizer, spec.tokenizer_revision)
        spec = replace(spec, tokenizer=str(folder), tokenizer_revision=None)
    return spec


def is_here(spec: ModelSpec) -> bool:
    """Whether the weights of a model in a bucket are on this machine."""
    return spec.revision is not None and bucketed.is_here(spec.path, spec.revision, _patterns(spec, True), TRAINING)


def _bring(spec: ModelSpec, path: str, revision: str, weights: bool, hub: bool) -> None:
    """The files at the top of a repository or below a prefix; folders in it hold other forms of the same weights."""
    patterns = _patterns(spec, weights)
    if buckets.is_bucket(path):
        try:
            bucketed.bring(path, revision, patterns, TRAINING, spec.addresses.get(buckets.place_of(path).kind))
        except StoreError as error:  # of this model's files, not of the store
            raise ModelError(f"model {spec.name!r}: {error}") from error
    elif hub:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        snapshot_download(path, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*", *TRAINING])


def _patterns(spec: ModelSpec, weights: bool) -> tuple[str, ...]:
    code = CODE if spec.trust_remote_code else ()
    held = (*WEIGHTS, *(PICKLED if spec.allow_pickle else ())) if weights else ()
    return (*TOKENIZER, *held, *code)
