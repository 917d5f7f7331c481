"""The rows of a data set: from JSON, JSON Lines, Parquet and CSV files, a folder of them, or the Hub.

Which rows a set has is LLaMA-Factory's business: `split`, `num_samples`, and for the Hub `subset` and
`folder` mean what they mean there. Every row comes with where it stands, for messages.
"""

import csv
import hashlib
import io
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dice.data.dataset_info import FILE_TYPES, Source
from dice.errors import BadInput, first_line, spelled

SPACE = re.compile(r"[ \t\r\n]*")
HELD = 1 << 27  # bytes of a Parquet file's rows that are read at once, at most, and at least a row
MOST_ROWS = 64  # of them: more are not faster
Rows = Iterator[tuple[str, dict[str, Any]]]


def read(source: Source) -> Rows:
    """(where, row) of every row of a data set; of a file, where is file:line.

    With `num_samples`, so many rows at random, the same ones every time, and never one twice.
    Raises BadInput where the set can't be read, is not what `file_sha1` says, or has a row that is no object.
    """
    rows = _hub(source) if source.hub else _local(source)
    count = source.entry.get("num_samples")
    if count is None:
        return rows
    listed = list(rows)
    drawn = random.Random(0).sample(range(len(listed)), min(count, len(listed)))
    return iter([listed[index] for index in sorted(drawn)])


def _local(source: Source) -> Rows:
    for path in source.files():
        if wanted := source.entry.get("file_sha1"):
            _check_sha1(path, wanted)
    rows = (row for path in source.files() for row in READERS[FILE_TYPES[path.suffix]](path))
    split = source.entry.get("split", "train")
    return rows if split == "train" else _slice(source, list(rows), split)


def _slice(source: Source, rows: list[tuple[str, dict[str, Any]]], split: str) -> Rows:
    """The part of a local set, whose only split is train, that "train[:100]" or "train[10%:]" names."""
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(split).to_absolute({"train": len(rows)})
    except (ValueError, AssertionError) as error:
        reason = first_line(error)
        raise BadInput(
            f"{source.place}: split is {split!r}; a local set has the split train ({reason})"
        ) from None
    return (row for part in parts for row in rows[part.from_ : part.to])


def _hub(source: Source) -> Rows:
    loaded = source.load("load_dataset", split=source.entry.get("split", "train"))
    return ((f"{source.hub}: row {number}", row) for number, row in enumerate(loaded, 1))


def _check_sha1(path: Path, wanted: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha1").hexdigest()
    if found != wanted.lower():
        raise BadInput(f"{path}: its sha1 is {found}, not the file_sha1 of dataset_info.json, {wanted}")


def _parquet(path: Path) -> Rows:
    """Rows of a Parquet file, few at a time: one that repeats a text stores it once, whatever its length."""
    import pyarrow.parquet

    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(path)
        for group in range(file.num_row_groups):
            longest = max(1, file.metadata.row_group(group).total_byte_size)  # of a row, in bytes
            size = min(max(1, HELD // longest), MOST_ROWS)
            for batch in file.iter_batches(size, row_groups=[group]):
                texts: dict[str, str] = {}
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", _sharing(texts, row)
    except Exception as error:  # whatever the file and the values in it, dates say, come up with
        reason = first_line(error)
        raise BadInput(f"{path}: not a Parquet file that can be read ({reason})") from None


def _sharing(texts: dict[str, str], value: Any) -> Any:
    """A value in which texts that are among `texts` already are not held once more."""
    if isinstance(value, str):
        return texts.setdefault(value, value)
    if isinstance(value, dict):
        return {name: _sharing(texts, part) for name, part in value.items()}
    return [_sharing(texts, part) for part in value] if isinstance(value, list) else value


def _csv(path: Path) -> Rows:
    csv.field_size_limit(sys.maxsize)  # a text may be of any length
    reader = csv.DictReader(io.StringIO(_text(path, newline=""), newline=""), strict=True)
    line = 2
    try:
        for row in reader:
            if None in row:
                raise BadInput(
                    f"{path}:{line}: more cells than the {len(reader.fieldnames)} columns of line 1"
                )
            yield f"{path}:{line}", row
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(f"{path}:{line}: not CSV ({error})") from None


def _json(path: Path) -> Rows:
    """Rows of a JSON array or of JSON Lines."""
    text = _text(path)
    read = _array if text.lstrip()[:1] == "[" else _lines
    try:
        for number, row in read(path, text):
            if not isinstance(row, dict):
                raise BadInput(
                    f"{path}:{number}: a row must be a JSON object, this one is {spelled(row):.40}"
                )
            yield f"{path}:{number}", row
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all measure
        raise BadInput(f"{path}: {error}") from None


def _text(path: Path, newline: str | None = None) -> str:
    """A file's text; with an empty `newline`, the ends of its lines stay as they are."""
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            return file.read()
    except OSError as error:
        raise BadInput(f"{path}: can't be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}:{line}: not UTF-8 ({error.reason} at byte {error.start})") from None


def _lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}:{number}: not JSON ({error.msg}, column {error.colno})") from None


def _array(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Rows of a JSON array one by one, so that each one's line is known."""
    decoder = json.JSONDecoder()
    line = counted = 0
    position = _skip_space(text, text.index("[") + 1)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        row, position = decoder.raw_decode(text, position)
        yield line + 1, row
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
            if text[position : position + 1] == "]":
                raise json.JSONDecodeError("Illegal trailing comma", text, position)
        elif text[position : position + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
    after = _skip_space(text, position + 1)
    if after < len(text):
        raise json.JSONDecodeError("Extra data", text, after)


def _skip_space(text: str, position: int) -> int:
    return SPACE.match(text, position).end()


READERS = {"json": _json, "parquet": _parquet, "csv": _csv}
