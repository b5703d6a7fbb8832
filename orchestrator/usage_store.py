"""The texts of `rewardsweep VERB --help` for the verbs that take care of a store."""

from __future__ import annotations

STORE = """\
where
  store=URI                 a folder (default rewardsweep-store), s3://..., gs://...
  output=text               text, json, csv or markdown
"""

PLACE = STORE.partition("  output=")[0]

STORE_VERBS = {
    "import": (
        """\
rewardsweep import: take results of rewardbench into a store: import FILE_OR_FOLDER [...]

Reads eval-set (accuracies of subsets), eval-set-scores (scores of rows) and the command line's own .json and
_outputs.jsonl. Rows are joined by subset and id. The models stand in every table as NAME+imported; with scores of rows
they have intervals and ranks, and can be compared.
""",
        PLACE
        + """\
  benchmarks=[name]         one; default rewardbench
  data.rewardbench=FILE     its rows; those of the store's latest run if not given
""",
        """\
examples
  rewardsweep import results/eval-set-scores store=scores
  rewardsweep import results/org/model_outputs.jsonl store=scores data.rewardbench=filtered.parquet
  rewardsweep import reward-bench-2-results/eval-set-scores store=scores benchmarks=[rewardbench2]
""",
    ),
    "export": (
        """\
rewardsweep export: write every complete model of a store as the reference does: export FOLDER

FOLDER/BENCHMARK/eval-set/MODEL.json         accuracies of subsets
FOLDER/BENCHMARK/eval-set-scores/MODEL.json  columns: texts, scores and results of rows
FOLDER/BENCHMARK/model-cards/MODEL.md        metadata (`model-index`) for the model's card on a hub
""",
        PLACE
        + """\
  push=ORG/DATASET          upload FOLDER to a data set of the hub besides; HF_TOKEN is its token
  benchmarks=[name,...]     all in the store if not given
  rule=NAME                 a dated rule
""",
        """\
examples
  rewardsweep export results store=scores
  rewardsweep export results store=s3://bucket/nightly benchmarks=[rewardbench]
  rewardsweep export results store=scores rule=rewardbench-v1-prior-sets
""",
    ),
    "compact": (
        """\
rewardsweep compact: merge the small parts of each model into few large ones, and write an index of all its parts.

Rows stay readable throughout; scores and provenance are the same before and after. The old parts stay until
`rewardsweep gc` removes them. Sweeps and readers may run meanwhile.
""",
        PLACE
        + """\
  output=text               text or json
""",
        """\
examples
  rewardsweep compact store=scores
  rewardsweep compact store=s3://bucket/nightly
  rewardsweep compact store=s3://bucket/nightly output=json
""",
    ),
    "gc": (
        """\
rewardsweep gc: name what nothing in a store refers to: files that killed writers left unfinished, parts whose rows
are all in a larger one, runs that the policy does not keep, examples and models that no run and no night refers to.

Measurements that no run asks for stay, and so does the newest run of every benchmark and of every model on it.
""",
        PLACE
        + """\
  output=text               text or json
  apply=true                remove what is named
  keep_runs=N               of runs, keep the newest N at least
  keep_days=D               of runs, keep those of the last D days at least; without either, all runs are kept
  grace_hours=24            keep whatever is younger, for readers and writers that are under way
""",
        """\
examples
  rewardsweep gc store=scores
  rewardsweep gc store=scores keep_runs=30 keep_days=90
  rewardsweep gc store=s3://bucket/nightly keep_runs=30 apply=true
""",
    ),
}
