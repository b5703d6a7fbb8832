"""The text of each verb's own help, in three parts: what it does, its keys, examples."""

from __future__ import annotations

from orchestrator.cost import CPU, GPUS
from orchestrator.usage_store import PLACE, STORE, STORE_VERBS

SELECTION = """\
what to evaluate
  model=[name,...]          models of conf/model, or of a folder given with --config-dir
  suite=NAME                a named list of models and benchmarks
  +models.mine.path=DIR +models.mine.family=scalar
                            a checkpoint on disk, without a file
  models.NAME.dtype=float32 change one key of a model
  benchmarks=[name,...]     rewardbench, rewardbench2, rmbench, judgebench, rmb, ppe, mrewardbench, evalbias,
                            pairs, demo; default: those of data., else rewardbench
  data.rewardbench=FILE     a local copy: jsonl, jsonl.gz, json, csv, parquet, a folder of them or one saved by datasets
  data.pairs=FILE           any file with prompt, chosen, rejected (a response, or a list); subset and id are optional
  rule=NAME                 a dated rule, for example rewardbench-v1-prior-sets
"""

WHERE = """\
  ray.address=              empty: Ray on this machine; host:port, ray://host:port or auto: a cluster
  workers=N                 at most N workers at a time
  pool=local                one worker in this process, without Ray
  device=auto               auto, cpu or cuda
  log=text                  text, or json: every line on standard error an object
"""

CLUSTER = f"""\
  gpus=64 gpu=A100-80G      a cluster to plan for; gpus=0: CPUs alone; gpu is one of
                            {", ".join(name for name in GPUS if name != CPU)}
  gpu={{A100-80G:48,L40S-48G:16}} node_gpus=8  a cluster of several kinds; the GPUs of a node
  dollars={{A100-80G:1.8}}    prices an hour in place of list prices
"""

