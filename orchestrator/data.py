"""Preference files of any common format to rows, and rows to checked fields.

Reads jsonl, jsonl.gz, json, csv, parquet, folders of such files and folders saved by `datasets`. Every complaint is an
`InputError` that names the file, the row and what to do.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from workers.errors import InputError, first_line
from workers.protocol import Message

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Row:
    """One record of a file; `where` names it for an error message.

    `split` is the one that a data set's folder or its file's name tells (`shp-00000-of-00001.parquet`), else the name.
    """

    where: str
    number: int
    values: Mapping[str, Any]
    file: Path
    split: str

    def fail(self, problem: str) -> InputError:
        """The error for a problem with this row."""
        return InputError(f"{self.where}: {problem}")

    def missing(self, name: str, remedy: str) -> InputError:
        """The error for a field that is not there, with those that are."""
        found = ", ".join(str(field) for field, value in self.values.items() if value is not None)
        return self.fail(f"{name!r} is missing; {remedy} (found: {found or 'nothing'})")


def read(path: str) -> Iterator[Row]:
    """The rows of a file or folder; `InputError` where it is missing, damaged or empty."""
    file = Path(path)
    if not file.exists():
        raise InputError(f"{path}: no such file; check the path (relative paths start where the command runs)")
    if file.is_dir() and not any((file / name).exists() for name in SAVED):
        yield from _folder(file)
        return
    reader = _saved_dataset if file.is_dir() else _reader(file)
    empty = True
    try:
        for row in reader(file):
            empty = False
            yield row
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: {_gzip_problem(file)}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text (found byte 0x{error.object[error.start]:02x}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if empty:
        raise InputError(f"{path}: holds no rows; a preference file needs prompt, chosen and rejected")


def _folder(folder: Path) -> Iterator[Row]:
    """The rows of all preference files below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name.lower().endswith(tuple(READERS)))
    if not files:
        raise InputError(
            f"{folder}: not a folder saved by datasets.save_to_disk, nor one of files that end in {', '.join(READERS)}"
        )
    for file in files:
        yield from read(str(file))


def from_hub(benchmark: str, repository: str, revision: str, file: str, sha256: str) -> str:
    """The local path of a hub data set's file at a pinned commit, its bytes checked."""
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(repository, file, repo_type="dataset", revision=revision)
    except Exception as error:
        raise InputError(
            f"benchmark {benchmark}: cannot fetch {repository} at {revision[:12]} from the hub ({first_line(error)}); "
            f"give a local copy: data.{benchmark}=FILE"
        ) from error
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != sha256:
        raise InputError(f"{path}: SHA-256 is {found[:12]}..., expected {sha256[:12]}...; delete it and try again")
    return path


