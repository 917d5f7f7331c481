"""What lies under results/: how stages and tools write and read it. Logs and trainers write there too.

A file appears whole or not at all: it is written under a temporary name, flushed to disk, then
renamed. Beside each shard of a stage that is not done lies its digest, the seal, so that a killed stage goes
on with shards as they were written and with no other content.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from dice.errors import BadInput, Unreadable
from dice.launch import disk_errors
from dice.run.rows import Row, decoder, from_line, to_line

TEMPORARY = ".tmp"  # suffix of files that are being written
SEAL = ".sha256"  # suffix of a shard's digest, for as long as its stage has no manifest
BUFFER = 1 << 20  # bytes that are read or written at once: rows are small, system calls are not free


def write_text(path: Path, text: str | Iterable[str | bytes]) -> None:
    """Write a file as UTF-8, atomically: under a temporary name, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with disk_errors.naming(path), temporary.open("wb", BUFFER) as file:
            parts = [text] if isinstance(text, str) else text
            file.writelines(part.encode() if isinstance(part, str) else part for part in parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def flush(path: Path) -> None:
    """See to it that a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(source: Path, target: Path) -> None:
    """Make `target` the same file, or a copy of it where the file system can't."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def open_to_readers(path: Path) -> None:
    """Give a file the mode of new ones in its folder; safetensors' own writer lets nobody else read."""
    path.chmod(path.parent.stat().st_mode & 0o666)


def write_array(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON array atomically, a row per line, so that it reads well in a pager and in a diff."""

    def lines() -> Iterator[bytes]:
        before = b"[\n"
        for row in rows:
            yield before + msgspec.json.encode(row)
            before = b",\n"
        yield b"\n]\n" if before != b"[\n" else b"[]\n"

    write_text(path, lines())


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left in a folder and below."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSON Lines, atomically."""
    write_text(path, map(to_line, rows))


def write_shard(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSON Lines, atomically, and before that the seal that `is_shard` looks for."""
    content = b"".join(map(to_line, rows))
    seal(path, hashlib.sha256(content).hexdigest())  # first: a shard that is there is never without it
    write_text(path, [content])


def seal(path: Path, digest: str) -> None:
    """Note the sha256 of a finished shard beside it."""
    write_text(_seal_of(path), digest)


def is_shard(path: Path) -> bool:
    """Whether a shard is there, as it was written."""
    if not path.is_file() or not _seal_of(path).is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == _seal_of(path).read_text(errors="replace")


def remove_shard(path: Path) -> None:
    """Remove a shard that is of no further use, and its seal."""
    remove(path)
    remove(_seal_of(path))


def remove_seals(folder: Path) -> None:
    """Remove the seals in a folder and below: from here on a manifest says what its files are."""
    for path in folder.rglob(f".*{SEAL}"):
        path.unlink(missing_ok=True)


def _seal_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{SEAL}")


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading. Raises BadInput for what is none: a pipe, say, would never end."""
    if not path.is_file():
        raise BadInput(f"{path}: {'not a file' if os.path.lexists(path) else 'no such file'}")
    return path.open("rb", BUFFER)


def read_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """Rows of a JSON Lines file. Raises BadInput, naming file and line, for what is not a row."""
    decode = decoder(kind).decode
    with open_file(path) as file:
        for number, line in enumerate(file, 1):
            try:
                row = decode(line)
            except (msgspec.MsgspecError, UnicodeError):
                row = from_line(kind, line, f"{path}:{number}")
            yield row


def count_rows(path: Path) -> int:
    """Number of rows of a JSON Lines file."""
    with open_file(path) as file:
        return sum(1 for _ in file)


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard lies."""
    return folder / f"part-{shard:05d}.jsonl"


def shards(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("part-*.jsonl"))


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none. Raises Unreadable for a file that can't be read."""
    if not path.is_file():  # nothing there, or a pipe, which would never end
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # the first: it was removed at this moment
        return None
    except OSError as error:
        raise Unreadable.because(path, error) from None
    return value if isinstance(value, dict) else None


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
