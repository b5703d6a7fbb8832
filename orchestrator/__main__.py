"""`python -m orchestrator` is the console script `rewardsweep`."""

import sys

from orchestrator.cli import main

if __name__ == "__main__":
    sys.exit(main())
