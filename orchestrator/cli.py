"""The command line: `rewardsweep VERB [override ...]`. The only code that prints errors and decides exit codes.

0 all is well · 1 finished, but something failed or is damaged · 2 the input is wrong · 130 interrupted;
`nightly` besides: 10 a regression · 20 something is missing · 30 another night is at work.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from orchestrator import (
    __version__,
    check,
    compare,
    correlate,
    evaluate,
    exchange,
    gantt,
    inspect,
    leaderboards,
    maintenance,
    multirun,
    usage,
    zoo,
)
from orchestrator.config import KEYS, Settings, settings
from orchestrator.evaluate import INTERRUPTED, OK, WRONG_INPUT
from orchestrator.nightly import nightly
from orchestrator.paths import CONF_DIR
from orchestrator.progress import log_as, say
from orchestrator.site import build
from workers import plugins
from workers.errors import InputError, SweepError

OPTIONS = {"-m": False, "--multirun": False, "--config-dir": True, "-cd": True, "--cfg": True, "-c": True}
"""Hydra's options that work here, and whether each takes a value."""

VERBS: dict[str, Callable[[Settings], int]] = {
    "run": evaluate.run,
    "plan": evaluate.plan,
    "leaderboard": leaderboards.leaderboard,
    "scores": leaderboards.scores,
    "status": inspect.status,
    "verify": inspect.verify,
    "check": check.check,
    "compare": compare.compare,
    "correlate": correlate.correlate,
    "site": build.site,
    "timeline": gantt.timeline,
    "import": exchange.import_results,
    "export": exchange.export_results,
    "nightly": nightly,
    "compact": maintenance.compact,
    "gc": maintenance.gc,
}

NAMING = ("compare", "correlate", "site", "timeline", "import", "export")
"""Verbs that take words without a key."""

WEBHOOK = "REWARDSWEEP_WEBHOOK"
"""The environment variable that stands for an address given on the command line."""

LISTINGS: dict[str, Callable[[Sequence[str]], int]] = {"models": zoo.models}
"""Verbs that need no configuration: they take their words as they are."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the last error says it all
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage.overview([*VERBS, *LISTINGS]))
        return OK if words else WRONG_INPUT
    if words[0] in ("-V", "--version"):
        print(f"rewardsweep {__version__}")
        return OK
    log_as("json" if "log=json" in words else "text")  # what goes wrong before the configuration is read, too
    verb, rest = words[0], words[1:]
    if verb not in VERBS and verb not in LISTINGS:
        return _wrong(plugins.unknown(verb, [*VERBS, *LISTINGS], "verb"))
    if {"-h", "--help"} & set(rest):
        print(usage.verb(verb))
        return OK
    if {"-m", "--multirun"} & set(rest) and verb != "run":
        return _wrong(f"{verb}: -m (multirun) works with `rewardsweep run` only")
    return _guarded(verb, rest)


def _guarded(verb: str, words: Sequence[str]) -> int:
    """A user's mistake is one line on standard error, never a traceback."""
    try:
        return LISTINGS[verb](words) if verb in LISTINGS else _hydra(verb, words)
    except SweepError as error:
        return _wrong(str(error))
    except (HydraException, MissingConfigException, OmegaConfBaseException) as error:
        return _wrong(_explained(error))
    except KeyboardInterrupt:
        say("interrupted before anything was scored")
        return INTERRUPTED


def _hydra(verb: str, words: Sequence[str]) -> int:
    """Compose the configuration and run the verb; with -m compose all jobs, and run them as one sweep."""
    codes: list[int] = []
    composed: list[tuple[list[str], Settings | SweepError]] = []
    many = bool({"-m", "--multirun"} & set(words))

    def job(config: DictConfig) -> None:
        """Catches here what it can, not in `_guarded`: Hydra would print a line of its own."""
        if many:
            composed.append((list(HydraConfig.get().overrides.task), _settings_or_error(config)))
            return
        try:
            found = settings(config)
            log_as(found.log)
            codes.append(_printing(lambda: VERBS[verb](found)))
        except SweepError as error:
            codes.append(_wrong(str(error)))
        if codes[-1] == INTERRUPTED:
            raise SystemExit(INTERRUPTED)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, and `_guarded` prints
    start: Any = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(job)
    before = sys.argv
    arranged = _arranged(_named(words) if verb in NAMING else words)
    sys.argv = ["rewardsweep", f"++verb={verb}", *arranged]
    try:
        start()
    except HydraException as error:
        if not many or isinstance(error, OverrideParseException):
            raise
        return _wrong(_culprit(arranged, error))
    finally:
        sys.argv = before
    return _printing(lambda: _together(composed)) if many else max(codes, default=OK)  # no job: --cfg only prints


