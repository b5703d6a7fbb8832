"""From a model's file to a pinned spec: hub revisions become commits, local folders the hash of their files.

Nothing is guessed: what cannot be pinned is an `InputError` that names the key.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers import plugins
from workers.actor import environment
from workers.errors import InputError, ModelError, first_line
from workers.protocol import Model, ModelSpec, digest, is_name
from workers.templates import named_template

DTYPES = ("float32", "bfloat16", "float16")
CHOICES = {
    "dtype": ("auto", *DTYPES),
    "truncation_side": ("left", "right"),
    "bos": ("single", "keep"),
    "eos": ("keep", "expect", "append"),
}
TEXTS = ("family", "engine", "path", "revision", "tokenizer", "tokenizer_revision", "chat_template", "attention")
SWITCHES = ("trust_remote_code", "allow_pickle")
COUNTS = ("max_length", "gpus", "token_budget")
COPIED = ("attention", "max_length", "truncation_side", "template_kwargs", "bos", "eos", "options", "token_budget")
KEYS = {
    "family",
    "engine",
    "path",
    "revision",
    "tokenizer",
    "tokenizer_revision",
    "dtype",
    "chat_template",
    "gpus",
    "trust_remote_code",
    "allow_pickle",
    *COPIED,
}
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Pinned:
    """A checkpoint's place and the name of its content."""

    path: str
    revision: str | None
    content: str


def pin_model(name: str, entry: Mapping[str, Any], cuda: bool) -> Model:
    """The model behind `models.<name>`, for GPUs or for a CPU."""
    _check(name, entry)
    family = _plugin(name, "family", "workers.families", entry["family"])
    engine_name = entry.get("engine") or family.ENGINES[0]
    engine = _plugin(name, "engine", "workers.engines", engine_name)
    try:
        versions = environment(engine.PACKAGES)
    except ModelError as error:
        raise InputError(f"model {name!r}: engine {engine_name}: {error}") from error
    weights = _weights(name, entry) if engine.NEEDS_WEIGHTS else Pinned(f"builtin:{name}", None, "none")
    tokenizer = (
        _content(name, "tokenizer", entry["tokenizer"], entry.get("tokenizer_revision"))
        if entry.get("tokenizer")
        else None
    )
    gpus = entry.get("gpus", 1) if cuda and engine.NEEDS_WEIGHTS else 0
    spec = ModelSpec(
        name=name,
        path=weights.path,
        revision=weights.revision,
        weights=weights.content,
        family=entry["family"],
        family_version=family.VERSION,
        engine=engine_name,
        engine_version=engine.VERSION,
        environment=versions,
        tokenizer=tokenizer.path if tokenizer else None,
        tokenizer_revision=tokenizer.revision if tokenizer else None,
        tokenizer_files=tokenizer.content if tokenizer else None,
        dtype=_dtype(name, entry, weights) if gpus else "float32",
        chat_template=_template(name, entry.get("chat_template")),
        trust_remote_code=bool(entry.get("trust_remote_code", False)),
        allow_pickle=bool(entry.get("allow_pickle", False)),
        gpus=gpus,
        **{key: entry[key] for key in COPIED if entry.get(key) is not None},
    )
    return Model(name, spec.family, (spec,))


def cuda_here() -> bool:
    """Whether this machine has an NVIDIA GPU, seen without importing torch."""
    return bool(glob.glob("/dev/nvidia[0-9]*"))


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's files; hidden files and *.md do not count."""
    files = sorted(
        file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".") and file.suffix != ".md"
    )
    hashes = []
    for file in files:
        with file.open("rb") as stream:
            hashes.append([file.name, hashlib.file_digest(stream, "sha256").hexdigest()])
    return f"sha256:{digest(hashes)}"


def _check(name: str, entry: Mapping[str, Any]) -> None:
    """All that can be wrong with a model's file by itself."""
    key = f"models.{name}"
    if not is_name(name):
        raise InputError(f"{key}: a model's name may hold letters, digits and . _ + - only")
    for field in entry:
        if field not in KEYS:
            raise InputError(f"{key}: {plugins.unknown(str(field), sorted(KEYS), 'key')}")
    if not entry.get("family"):
        families = ", ".join(plugins.available("workers.families"))
        raise InputError(f"{key}.family is missing: set +{key}.family to one of {families}")
    for field, value in entry.items():
        if (problem := _problem(str(field), value)) is not None:
            raise InputError(f"{key}.{field}={value}: {problem}")