VERBS = {
    **STORE_VERBS,
    "run": (
        """\
rewardsweep run: score what the store does not have yet, then print the leaderboard.

Stop it at any time (Ctrl-C, a kill, a power cut) and run the same command again: it goes on where it was.
-m runs one job for each combination of comma-separated values, all as one sweep, and compares their models.
""",
        SELECTION + STORE.replace("csv or", "csv, latex or") + WHERE,
        """\
examples
  rewardsweep run suite=baselines
  rewardsweep run +models.mine.path=./my-checkpoint +models.mine.family=scalar store=scores
  rewardsweep run -m 'model=[longest],[random]' benchmarks=[pairs] data.pairs=my_pairs.jsonl
""",
    ),
    "plan": (
        """\
rewardsweep plan: say what `run` would score, and why; on which devices, how long it takes and what it costs. Nothing is
written or loaded. With gpus= or gpu= it plans for a cluster that you describe, and asks no model hub: models that are
not on this machine are planned by their files.
""",
        SELECTION + STORE + CLUSTER,
        """\
examples
  rewardsweep plan suite=rewardbench-v1 gpus=64 gpu=A100-80G
  rewardsweep plan suite=all 'gpu={A100-80G:48,L40S-48G:16}' 'dollars={A100-80G:1.8}' output=markdown
  rewardsweep plan +models.mine.path=./my-checkpoint +models.mine.family=scalar output=json
""",
    ),
    "leaderboard": (
        "rewardsweep leaderboard: print the leaderboard of a store; all models and benchmarks unless named.\n",
        SELECTION + STORE.replace("csv or", "csv, latex or"),
        """\
examples
  rewardsweep leaderboard store=scores
  rewardsweep leaderboard store=scores 'model=[longest,random]' output=json
  rewardsweep leaderboard store=scores benchmarks=[rewardbench] rule=rewardbench-v1-before-2024-09-10
""",
    ),
    "scores": (
        """\
rewardsweep scores: print one line a response: model, benchmark, subset, id, response (0 is the chosen), kind,
score, tokens, truncated.
""",
        SELECTION + STORE.replace("json, csv or markdown", "jsonl, csv or markdown"),
        """\
examples
  rewardsweep scores store=scores output=jsonl > scores.jsonl
  rewardsweep scores store=scores 'model=[longest]' benchmarks=[demo]
  rewardsweep scores store=s3://bucket/nightly output=csv > scores.csv
""",
    ),
    "status": (
        "rewardsweep status: say which runs a store has seen, how the latest stands, what is missing, what failed.\n",
        PLACE + "  output=text               text or json\n",
        """\
examples
  rewardsweep status
  rewardsweep status store=s3://bucket/nightly
  rewardsweep status store=scores output=json
""",
    ),
    "verify": (
        """\
rewardsweep verify: read every part of a store and check its bytes, columns, fingerprint and keys; render a sample
of each model's rows again and compare the hashes of the tokens. Names what is wrong; exit code 1 if anything is.
""",
        PLACE + "  output=text               text or json\n",
        """\
examples
  rewardsweep verify
  rewardsweep verify store=s3://bucket/nightly
  rewardsweep verify store=scores output=json
""",
    ),
    "check": (
        """\
rewardsweep check: render ten rows of one model and show what it sees, special tokens included; run the preflight;
score them alone, in one batch and in every engine installed for its family. Nothing is kept. Exit code 1 where a score
moves by more than the tolerance that the report states, where a verdict turns, or where the preflight finds an error.
""",
        SELECTION
        + """\
  output=text               text or json
""",
        """\
examples
  rewardsweep check 'model=[Skywork-Reward-Llama-3_1-8B-v0_2]'
  rewardsweep check +models.mine.path=./my-checkpoint +models.mine.family=scalar
  rewardsweep check +models.mine.path=./my-checkpoint +models.mine.family=scalar data.pairs=my_pairs.jsonl output=json
""",
    ),
    "compare": (
        """\
rewardsweep compare: test whether model A differs from B, and from C, on the same rows of a store: compare A B [C ...]

For the overall and each section: both accuracies, their difference with a 95% interval (paired bootstrap over rows),
the rows that only one of them wins, and a p-value: McNemar's exact test with mid-p, of the weighted overall the
bootstrap's; then adjusted for several models (Holm). Below it the rows on which they disagree most.
""",
        STORE
        + """\
  benchmarks=[name,...]     all in the store if not given
  rule=NAME                 a dated rule
""",
        """\
examples
  rewardsweep compare mine longest store=scores
  rewardsweep compare new old older store=s3://bucket/nightly benchmarks=[rewardbench]
  rewardsweep compare mine longest store=scores output=json
""",
    ),
    "correlate": (
        """\
rewardsweep correlate: how a leaderboard goes with results of your own, by model: correlate FILE

FILE (csv, jsonl, json or parquet) has a column `model`, named as in the leaderboard, and columns of numbers, for
example what a policy gained by PPO or best-of-n. For each of them and each column of the leaderboard: the correlation
of Spearman, of Kendall (tau-b) and of Pearson over the models that have both, with 95% intervals (bootstrap over
models).
""",
        STORE
        + """\
  benchmarks=[name,...]     all in the store if not given
  rule=NAME                 a dated rule
""",
        """\
examples
  rewardsweep correlate downstream.csv store=scores
  rewardsweep correlate ppo.jsonl store=s3://bucket/nightly benchmarks=[rewardbench]
  rewardsweep correlate downstream.csv store=scores output=json
""",
    ),
    "site": (
        """\
rewardsweep site: write a folder of pages that opens from disk or from any web server: site FOLDER

Every leaderboard with search, filters and sorting; a page a model with its subsets, its provenance, its runs and the
rows that it loses by most; a page for each pair of neighbours; and insights: types of models, length, agreement, the
hardest rows. No page asks anything of the network; all of them can be read without JavaScript.
""",
        PLACE
        + """\
  benchmarks=[name,...]     all in the store if not given
  rule=NAME                 a dated rule
""",
        """\
examples
  rewardsweep site public store=scores
  rewardsweep site public store=s3://bucket/nightly benchmarks=[rewardbench]
  rewardsweep site public store=scores rule=rewardbench-v1-prior-sets
""",
    ),
    "timeline": (
        "rewardsweep timeline: draw what each GPU did, timeline-RUN.html and .png in this folder: timeline [RUN]\n",
        PLACE
        + "  output=text               html or png: only that; json, csv or markdown: print the bars as records\n",
        """\
examples
  rewardsweep timeline store=scores
  rewardsweep timeline store=s3://bucket/nightly output=html
  rewardsweep timeline 20260131T235959-3f2a9c store=scores
""",
    ),
    "nightly": (
        """\
rewardsweep nightly: score what is new, keep a dated snapshot of the leaderboard in the store, and report what changed
since the last one: new, removed and failed models, data, ranks, significant moves, and drift: an unchanged model whose
scores differ under other versions of engine or libraries.

One line on standard output, all else on standard error. With nothing new, no worker is started. The report is in the
store: nightly/DAY/report.md, report.json, index.html. Two nights of one store never overlap.

exit codes: 0 all is well, 10 a regression, 20 something is missing, 30 another night is at work, 2 and 130 as always
""",
        SELECTION
        + STORE.replace("text, json, csv or", "text (one line), json or")
        + WHERE
        + """\
  webhook=VARIABLE          post the report to the address that this environment variable holds
""",
        """\
examples
  rewardsweep nightly suite=small store=s3://bucket/nightly webhook=SLACK_WEBHOOK
  rewardsweep nightly suite=baselines store=scores
  rewardsweep nightly +models.mine.path=./my-checkpoint +models.mine.family=scalar store=scores output=json
""",
    ),
    "models": (
        """\
rewardsweep models: list the model files that ship, and those of --config-dir, that fit every filter.

filters
  name=*llama*              of the file; * and ? stand for anything
  family=dpo                how scores are made
  engine=openai             the engine that the file names; auto if none
  suite=small               models of a suite
  max_size=9                at most so many billions of parameters
""",
        """\
how
  --config-dir DIR          your own files besides
  output=text               text, json, csv or markdown
""",
        """\
examples
  rewardsweep models
  rewardsweep models family=dpo max_size=9
  rewardsweep models name='*tulu*' output=json
""",
    ),
}
