"""The text of `rewardsweep nightly --help`: what it is, its own keys, examples."""

from __future__ import annotations

NIGHTLY = (
    """\
rewardsweep nightly: score what is new, keep a dated snapshot of the leaderboard in the store, and report what changed
since the last one: new, removed and failed models, data, ranks, significant moves, and drift: an unchanged model whose
scores differ under other versions of engine or libraries.

One line on standard output, all else on standard error. With nothing new, no worker is started. The report is in the
store: nightly/DAY/report.md, report.json, index.html. Two nights of one store never overlap.

exit codes: 0 all is well, 10 a regression, 20 something is missing, 30 another night is at work, 2 and 130 as always
""",
    """\
  webhook=VARIABLE          post the report to the address that this environment variable holds
""",
    """\
examples
  rewardsweep nightly suite=small store=s3://bucket/nightly webhook=SLACK_WEBHOOK
  rewardsweep nightly suite=baselines store=scores
  rewardsweep nightly +models.mine.path=./my-checkpoint +models.mine.family=scalar store=scores output=json
""",
)
