"""The command line: `rewardsweep VERB [override ...]`. The only code that prints errors and decides exit codes.

0 all is well · 1 finished, but something failed or is damaged · 2 the input is wrong · 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from orchestrator import __version__, evaluate, inspect, leaderboards, usage
from orchestrator.config import Settings, settings
from orchestrator.evaluate import FAILED, INTERRUPTED, OK, WRONG_INPUT
from orchestrator.paths import CONF_DIR
from orchestrator.progress import say
from workers import plugins
from workers.errors import SweepError

VERBS: dict[str, Callable[[Settings], int]] = {
    "run": evaluate.run,
    "plan": evaluate.plan,
    "leaderboard": leaderboards.leaderboard,
    "scores": leaderboards.scores,
    "status": inspect.status,
    "verify": inspect.verify,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage.overview(list(VERBS)))
        return OK if words else WRONG_INPUT
    if words[0] in ("-V", "--version"):
        print(f"rewardsweep {__version__}")
        return OK
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        return _wrong(plugins.unknown(verb, list(VERBS), "verb"))
    if {"-h", "--help"} & set(rest):
        print(usage.verb(verb))
        return OK
    if {"-m", "--multirun"} & set(rest) and verb != "run":
        return _wrong(f"{verb}: -m (multirun) works with `rewardsweep run` only")
    return _guarded(verb, rest)


def _guarded(verb: str, words: Sequence[str]) -> int:
    """A user's mistake is one line on standard error, never a traceback."""
    try:
        return _hydra(verb, words)
    except SweepError as error:
        return _wrong(str(error))
    except MissingConfigException as error:
        return _wrong(_missing_config(error))
    except (HydraException, OmegaConfBaseException) as error:
        return _wrong(_one_line(error))
    except KeyboardInterrupt:
        say("interrupted before anything was scored")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _hydra(verb: str, words: Sequence[str]) -> int:
    """Compose the configuration and run the verb, once or, with -m, once a job; the worst exit code."""
    codes: list[int] = []

    def job(config: DictConfig) -> None:
        codes.append(VERBS[verb](settings(config)))
        if codes[-1] == INTERRUPTED:
            raise SystemExit(INTERRUPTED)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, and `_guarded` prints
    start: Any = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(job)
    before = sys.argv
    sys.argv = ["rewardsweep", *map(_free_key, words), f"verb={verb}"]
    try:
        start()
    finally:
        sys.argv = before
    return max(codes, default=FAILED)


def _free_key(word: str) -> str:
    """`data.<benchmark>=FILE` works for every benchmark, also one that was added as a file."""
    return f"++{word}" if re.match(r"data\.[\w.-]+=", word) else word


def _missing_config(error: MissingConfigException) -> str:
    """Hydra's complaint about an unknown model or suite, with the closest match."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    options = [option for option in (error.options or []) if "/" not in option]
    return plugins.unknown(name, options, group) if group else _one_line(error)


def _one_line(error: Exception) -> str:
    """The first sentence of Hydra's message, and of its cause where that says more."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = str(error.__cause__).splitlines()[0] if error.__cause__ else ""
    text = " ".join(lines[:2]) if lines else type(error).__name__
    return f"{text} {cause}".strip() + "; see `rewardsweep run --help`"


def _wrong(message: str) -> int:
    say(f"error: {message}")
    return WRONG_INPUT


