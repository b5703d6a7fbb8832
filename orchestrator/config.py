"""Hydra's configuration to checked settings. The only code that sees omegaconf."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator import cluster
from orchestrator.cost import Offer
from workers import plugins
from workers.errors import InputError, first_line
from workers.logs import Form

KEYS = (
    "apply",
    "benchmarks",
    "data",
    "deadline",
    "device",
    "dollars",
    "gpu",
    "gpus",
    "grace_hours",
    "keep_days",
    "keep_runs",
    "log",
    "models",
    "names",
    "node_gpus",
    "numerics",
    "output",
    "pool",
    "priority",
    "protocol",
    "push",
    "ray",
    "rule",
    "shard_rows",
    "store",
    "verb",
    "webhook",
    "workers",
)
OUTPUTS = ("text", "json", "csv", "markdown")
OUTPUTS_OF = {
    "run": (*OUTPUTS, "latex"),
    "leaderboard": (*OUTPUTS, "latex"),
    "scores": (*OUTPUTS, "jsonl"),
    "timeline": (*OUTPUTS, "html", "png"),
    "nightly": ("text", "json", "markdown"),
    **dict.fromkeys(("check", "compact", "gc", "status", "verify"), ("text", "json")),
}
"""By verb, where they are not `OUTPUTS`."""
KEYS_OF_GC = ("apply", "keep_runs", "keep_days")
LOGS = ("text", "json")
POOLS = ("ray", "local")
DEVICES = ("auto", "cpu", "cuda")
FOR_ALL = {"protocol": ("own", "reference"), "numerics": ("fast", "exact")}
"""Keys of a model's file that a command can set for all models."""


@dataclass(frozen=True)
class Settings:
    """One command's configuration. `models` holds the files' values, not yet pinned; `webhook` may be a secret."""

    verb: str
    models: Mapping[str, Mapping[str, Any]]
    benchmarks: tuple[str, ...] | None
    data: Mapping[str, str]
    rule: str | None
    store: str
    output: str
    pool: str
    ray_address: str
    workers: int | None
    device: str
    shard_rows: int
    log: Form
    deadline: int | None = None
    priority: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    push: str | None = None
    webhook: str | None = field(default=None, repr=False)
    apply: bool = False
    keep_runs: int | None = None
    keep_days: float | None = None
    grace_hours: float = 24
    what_if: tuple[Offer, ...] | None = None
    dollars: Mapping[str, float] = field(default_factory=dict)


def settings(config: DictConfig) -> Settings:
    """Checked settings with absolute paths; `InputError` names the key that is wrong."""
    try:
        values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(f"configuration: {first_line(error)}") from error
    _known_keys("", values, KEYS)
    _mapping("ray", values["ray"])
    _known_keys("ray.", values["ray"], ("address",))
    address = _text("ray.address", values["ray"]["address"]) or ""
    _choice("output", values["output"], OUTPUTS_OF.get(values["verb"], OUTPUTS))
    _keys_of_gc(values)
    _choice("pool", values["pool"], POOLS)
    _choice("device", values["device"], DEVICES)
    _choice("log", values["log"], LOGS)
    return Settings(
        verb=values["verb"],
        models=_models(values["models"], {name: values[name] for name in FOR_ALL}),
        benchmarks=_names(values["benchmarks"]),
        data=_data(values["data"]),
        rule=_text("rule", values["rule"]),
        store=_store(values["store"], address),
        output=values["output"],
        pool=values["pool"],
        ray_address=address,
        workers=_count("workers", values["workers"]) if values["workers"] is not None else None,
        device=values["device"],
        shard_rows=_count("shard_rows", values["shard_rows"]),
        deadline=_count("deadline", values["deadline"]) if values["deadline"] is not None else None,
        priority=_priority(values["priority"], values["models"]),
        log=values["log"],
        push=_text("push", values["push"]),
        webhook=values["webhook"],
        apply=_flag("apply", values["apply"]),
        keep_runs=_count("keep_runs", values["keep_runs"]) if values["keep_runs"] is not None else None,
        keep_days=_amount("keep_days", values["keep_days"]) if values["keep_days"] is not None else None,
        grace_hours=_amount("grace_hours", values["grace_hours"]),
        names=tuple(dict.fromkeys(map(str, values["names"] or ()))),
        what_if=_what_if(values),
        dollars=cluster.prices(values["dollars"]),
    )


