"""M-RewardBench: RewardBench in 23 languages.

Dataset: CohereLabsCommunity/multilingual-reward-bench, a folder a language: `prompt`, `chosen`, `rejected`,
`language` (else the folder's name), and `category`, else RewardBench's subset as `subset` or `source`. Metric: the
chosen response scores strictly higher. Sections: the share of rows of a category, averaged over the languages.
Overall: the mean of the four, which is ours (arXiv:2410.15522 reports languages). A subset is a category in a language.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator import data
from orchestrator.benchmarks import Benchmark, Example, Rule
from orchestrator.benchmarks.pairs import parse as parse_pairs
from orchestrator.benchmarks.rewardbench import SECTIONS
from orchestrator.data import Row
from orchestrator.metrics import shares
from workers.plugins import unknown

LANGUAGES = (
    *("arb_Arab", "ces_Latn", "deu_Latn", "ell_Grek", "fra_Latn", "heb_Hebr", "hin_Deva", "ind_Latn"),
    *("ita_Latn", "jpn_Jpan", "kor_Hang", "nld_Latn", "pes_Arab", "pol_Latn", "por_Latn", "ron_Latn"),
    *("rus_Cyrl", "spa_Latn", "tur_Latn", "ukr_Cyrl", "vie_Latn", "zho_Hans", "zho_Hant"),
)
SUBSETS = {section: tuple(f"{language} {section}" for language in LANGUAGES) for section in SECTIONS}
CATEGORY_OF = {subset: section for section, subsets in SECTIONS.items() for subset in subsets}


def parse(rows: Iterable[Row]) -> list[Example]:
    """Pairs; `InputError` names the first row of an unknown language or category."""
    return parse_pairs(_row(row) for row in rows)


def _row(row: Row) -> Row:
    given = str(row.values.get("language") or "")
    language = next((name for name in (given, row.file.parent.name) if name in LANGUAGES), None)
    if language is None:
        raise row.fail(unknown(given, list(LANGUAGES), "language"))
    return replace(row, values={**row.values, "subset": f"{language} {_category(row)}"})


def _category(row: Row) -> str:
    """RewardBench's section, named by the first column that is there."""
    column = next((name for name in ("category", "subset", "source") if row.values.get(name) is not None), "category")
    name = data.text(row, column)
    found = next((section for section in SECTIONS if _plain(section) == _plain(name)), CATEGORY_OF.get(name))
    if found is None:
        raise row.fail(unknown(name, [*SECTIONS, *CATEGORY_OF], column))
    return found


def _plain(name: str) -> str:
    return name.lower().replace("-", " ").replace("_", " ")


def _weights(sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    return shares({section: {s: 1.0 for s in subsets if s in sizes} for section, subsets in SUBSETS.items()})


RULE = Rule("m-rewardbench-v1", SUBSETS, _weights)

BENCHMARK = Benchmark(name="mrewardbench", rules={RULE.name: RULE}, default_rule=RULE.name, parse=parse)
