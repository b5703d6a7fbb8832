"""The texts of `rewardsweep --help` and `rewardsweep VERB --help`."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.usage_verbs import VERBS

OVERVIEW = """\
rewardsweep: evaluate reward models on preference benchmarks; the same score every time, and proof of why.

usage: rewardsweep VERB [key=value ...]

  run          score what is missing, then print the leaderboard
  plan         say what `run` would score, and why; writes nothing
  leaderboard  print the leaderboard of what a store holds
  scores       print one line a response: score, tokens, truncated
  status       say what was run, what is missing and what failed
  verify       check every part of a store; exit code 1 if anything is wrong
  compact      merge a store's small parts into few; removes nothing
  gc           remove from a store what nothing refers to; names it only, unless apply=true
  compare      test whether two models differ on the same rows, and where
  correlate    set a leaderboard beside results of your own, such as what a policy gained from a reward model
  site         write leaderboards, models and comparisons as a folder of pages
  timeline     draw what every GPU did when, as a page and a picture
  import       take in results of the reference, as rows marked `imported`
  export       write results as the reference does, and metadata for model cards
  nightly      score what is new, keep a dated snapshot, report what changed since the last one
  check        score ten rows of one model in every way: alone, in a batch, in each engine
  models       list the models that can be named, filtered

Each verb explains itself: rewardsweep VERB --help
Every key=value overrides the configuration (Hydra's syntax); quote lists: 'model=[longest,random]'.
exit codes: 0 done, 1 something failed or is damaged, 2 wrong input, 130 interrupted; nightly: also 10, 20 and 30
"""


def overview(verbs: Sequence[str]) -> str:
    """The text of `rewardsweep --help`."""
    missing = set(verbs) - set(VERBS)
    assert not missing, f"verbs without help: {missing}"
    return OVERVIEW


def verb(name: str) -> str:
    """The text of `rewardsweep NAME --help`."""
    return f"usage: rewardsweep {name} [key=value ...]\n\n" + "\n".join(VERBS[name])