def hub_revision(benchmark: str, repository: str) -> str:
    """The commit that a hub data set is at now; `InputError` where the hub does not say."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(repository, timeout=20).sha)
    except Exception as error:
        raise InputError(
            f"benchmark {benchmark}: the hub gives no current revision of {repository} ({first_line(error)})"
        ) from error


def _reader(file: Path) -> Callable[[Path], Iterator[Row]]:
    for suffix, reader in READERS.items():
        if file.name.lower().endswith(suffix):
            return reader
    raise InputError(f"{file}: unknown kind of file; known: {', '.join(READERS)}, or a folder saved by datasets")


def _open(file: Path) -> IO[str]:
    """The file as text; a byte order mark in front, as spreadsheets write it, is dropped."""
    if file.name.lower().endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig", newline="" if file.name.lower().endswith(".csv") else None)


def _gzip_problem(file: Path) -> str:
    with file.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            return "not a gzip file, though its name ends in .gz; rename it, or compress it"
    return "the compressed file ends early or is damaged; copy it again"


def _json_lines(file: Path) -> Iterator[Row]:
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _record(file, number, _loads(line, f"{file}, line {number}"), "line")


def _json(file: Path) -> Iterator[Row]:
    with _open(file) as stream:
        rows = _loads(stream.read(), str(file))
    if isinstance(rows, Mapping) and rows and all(group and isinstance(group, list) for group in rows.values()):
        rows = [row for group in rows.values() for row in group]
    if not isinstance(rows, list):
        raise InputError(
            f"{file}: a JSON file must hold one list of rows, found {type(rows).__name__}; "
            "name it .jsonl if every line is a row"
        )
    for number, values in enumerate(rows, 1):
        yield _record(file, number, values, "row")


def _loads(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at character {error.pos}"
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise InputError(f"{where}: not valid JSON ({problem}); correct it, or write the file again")


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with _open(file) as stream:
        try:
            for number, values in enumerate(csv.DictReader(stream, strict=True), 2):
                row = _record(file, number, values, "row")
                if None in values:
                    raise row.fail("more values than columns; quote values that hold a comma")
                yield row
        except csv.Error as error:
            raise InputError(f"{file}: not a valid CSV file ({error}); write it again") from error


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.ParquetFile(file).read().to_pylist()
    except pa.ArrowException as error:
        raise InputError(f"{file}: not a readable Parquet file ({first_line(error)}); copy it again") from error
    for number, values in enumerate(rows, 1):
        yield _record(file, number, values, "row")


def _saved_dataset(folder: Path) -> Iterator[Row]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise InputError(
            f"{folder}: not a folder saved by datasets.save_to_disk ({first_line(error)}); give such a folder or a file"
        ) from error
    splits = saved if isinstance(saved, datasets.DatasetDict) else {folder.name: saved}
    rows = ((split, values) for split in splits for values in splits[split])
    for number, (split, values) in enumerate(rows, 1):
        yield replace(_record(folder, number, values, "row"), split=split)


def _record(file: Path, number: int, values: Any, unit: str) -> Row:
    where = f"{file}, {unit} {number}"
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: a row must be an object with prompt, chosen and rejected")
    return Row(where, number, values, file, re.split(r"-\d{5}-of-\d{5}|\.", file.name)[0])


READERS = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".json": _json,
    ".json.gz": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
"""What `datasets.save_to_disk` leaves in a folder."""


def text(row: Row, name: str) -> str:
    """A field that must be text."""
    value = row.values.get(name)
    if value is None:
        raise row.missing(name, "every row needs it")
    if not isinstance(value, str):
        raise row.fail(f"{name!r} must be text, found {type(value).__name__}")
    return _characters(row, name, value)


def texts(row: Row, name: str) -> tuple[str, ...]:
    """A field that must be a list of at least one text."""
    value = row.values.get(name)
    if value is None:
        raise row.missing(name, "every row needs it")
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise row.fail(f"{name!r} must be a list of texts, found {type(value).__name__}")
    found = tuple(value)
    if not found or not all(isinstance(one, str) for one in found):
        raise row.fail(f"{name!r} must hold at least one text, and nothing else")
    return tuple(_characters(row, name, one) for one in found)


def identifier(row: Row) -> str | None:
    """The row's id as text, None where the file has none."""
    if "id" not in row.values:
        return None
    value = row.values["id"]
    if value in (None, "") or (isinstance(value, float) and not math.isfinite(value)):
        raise row.fail("'id' is missing or NaN; give every row an id, or none of them")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise row.fail(f"'id' must be a number or text, found {type(value).__name__}")
    return _characters(row, "id", str(value))


def messages(row: Row, name: str) -> tuple[Message, ...] | None:
    """A field as a conversation; None when it is plain text."""
    value = row.values.get(name)
    if value is None or isinstance(value, str):
        return None
    if not isinstance(value, Iterable) or isinstance(value, Mapping | bytes):
        raise row.fail(f"{name!r} must be text or a list of messages, found {type(value).__name__}")
    return tuple(_message(row, name, turn) for turn in value)


def _message(row: Row, name: str, turn: Any) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
    if not isinstance(content, str) or role not in ROLES:
        raise row.fail(f"{name!r} must hold messages with a 'role' ({', '.join(ROLES)}) and a text 'content'")
    return Message(role, _characters(row, name, content))


def _characters(row: Row, name: str, value: str) -> str:
    """The text, unless it cannot be written anywhere: JSON may escape half a character."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        raise row.fail(f"{name!r} holds {half}, half of a surrogate pair; write the whole character") from error
    return value
