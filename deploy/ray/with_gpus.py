#!/usr/bin/env python
"""Ask a cluster that grows for GPUs, run a command as soon as the first are there, and let them go at its end.

    with_gpus.py 8 -- rewardsweep run ...          # one node of 8 GPUs
    with_gpus.py 2x8:H100 1:L4 -- rewardsweep ...  # two nodes of 8 H100 and one of an L4
    with_gpus.py 0                                 # forget what a killed command asked for

A sweep plans with the GPUs that it finds; on a cluster at zero it would find none. Where a `run` or `nightly` of
rewardsweep has nothing to score, nothing is asked for. The exit code is the command's own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

WRONG_INPUT = 2
WAIT_SECONDS = float(os.environ.get("REWARDSWEEP_GPU_WAIT", "3600"))
POLL_SECONDS = 2.0
SOME = 0.001
"""A share of a node's label that any node of that kind can give."""


class Refused(Exception):
    """What the user has to mend, in one line."""


def bundles(wanted: Sequence[str]) -> list[dict[str, float]]:
    """Ray's bundles, one a node: `2x8:H100` is two of 8 GPUs and a share of the label."""
    found: list[dict[str, float]] = []
    for word in wanted:
        match = re.fullmatch(r"(?:(\d+)x)?(\d+)(?::([\w-]+))?", word)
        if match is None:
            raise Refused(f"{word}: give GPUs as 8, 2x8 or 2x8:H100")
        bundle = {"GPU": float(match[2])} | ({f"accelerator_type:{match[3]}": SOME} if match[3] else {})
        found += [bundle] * int(match[1] or 1) if bundle["GPU"] else []
    return found


def ask(asked: list[dict[str, float]], seconds: float) -> None:
    """Tell the autoscaler what must be there, nothing for an empty list; wait until the first of it is."""
    import ray
    from ray.autoscaler.sdk import request_resources

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    try:
        request_resources(bundles=asked)
        deadline = time.monotonic() + seconds
        while asked and not _some_fit(asked, ray.cluster_resources()):  # type: ignore[no-untyped-call]
            if time.monotonic() > deadline:
                request_resources(bundles=[])
                raise Refused(f"no GPU came within {seconds:.0f} s; is there quota, and a group of this kind?")
            time.sleep(POLL_SECONDS)
    finally:
        ray.shutdown()


def _some_fit(asked: Sequence[dict[str, float]], there: Mapping[str, float]) -> bool:
    """Whether a bundle of what was asked for is there, its kind of GPU included."""
    return any(all(there.get(name, 0.0) >= count for name, count in bundle.items()) for bundle in asked)


def owes(command: Sequence[str]) -> bool:
    """Whether a command has something to score: `rewardsweep plan` tells it of `run` and `nightly`; else, yes."""
    called = [
        at
        for at, (program, verb) in enumerate(pairwise(command), 1)
        if Path(program).name in ("rewardsweep", "orchestrator") and verb in ("run", "nightly")
    ]
    if not called or {"-m", "--multirun"} & set(command[called[0] :]):
        return True
    words = [word for word in command[called[0] + 1 :] if not word.startswith("output=")]
    done = subprocess.run([*command[: called[0]], "plan", *words, "output=json"], stdout=subprocess.PIPE, check=False)
    try:
        return bool(json.loads(done.stdout)["owed"])
    except (ValueError, KeyError):  # no plan: the command says itself what is wrong, or does what it can
        return True


def run(command: Sequence[str]) -> int:
    """The command's exit code; a signal to this process is the command's, which ends in its own time."""
    with subprocess.Popen(command) as process:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: process.send_signal(received))
        return process.wait()


def main(words: Sequence[str]) -> int:
    """Ask, run, let go."""
    wanted, command = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    try:
        if not wanted:
            raise Refused("say how many GPUs, for example: with_gpus.py 8 -- rewardsweep run ...")
        asked = bundles(wanted)
        if command and not owes(command):
            return run(command)
        ask(asked, WAIT_SECONDS)
    except Refused as error:
        sys.stderr.write(f"error: {error}\n")
        return WRONG_INPUT
    if not command:
        return 0
    try:
        return run(command)
    finally:
        ask([], 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
