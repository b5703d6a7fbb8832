"""The deciding side: load -> plan -> schedule -> execute -> reduce.

    config, pin        Hydra configuration -> pinned model specs          cli      verbs, printing, exit codes
    data, benchmarks   files and hub -> examples                          driver   events <-> commands
    plan, scheduler    pure: what is owed, and who does it                *_pool   where workers run
    stores             Parquet parts under a URI                          reducer  measurements -> leaderboard

Imports no torch, transformers or vllm, not even indirectly; ray is imported in `ray_*` alone.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rewardsweep")
except PackageNotFoundError:  # an uploaded working directory that is not installed
    __version__ = "0+uninstalled"
