"""From a model's file to a pinned model: every stream a spec whose fingerprint names all that can change a score.

Nothing is guessed: what cannot be pinned is an `InputError` that names the key.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator import checkpoints
from orchestrator.checkpoints import DTYPES, Pinned
from orchestrator.choose import AUTO, engine_of
from workers import plugins
from workers.actor import environment
from workers.errors import InputError, ModelError
from workers.protocol import Model, ModelSpec
from workers.templates import named_template

CHOICES = {
    "dtype": ("auto", *DTYPES),
    "truncation_side": ("left", "right"),
    "bos": ("single", "keep"),
    "eos": ("keep", "expect", "append"),
    "protocol": ("own", "reference"),
    "numerics": ("fast", "exact"),
}
TEMPLATES = ("chat_template", "fallback_template")
TEXTS = ("family", "engine", "path", "revision", "tokenizer", "tokenizer_revision", "attention", *TEMPLATES)
SWITCHES = ("trust_remote_code", "allow_pickle")
COUNTS = ("max_length", "gpus", "token_budget")
MAPPINGS = ("options", "template_kwargs", "scoring", "members")
COPIED = (
    "attention",
    "numerics",
    "max_length",
    "truncation_side",
    "template_kwargs",
    "bos",
    "eos",
    "protocol",
    "options",
    "token_budget",
)
KEYS = {*CHOICES, *TEXTS, *SWITCHES, *COUNTS, *MAPPINGS, "endpoint", "reference", "size", "active"}
OF_THE_REFERENCE = (
    "path",
    "revision",
    "dtype",
    "attention",
    "gpus",
    "token_budget",
    "trust_remote_code",
    "allow_pickle",
)
"""What a model's file may say of its reference; tokens and engine are the policy's."""

OF_AN_ENSEMBLE = ("family", "members", "protocol", "scoring", "size", "active")
"""What the file of an ensemble may say beside its members."""


def check_entry(name: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """All that can be wrong with a model's file by itself; the family's choices."""
    _check(name, entry)
    for field in TEMPLATES:
        _template(name, field, entry)
    _endpoint(name, entry)
    scoring = _scoring(name, entry, _plugin(name, "family", "workers.families", entry["family"]))
    return scoring if entry.get("members") is None else {**scoring, "members": _member_scorings(name, entry)}


def pin_model(name: str, entry: Mapping[str, Any], cuda: bool, hub: bool = True) -> Model:
    """The model behind `models.<name>`, for GPUs or for a CPU.

    Without the hub it is what its file says, enough for a plan: a branch of a repository stays unpinned, and the
    libraries of its engine need not be here.
    """
    scoring = check_entry(name, entry)
    if entry.get("members") is not None:
        streams = [_spec(own, member, cuda, hub) for own, member in _members(name, entry).items()]
        return Model(name, entry["family"], tuple(streams), scoring)
    streams = [_spec(name, entry, cuda, hub)]
    if entry.get("reference"):
        streams.append(_spec(f"{name}.reference", _reference(name, entry), cuda, hub))
    return Model(name, entry["family"], tuple(streams), scoring)


def _members(name: str, entry: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """An ensemble's members as entries of their own, so that each shares its measurements with the same model alone."""
    common = {field: entry[field] for field in ("family", "protocol") if field in entry}
    return {f"{name}.members.{member}": {**common, **given} for member, given in entry["members"].items()}


