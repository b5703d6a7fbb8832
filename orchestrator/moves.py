"""A night's models beside their last whole results: reads earlier scores from the store, and has them compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from orchestrator import records
from orchestrator.benchmarks import Example, Judged, Rule
from orchestrator.changes import Changes, Data, Moved, compare_boards, compared
from orchestrator.drift import Drift, Pairs, causes, drift
from orchestrator.plan import needs_of
from orchestrator.reducer import Entry, Leaderboard, Lookup, judge, score_rows
from orchestrator.snapshots import Snapshot, Standing
from orchestrator.stores import Store
from workers.errors import StoreError
from workers.protocol import Model


@dataclass(frozen=True)
class Tonight:
    """One benchmark as this night found it."""

    night: str
    board: Leaderboard
    rule: Rule
    examples: Sequence[Example]
    models: Mapping[str, Model]
    read: Lookup

    def standing(self, entry: Entry, rank: int) -> Standing | None:
        """What a later night compares a model with; None while it is incomplete."""
        if not entry.complete or entry.overall is None:
            return None
        model = self.models[entry.name]
        streams = tuple(spec.fingerprint for spec in model.streams)
        data, rule = self.board.data_hash, self.board.rule
        return Standing(self.night, model.family, streams, dict(model.scoring), data, rule, entry.overall, rank)


def standings(tonight: Tonight, last: Snapshot | None) -> dict[str, Standing]:
    """By model, tonight's whole result, else the one that the last night knew."""
    known = last.standings.get(tonight.board.benchmark, {}) if last else {}
    found: dict[str, Standing] = {}
    for rank, entry in enumerate(tonight.board.entries, 1):
        standing = tonight.standing(entry, rank) or known.get(entry.name)
        if standing is not None:
            found[entry.name] = standing
    return found


def changes_since(tonight: Tonight, last: Snapshot | None, store: Store) -> Changes:
    """What is different on a benchmark since the last night."""
    board = tonight.board
    before = last.boards.get(board.benchmark) if last else None
    if last is None or before is None:
        return compare_boards(board, None, {})
    known = last.standings.get(board.benchmark, {})
    earlier = _Earlier(store, tonight)
    found = []
    for rank, entry in enumerate(board.entries, 1):
        now, then = tonight.standing(entry, rank), known.get(entry.name)
        if now is not None and then is not None and now.identity != then.identity:
            found.append(_beside(tonight, now, then, entry.name, earlier))
    drifts = [drifted for _, drifted in found if drifted is not None]
    data = _data(tonight, before["data_hash"], earlier)
    return compare_boards(board, before, known, data, [moved for moved, _ in found], drifts)


class _Earlier:
    """What earlier nights scored, each read once; `StoreError` where the store no longer has it."""

    def __init__(self, store: Store, tonight: Tonight) -> None:
        self._tonight = tonight
        self._store = store
        self.rows = cache(lambda fingerprint: store.read(fingerprint).rows)
        self._load = cache(lambda name: records.load_examples(store, tonight.board.benchmark, name))

    def examples(self, data_hash: str) -> Sequence[Example]:
        """The rows of a benchmark as they were."""
        return self._tonight.examples if data_hash == self._tonight.board.data_hash else self._load(data_hash)

    def model(self, name: str, then: Standing) -> Model:
        """A model as it was pinned."""
        specs = tuple(records.load_spec(self._store, fingerprint) for fingerprint in then.streams)
        return Model(name, then.family, specs, then.scoring)

    def judged(self, model: Model, then: Standing) -> list[Judged]:
        """The rows of a model as they were judged; a spec may be called by another fingerprint today."""
        named = {spec.fingerprint: name for spec, name in zip(model.streams, then.streams, strict=True)}
        needs = needs_of([model], self.examples(then.data_hash))[model.asks]
        return judge(model, score_rows(model, needs, lambda fingerprint: self.rows(named[fingerprint])))


def _beside(
    tonight: Tonight, now: Standing, then: Standing, name: str, earlier: _Earlier
) -> tuple[Moved, Drift | None]:
    """A model whose score is made otherwise than it was: tested, and its drift where only versions changed."""
    around = ["data"] if now.data_hash != then.data_hash else []
    around += [f"rule {then.rule} -> {now.rule}"] if now.rule != then.rule else []
    moved = Moved(name, then.night, tuple(around), then.overall, now.overall, 0)
    if (now.family, now.streams, now.scoring) == (then.family, then.streams, then.scoring):
        return replace(moved, note="its scores are the same"), None
    model = tonight.models[name]
    try:
        before = earlier.model(name, then)
        words, versions = causes(before, model, then.streams)
        moved = replace(moved, causes=(*words, *around))
        pairs = _pairs(earlier.judged(before, then), _judged(tonight, model))
    except StoreError as error:
        return replace(moved, note=f"its earlier scores cannot be read: {error}"), None
    moved = compared(moved, pairs, tonight.rule)
    if not versions:
        return moved, None
    streams = [
        (earlier.rows(fingerprint), tonight.read(spec.fingerprint))
        for fingerprint, spec in zip(then.streams, model.streams, strict=True)
    ]
    return moved, drift(model, words, streams, pairs, then.night)


def _judged(tonight: Tonight, model: Model) -> list[Judged]:
    return judge(model, score_rows(model, needs_of([model], tonight.examples)[model.asks], tonight.read))


def _pairs(before: Sequence[Judged], now: Sequence[Judged]) -> Pairs:
    """The rows that both judged, by their content, in the order of now."""
    known = {row.example.digest: row for row in before}
    return [(known[row.example.digest], row) for row in now if row.example.digest in known]


def _data(tonight: Tonight, before: str, earlier: _Earlier) -> Data | None:
    """How many rows came and went; None where the data is the same."""
    if before == tonight.board.data_hash:
        return None
    now = {row.digest for row in tonight.examples}
    try:
        then = {row.digest for row in earlier.examples(before)}
    except StoreError:
        return Data(before, tonight.board.data_hash, None, None)
    return Data(before, tonight.board.data_hash, len(now - then), len(then - now))
