"""Run a rewardsweep command on a Ray cluster, from a laptop: `python deploy/ray/submit.py run suite=small store=s3://b/p`.

`python deploy/ray/submit.py --gpus 2x8:H100 run ...` asks a cluster that grows for them first (with_gpus.py).
The cluster's dashboard is named by RAY_ADDRESS, its token by RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
The exit code is the command's own. Ctrl-C stops the job; submitted again, it scores what is still missing.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parent.parent.parent
FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


class Refused(Exception):
    """What the user has to mend, in one line."""


def runtime_env() -> dict[str, Any]:
    """Ray's description of what travels: the checkout, less what `runtime_env.yaml` leaves out."""
    text = (Path(__file__).parent / "runtime_env.yaml").read_text(encoding="utf-8")
    return {"working_dir": str(CHECKOUT), **yaml.safe_load(text)}


def entrypoint(words: Sequence[str]) -> str:
    """The shell command of the job; a store that only the laptop sees is refused before anything travels."""
    asking: list[str] = []
    if len(words) > 1 and words[0] == "--gpus":
        asking, words = ["python", "deploy/ray/with_gpus.py", words[1], "--"], words[2:]
    if not words:
        raise Refused("give a command, for example: run suite=small store=s3://bucket/prefix")
    stores = [word.partition("=")[2] for word in words if word.startswith("store=")]
    if not stores or not ("://" in stores[-1] or stores[-1].startswith("/")):
        raise Refused("give store=URI, or an absolute path that every node of the cluster sees")
    return shlex.join([*asking, "python", "-m", "orchestrator", *words, "ray.address=auto"])


def client() -> Any:
    """A connection to the cluster's dashboard."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        raise Refused("set RAY_ADDRESS to the cluster's dashboard, for example http://127.0.0.1:8265")
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ) or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise Refused(f"RAY_ADDRESS={address}: the token is missing or wrong; set RAY_AUTH_TOKEN to it") from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Refused(f"RAY_ADDRESS={address}: {str(error).strip().splitlines()[0]}") from error


async def follow(jobs: Any, job: str) -> None:
    """Print the job's log as it grows, to its end."""
    async for lines in jobs.tail_job_logs(job):
        sys.stderr.write(lines)


def submit(words: Sequence[str]) -> int:
    """Submit the command, follow it, and give its exit code."""
    command = entrypoint(words)
    jobs = client()
    job = jobs.submit_job(entrypoint=command, runtime_env=runtime_env(), metadata={"command": command})
    sys.stderr.write(f"submitted {job}; stop it with Ctrl-C or: ray job stop {job}\n")
    try:
        asyncio.run(follow(jobs, job))
    except KeyboardInterrupt:
        jobs.stop_job(job)
        sys.stderr.write(f"stopped {job}; submit the same command again to resume\n")
        return INTERRUPTED
    details = jobs.get_job_info(job)
    sys.stderr.write(f"{job}: {details.status}\n")
    if details.driver_exit_code is None:
        return FAILED
    return int(details.driver_exit_code)


def main() -> int:
    """The script's exit code: the command's own, 2 where it was not submitted."""
    try:
        return submit(sys.argv[1:])
    except Refused as error:
        sys.stderr.write(f"error: {error}\n")
        return WRONG_INPUT


if __name__ == "__main__":
    raise SystemExit(main())