def _member_scorings(name: str, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each member of an ensemble chooses for itself, everything about it checked."""
    key = f"models.{name}"
    family = plugins.resolve("workers.families", entry["family"])
    if not hasattr(family, "OF_A_MEMBER"):
        raise InputError(f"{key}.members: family {entry['family']} takes no members; judges vote (family: judge)")
    if foreign := [field for field in entry if field not in OF_AN_ENSEMBLE]:
        raise InputError(f"{key}.{foreign[0]}: an ensemble has none; move it to {key}.members.NAME.{foreign[0]}")
    members = entry["members"]
    fine = [isinstance(member, Mapping) and not {"family", "members"} & member.keys() for member in members.values()]
    if len(fine) < 2 or not all(fine):
        raise InputError(
            f"{key}.members: must name at least two members, each with keys such as path and scoring (no family)"
        )
    found = [dict(check_entry(own, member)) for own, member in _members(name, entry).items()]
    for member, scoring in zip(members, found, strict=True):
        if foreign := [field for field in scoring if field not in family.OF_A_MEMBER]:
            raise InputError(
                f"{key}.members.{member}.scoring.{foreign[0]}: the same for all members; set {key}.scoring.{foreign[0]}"
            )
    return found


def _reference(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the model that a policy is compared with: its own weights, the policy's tokens.

    The reference implementation renders both with the policy's tokenizer (rewardbench 0.1.4, `run_dpo.py`).
    """
    given = entry["reference"]
    own = {"path": given} if isinstance(given, str) else dict(given)
    for field in own:
        if field not in OF_THE_REFERENCE:
            raise InputError(f"models.{name}.reference: {plugins.unknown(str(field), sorted(OF_THE_REFERENCE), 'key')}")
    shared = {
        field: value for field, value in entry.items() if field not in (*OF_THE_REFERENCE, "reference", "scoring")
    }
    tokens = {
        "tokenizer": entry.get("tokenizer") or entry["path"],
        "tokenizer_revision": entry.get("tokenizer_revision") if entry.get("tokenizer") else entry.get("revision"),
    }
    return {"dtype": entry.get("dtype", "auto"), "gpus": entry.get("gpus", 1), **shared, **tokens, **own}


def _spec(name: str, entry: Mapping[str, Any], cuda: bool, hub: bool) -> ModelSpec:
    """One stream: the checkpoint, its engine and everything that its scores depend on."""
    family = plugins.resolve("workers.families", entry["family"])
    engine_name, reason = engine_of(name, entry, cuda, assumed=not hub)
    engine = _plugin(name, "engine", "workers.engines", engine_name)
    if "." not in engine_name and engine_name not in family.ENGINES:
        served = " and ".join(family.ENGINES)
        raise InputError(f"models.{name}.engine={engine_name}: family {entry['family']} is served by {served}")
    if family.KIND not in engine.KINDS:
        raise InputError(f"models.{name}.engine={engine_name}: cannot do {family.KIND!r}; use {family.ENGINES[0]}")
    versions = _versions(name, engine_name, engine.PACKAGES, hub)
    endpoint = _endpoint(name, entry)
    if engine.NEEDS_WEIGHTS:
        weights = checkpoints.weights(name, entry, hub)
    elif endpoint:
        weights = Pinned(entry["path"], None, f"endpoint:{entry['path']}@{endpoint['serves']}")
    else:
        weights = Pinned(f"builtin:{name}", None, "none")
    source = entry.get("tokenizer")
    named = entry.get("tokenizer_revision")
    tokenizer = checkpoints.tokenizer(name, "tokenizer", source, named, hub) if source else None
    gpus = entry.get("gpus", 1) if cuda and engine.NEEDS_WEIGHTS else 0
    return ModelSpec(
        name=name,
        path=weights.path,
        revision=weights.revision,
        weights=weights.content,
        family=entry["family"],
        family_version=family.VERSION,
        engine=engine_name,
        engine_version=engine.VERSION,
        engine_reason=reason,
        environment=versions,
        tokenizer=tokenizer.path if tokenizer else None,
        tokenizer_revision=tokenizer.revision if tokenizer else None,
        tokenizer_files=tokenizer.content if tokenizer else None,
        dtype=checkpoints.dtype(name, entry, weights, hub) if gpus else "float32",
        chat_template=_template(name, "chat_template", entry),
        fallback_template=_template(name, "fallback_template", entry),
        trust_remote_code=bool(entry.get("trust_remote_code", False)),
        allow_pickle=bool(entry.get("allow_pickle", False)),
        gpus=gpus,
        endpoint=endpoint,
        addresses=checkpoints.addresses(name, [weights, tokenizer] if hub else []),
        **{key: entry[key] for key in COPIED if entry.get(key) is not None},
    )


def _versions(name: str, engine: str, packages: tuple[str, ...], needed: bool) -> tuple[tuple[str, str], ...]:
    """The versions of an engine's libraries; none where they are not here and nothing will run."""
    try:
        return environment(packages)
    except ModelError as error:
        if needed:
            raise InputError(f"model {name!r}: engine {engine}: {error}") from error
        return ()


def _endpoint(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Where the model answers, checked; empty for one that is loaded here."""
    given = entry.get("engine") or AUTO
    engine: Any = None if given == AUTO else _plugin(name, "engine", "workers.engines", given)
    if hasattr(engine, "endpoint"):
        return dict(engine.endpoint(name, entry))
    if entry.get("endpoint") is not None:
        raise InputError(f"models.{name}.endpoint: only a model that is not loaded here has one; add engine: openai")
    return {}


def _scoring(name: str, entry: Mapping[str, Any], family: Any) -> Mapping[str, Any]:
    """The family's choices, checked; an implicit reward must say what it is compared with."""
    key, scoring = f"models.{name}.scoring", dict(entry.get("scoring") or {})
    for field, value in scoring.items():
        if field not in family.SCORING:
            raise InputError(f"{key}: {plugins.unknown(str(field), sorted(family.SCORING), 'key')}")
        if value not in family.SCORING[field]:
            raise InputError(f"{key}.{field}={value}: must be one of {', '.join(map(str, family.SCORING[field]))}")
    if family.KIND != "logprob" and entry.get("reference"):
        raise InputError(f"models.{name}.reference: only an implicit reward (family: dpo) has a reference model")
    if family.KIND == "logprob" and bool(entry.get("reference")) == ("reference_free" in scoring):
        choices = "|".join(family.SCORING["reference_free"])
        raise InputError(
            f"models.{name}.reference: name the model it was tuned from, or set {key}.reference_free={choices}; "
            "one of the two"
        )
    return scoring


def cuda_here() -> bool:
    """Whether this machine has an NVIDIA GPU, seen without importing torch."""
    return bool(glob.glob("/dev/nvidia[0-9]*"))


def _check(name: str, entry: Mapping[str, Any]) -> None:
    """Keys and types of a model's file."""
    key = f"models.{name}"
    if not plugins.is_name(name):
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
    if field in CHOICES:
        return None if value in CHOICES[field] else f"must be one of {', '.join(CHOICES[field])}"
    rules: tuple[tuple[tuple[str, ...], bool, str], ...] = (
        (TEXTS, value is None or isinstance(value, str), f"must be text; quote it: '{field}=\"{value}\"'"),
        (SWITCHES, isinstance(value, bool), "must be true or false, without quotes"),
        (COUNTS, value is None or (type(value) is int and value > 0), "must be a whole number of at least 1"),
        (("size", "active"), type(value) in (int, float) and value > 0, "must be a number: billions of parameters"),
        (MAPPINGS, isinstance(value, Mapping), "must hold keys and values"),
        (
            ("reference",),
            value is None or isinstance(value, str | Mapping),
            "must be a folder or hub id, or hold keys such as path and revision",
        ),
        (
            ("endpoint",),
            value is None or isinstance(value, str | Mapping),
            "must be an address or a provider's name, or hold keys such as url and key",
        ),
    )
    return next((problem for fields, fine, problem in rules if field in fields and not fine), None)


def _plugin(name: str, field: str, package: str, value: str) -> Any:
    """The module behind `models.<name>.<field>`."""
    known = plugins.available(package)
    if "." not in value and value not in known:
        raise InputError(f"models.{name}.{field}: {plugins.unknown(value, known, field)}")
    return plugins.resolve(package, value)


def _template(name: str, field: str, entry: Mapping[str, Any]) -> str | None:
    """The text of a .jinja file or of a named template."""
    value = entry.get(field)
    if value is None:
        return None
    if value.endswith(".jinja"):
        path = Path(value).expanduser()
        if not path.is_file():
            raise InputError(f"models.{name}.{field}={value}: no such file; give a .jinja file or a template's name")
        return path.read_text(encoding="utf-8")
    try:
        return named_template(value)
    except InputError as error:
        raise InputError(f"models.{name}.{field}: {error}") from error