def _settings_or_error(config: DictConfig) -> Settings | SweepError:
    try:
        return settings(config)
    except SweepError as error:
        return error


def _printing(work: Callable[[], int]) -> int:
    """A reader may have seen enough, as in `rewardsweep scores | head`."""
    try:
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def _together(composed: Sequence[tuple[list[str], Settings | SweepError]]) -> int:
    """Run all jobs of a multirun, if all are sound."""
    swept = multirun.swept([said for said, _ in composed])
    jobs = []
    for number, (own, (_, found)) in enumerate(zip(swept, composed, strict=True), 1):
        if isinstance(found, SweepError):
            _wrong(f"{multirun.title(number, own)}: {found}")
        else:
            jobs.append(multirun.Job(number, own, found))
    if len(jobs) < len(composed):
        return WRONG_INPUT
    if jobs:
        log_as(jobs[0].settings.log)
    return multirun.run(jobs) if jobs else OK


def _culprit(words: Sequence[str], error: HydraException) -> str:
    """Hydra's complaint about one of several jobs, with the first job that cannot be composed."""
    overrides = list(itertools.takewhile(lambda word: not word.startswith("-"), words))  # they come first
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [str(override.input_line)]
        for override in parsed
    ]
    jobs = [list(choice) for choice in itertools.product(*choices)]
    folder = re.search(r"(?:--config-dir|-cd)[= ](\S+)", " ".join(words))
    more = [f"hydra.searchpath=['file://{Path(folder[1]).absolute()}']"] if folder else []
    for number, (own, job) in enumerate(zip(multirun.swept(jobs), jobs, strict=True), 1):
        try:
            with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                compose("config", [*job, *more])
        except HydraException as found:
            return f"{multirun.title(number, own)}: {_explained(found)}"
    return _explained(error)


def _arranged(words: Sequence[str]) -> list[str]:
    """Overrides before options: Hydra's parser takes overrides in one piece only."""
    overrides: list[str] = []
    options: list[str] = []
    rest = iter(words)
    for word in rest:
        name = word.partition("=")[0]
        if not word.startswith("-"):
            overrides.append(_override(word))
        elif name not in OPTIONS:
            raise InputError(plugins.unknown(name, list(OPTIONS), "option"))
        elif OPTIONS[name] and "=" not in word:
            value = next(rest, None)
            if value is None:
                raise InputError(f"{name}: needs a value behind it")
            options += [word, value]
        else:
            options.append(word)
    return overrides + options


def _named(words: Sequence[str]) -> list[str]:
    """The words without a key, as an override."""
    names = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if "=" not in word and not word.startswith("-") and not OPTIONS.get(before, False)
    ]
    return [*(word for word in words if word not in names), f"++names=[{','.join(map(json.dumps, names))}]"]


def _override(word: str) -> str:
    """What adds a key to a mapping works whether or not a file names that key already: data., models., dollars."""
    if re.match(r"[+~]*data(=|$)", word):
        raise InputError(f"{word}: give each benchmark's file by itself: data.<benchmark>=FILE")
    if secret := re.match(r"[+~]*webhook=['\"]?(https?://[^'\"]*)['\"]?$", word):
        os.environ[WEBHOOK] = secret[1]  # a secret: neither Hydra nor a message of its may show it
        return f"webhook={WEBHOOK}"
    return f"++{word}" if re.match(r"((data|models|dollars)\.[^=]+|dollars)=", word) else word


def _explained(error: Exception) -> str:
    """Hydra's complaint in one line, with the closest match where a name is unknown."""
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        folders = [Path(found) / group for found in re.findall(r"path=file://(.+)", str(error))]
        known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        return plugins.unknown(name, known, group)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, OverrideParseException):
        return f"{error.override}: no valid override ({lines[0]}); write key=value, and quote lists: 'key=[a,b]'"
    key = re.match(r"Could not override '([^']+)'", lines[0])
    if key:
        return plugins.unknown(key[1], sorted({*KEYS, "model", "ray.address", "suite"} - {"verb"}), "key")
    return f"{' '.join(lines[:2])}; see `rewardsweep run --help`"


def _wrong(message: str) -> int:
    say(f"error: {message}")
    return WRONG_INPUT
