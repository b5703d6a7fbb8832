"""The command: `python -m orchestrator.simulate`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from orchestrator.simulate import zoo
from orchestrator.simulate.draw import simulate
from orchestrator.simulate.scenario import Violation


def main(words: list[str] | None = None) -> int:
    """Run what the command line says; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.simulate", description="The scheduler, simulated.")
    parser.add_argument("what", nargs="?", choices=["runs", "zoo"], default="runs")
    parser.add_argument("--seed", type=int, help="one run, with what happened in it")
    parser.add_argument("--seeds", default="0:1000", metavar="FROM:TO", help="many runs")
    parser.add_argument("--lengths", type=Path, default=Path("bench/lengths.json"), help="zoo: tokens of real pairs")
    parser.add_argument("--gpus", default="1,8,64,512", help="zoo: the clusters' sizes")
    parser.add_argument("--runs", type=int, default=5, help="zoo: runs with faults, of which the mean is shown")
    given = parser.parse_args(words)
    if given.what == "zoo":
        print(zoo.HEADER)
        for figure in zoo.report(given.lengths, [int(size) for size in given.gpus.split(",")], given.runs):
            print(figure, flush=True)
        return 0
    first, _, last = given.seeds.partition(":")
    seeds = range(int(first), int(last)) if given.seed is None else range(given.seed, given.seed + 1)
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            seen.update(simulate(seed).seen)
        except Violation as error:
            print(f"seed {seed}: {error}")
            return 1
    print(
        f"{len(seeds)} runs, no promise broken; " + ", ".join(f"{what} {count}" for what, count in seen.most_common())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