def named_folder(settings: Settings) -> Path:
    """The one folder that a verb was told to write to; `InputError` where it is none."""
    verb = settings.verb
    if len(settings.names) != 1:
        raise InputError(f"{verb}: name one folder to write to: rewardsweep {verb} FOLDER store=...")
    folder = Path(settings.names[0]).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{verb}: {folder} is a file; name a folder")
    return folder


def _what_if(values: Mapping[str, Any]) -> tuple[Offer, ...] | None:
    """The cluster that `plan` is asked about in place of the one that is there."""
    offers = cluster.offered(values["gpus"], values["gpu"], _count("node_gpus", values["node_gpus"]))
    if offers is not None and values["verb"] != "plan":
        raise InputError(f"{values['verb']}: gpus and gpu describe a cluster to plan for; use `rewardsweep plan`")
    return offers


def _keys_of_gc(values: Mapping[str, Any]) -> None:
    """What says how to remove files must not be given to a verb that removes none, as if it did."""
    for key in KEYS_OF_GC:
        if values["verb"] != "gc" and values[key] is not None and values[key] is not False:
            raise InputError(f"{values['verb']}: {key} says what `rewardsweep gc` removes; leave it out, or use gc")


def _known_keys(prefix: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Every key is there and none besides: `+sotre=x` must not go unnoticed."""
    for key in values:
        if key not in known:
            raise InputError(plugins.unknown(f"{prefix}{key}", [f"{prefix}{name}" for name in known], "key"))
    for key in known:
        if key not in values:
            raise InputError(f"{prefix}{key} is missing; give {prefix}{key}=VALUE or leave its default")


def _mapping(key: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise InputError(f"{key}={value}: must hold keys and values; see `rewardsweep run --help`")


def _text(key: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{key}={value}: must be text")
    return value


def _choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{key}={value}: must be one of {', '.join(choices)}")


def _count(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{key}={value}: must be a whole number of at least 1")
    return value


def _amount(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0 or value == float("inf"):
        raise InputError(f"{key}={value}: must be a number of at least 0")
    return float(value)


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{key}={value}: must be true or false")
    return value


def _models(values: Any, for_all: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The models' entries; what is given for the whole command goes into each of them."""
    common = {name: value for name, value in for_all.items() if value is not None}
    for name, value in common.items():
        _choice(name, value, FOR_ALL[name])
    _mapping("models", values)
    for name, entry in values.items():
        if not isinstance(entry, Mapping):
            raise InputError(f"models.{name}: must hold keys such as path and family, found {entry!r}")
    return {str(name): {**entry, **common} for name, entry in values.items()}


def _priority(values: Any, models: Mapping[str, Any]) -> tuple[str, ...]:
    """The models that come first; each must be one of the command's."""
    names = tuple(str(value) for value in ([values] if isinstance(values, str) else values or ()))
    for name in names:
        if name not in models:
            raise InputError(plugins.unknown(f"priority={name}", sorted(models), "model"))
    return names


def _names(values: Any) -> tuple[str, ...] | None:
    if values is None:
        return None
    if not isinstance(values, str | list):
        raise InputError(f"benchmarks={values}: must be a list of names, for example benchmarks=[rewardbench]")
    names = tuple(str(value) for value in ([values] if isinstance(values, str) else values))
    if not names:
        raise InputError("benchmarks=[]: name at least one, for example benchmarks=[rewardbench]")
    for name in names:
        if not plugins.is_name(name):
            raise InputError(f"benchmarks: {name!r} is not a name")
    return tuple(dict.fromkeys(names))


def _data(values: Any) -> dict[str, str]:
    _mapping("data", values)
    known = plugins.available("orchestrator.benchmarks")
    for name, path in values.items():
        if name not in known and "." not in name:
            raise InputError(f"data.{name}: {plugins.unknown(name, known, 'benchmark')}")
        if not isinstance(path, str):
            raise InputError(f"data.{name}={path}: must be the path of a file")
    return {name: str(Path(path).expanduser().absolute()) for name, path in values.items()}


def _store(value: Any, address: Any) -> str:
    """A URI as it is, a folder as an absolute path: workers elsewhere must mean the same place."""
    if not isinstance(value, str) or not value:
        raise InputError(f"store={value}: must be a folder or a URI such as s3://bucket/prefix")
    if "://" in value:
        return value
    path = Path(value).expanduser()
    if address and not path.is_absolute():
        raise InputError(
            f"store={value}: with ray.address the store must be a URI or an absolute path that every node sees"
        )
    return os.path.abspath(path)
