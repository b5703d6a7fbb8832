"""What a benchmark is: examples, and dated rules that turn scores into numbers.

A file in this folder is its own registration: it offers `BENCHMARK`. A rule is never edited once it has a
date; a new policy is a new rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from orchestrator import data
from orchestrator.data import Row
from workers import plugins
from workers.errors import InputError
from workers.protocol import Message, digest


@dataclass(frozen=True)
class Example:
    """One prompt with responses of known quality, the `num_chosen` correct ones first.

    `id` is not unique within a subset: `position` tells rows of one (subset, id) apart, in the order of their
    content, so that the order of a file means nothing.
    """

    subset: str
    id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    num_chosen: int = 1
    position: int = 0

    @cached_property
    def digest(self) -> str:
        """Hash of subset, id and all texts."""
        turns = [[turn.role, turn.content] for turn in self.prompt]
        return digest([self.subset, self.id, turns, list(self.responses), self.num_chosen])

    @property
    def key(self) -> tuple[str, str, int]:
        """What names this row within its benchmark."""
        return (self.subset, self.id, self.position)


@dataclass(frozen=True)
class Judged:
    """An example with one score a response; `shared` where the model's family gives a tie its share, not 0."""

    example: Example
    scores: tuple[float, ...]
    shared: bool = False


@dataclass(frozen=True)
class Scores:
    """What a rule says of one model: fractions in [0, 1], None where nothing can be said."""

    overall: float | None
    sections: Mapping[str, float | None]
    subsets: Mapping[str, float]


OVERALL = "overall"
"""The name of the overall among the weights of a rule."""


@dataclass(frozen=True)
class Rule:
    """A named way of turning judged rows into scores. `sections` maps each section to its subsets.

    `weights` says of which subsets' accuracies the overall and each section are the means, for subsets of these
    sizes, at least one: by section, or `OVERALL`, the weights by subset, which add up to 1.
    `credits` are what the rows are worth, so that a subset's accuracy is their mean; `metrics.credit` if not given.
    `measures` are sections that read each row in their own way.
    `cluster` names rows that are drawn together in a resample, None for those of one prompt. `composites` are
    subsets whose number is no share of rows.
    """

    name: str
    sections: Mapping[str, tuple[str, ...]]
    weights: Callable[[Mapping[str, int]], dict[str, dict[str, float]]]
    credits: Callable[[Sequence[Judged]], list[float]] | None = None
    measures: Mapping[str, Callable[[Judged], float]] = field(default_factory=dict)
    cluster: Callable[[Example], str | None] | None = None
    composites: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Source:
    """A file of a hub data set at a pinned commit, with the SHA-256 of its bytes."""

    repository: str
    revision: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Benchmark:
    """Examples and rules; `parse` turns the rows of a file into examples, or says which row is wrong."""

    name: str
    rules: Mapping[str, Rule]
    default_rule: str
    parse: Callable[[Iterable[Row]], list[Example]]
    source: Source | Path | None = None

    def load(self, path: str | None) -> list[Example]:
        """The examples of a local copy, or of the pinned source; `InputError` names file, row and remedy."""
        return _ordered(self.parse(data.read(self._file(path))))

    def rule(self, name: str | None) -> Rule:
        """The rule of that name, or the default one."""
        chosen = name or self.default_rule
        if chosen not in self.rules:
            raise InputError(f"benchmark {self.name}: {plugins.unknown(chosen, sorted(self.rules), 'rule')}")
        return self.rules[chosen]

    def _file(self, path: str | None) -> str:
        if path is not None:
            return path
        if isinstance(self.source, Path):
            return str(self.source)
        if self.source is None:
            raise InputError(f"benchmark {self.name} has no data of its own; give it a file: data.{self.name}=FILE")
        source = self.source
        return data.from_hub(self.name, source.repository, source.revision, source.file, source.sha256)


def find(name: str) -> Benchmark:
    """The benchmark of that name; `InputError` lists what exists."""
    benchmark = plugins.resolve(__name__, name).BENCHMARK
    assert isinstance(benchmark, Benchmark)
    return benchmark


def data_hash(examples: Iterable[Example]) -> str:
    """Hash of all rows, whatever their order."""
    return digest(sorted(example.digest for example in examples))


def _ordered(examples: Iterable[Example]) -> list[Example]:
    """Examples sorted by subset, id and content, with their positions."""
    ordered: list[Example] = []
    for example in sorted(examples, key=lambda row: (row.subset, row.id, row.digest)):
        last = ordered[-1] if ordered else None
        repeated = last is not None and (last.subset, last.id) == (example.subset, example.id)
        ordered.append(replace(example, position=last.position + 1) if last and repeated else example)
    return ordered