def _problem(field: str, value: Any) -> str | None:
    """What is wrong with one value of a model's file, None if nothing is."""
    if field in CHOICES and value not in CHOICES[field]:
        return f"must be one of {', '.join(CHOICES[field])}"
    if field in TEXTS and value is not None and not isinstance(value, str):
        return f"must be text; quote it: '{field}=\"{value}\"'"
    if field in SWITCHES and not isinstance(value, bool):
        return "must be true or false, without quotes"
    if field in COUNTS and value is not None and (type(value) is not int or value < 1):
        return "must be a whole number of at least 1"
    if field in ("options", "template_kwargs") and not isinstance(value, Mapping):
        return "must hold keys and values"
    return None


def _plugin(name: str, field: str, package: str, value: str) -> Any:
    """The module behind `models.<name>.<field>`."""
    known = plugins.available(package)
    if "." not in value and value not in known:
        raise InputError(f"models.{name}.{field}: {plugins.unknown(value, known, field)}")
    return plugins.resolve(package, value)


def _weights(name: str, entry: Mapping[str, Any]) -> Pinned:
    if not entry.get("path"):
        raise InputError(f"models.{name}.path is missing: set it to a checkpoint's folder or hub id")
    pinned = _content(name, "path", entry["path"], entry.get("revision"))
    if entry.get("trust_remote_code") and pinned.revision and not COMMIT.fullmatch(str(entry.get("revision"))):
        raise InputError(
            f"models.{name}.trust_remote_code: remote code runs only from a pinned commit; "
            f"set models.{name}.revision={pinned.revision}"
        )
    return pinned


def _content(name: str, field: str, path: str, revision: str | None) -> Pinned:
    """A folder by the hash of its files, a hub repository by its commit."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists() and field == "path":
            raise InputError(f"models.{name}.{field}={path}: no config.json in this folder; it is not a checkpoint")
        return Pinned(str(folder.resolve()), None, hash_folder(folder))
    if folder.exists():
        raise InputError(f"models.{name}.{field}={path}: a file; give the folder that holds it")
    if path.startswith((".", "/", "~")) or not HUB_ID.fullmatch(path):
        raise InputError(f"models.{name}.{field}={path}: no such folder; check the path")
    commit = revision if revision and COMMIT.fullmatch(revision) else _commit(name, field, path, revision)
    return Pinned(path, commit, f"hub:{path}@{commit}")


def _commit(name: str, field: str, path: str, revision: str | None) -> str:
    """The commit that a branch or tag of a hub repository points to now."""
    from huggingface_hub import HfApi

    try:
        commit = HfApi().model_info(path, revision=revision, timeout=20).sha
    except Exception as error:
        raise InputError(
            f"models.{name}.{field}={path}: no such folder, and the hub gives no revision for it "
            f"({first_line(error)}); check the name, or pin models.{name}.revision to a commit"
        ) from error
    return str(commit)


def _dtype(name: str, entry: Mapping[str, Any], weights: Pinned) -> str:
    """The model file's dtype, else the one in which the checkpoint was saved."""
    chosen = entry.get("dtype", "auto")
    if chosen != "auto":
        return str(chosen)
    try:
        values = json.loads(_config_file(name, weights).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"models.{name}.path={entry['path']}: its config.json is damaged ({error})") from error
    saved = values.get("dtype") or values.get("torch_dtype")
    if saved not in DTYPES:
        raise InputError(
            f"models.{name}.dtype is missing and the checkpoint does not say it; set one of {', '.join(DTYPES)}"
        )
    return str(saved)


def _config_file(name: str, weights: Pinned) -> Path:
    """The checkpoint's config.json, of the pinned commit where it lies on the hub."""
    if weights.revision is None:
        return Path(weights.path) / "config.json"
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(weights.path, "config.json", revision=weights.revision))
    except Exception as error:
        raise InputError(
            f"models.{name}.path={weights.path}: cannot fetch its config.json ({first_line(error)}); "
            f"set models.{name}.dtype to one of {', '.join(DTYPES)}"
        ) from error


def _template(name: str, value: str | None) -> str | None:
    """The text of a .jinja file or of a named template."""
    if value is None:
        return None
    if value.endswith(".jinja"):
        path = Path(value).expanduser()
        if not path.is_file():
            raise InputError(
                f"models.{name}.chat_template={value}: no such file; give a .jinja file or the name of a template"
            )
        return path.read_text(encoding="utf-8")
    try:
        return named_template(value)
    except InputError as error:
        raise InputError(f"models.{name}.chat_template: {error}") from error
