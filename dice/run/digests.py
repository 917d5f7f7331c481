"""sha256 of files, of folders of shards, and of models: what inputs and outputs are recognized by.

Files are always read whole. Large ones (weights) are read once: their digests are remembered in
`~/.cache/dice/digests.json`, for as long as size, times and inode of the file stay as they were.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import time
from pathlib import Path
from typing import BinaryIO

from dice.errors import Unreadable
from dice.run import files
from dice.run.run import model_path

LARGE = 1 << 20  # bytes: smaller files are read again, which costs less than remembering them
# A file that was changed this recently (in seconds) may be changed once more within the same tick of its
# file system's clock, unnoticed.
SETTLED = 3.0
REMEMBERED = 100_000  # files


def _memory_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dice" / "digests.json"


@functools.cache
def _memory() -> dict[str, list]:
    """Path -> [size, mtime, ctime, inode, digest], kept between processes."""
    with contextlib.suppress(OSError, Unreadable):
        return files.read_json(_memory_file()) or {}
    return {}


def _save() -> None:
    """Add what was learned to the file. It is only a convenience, so nothing is said where that fails."""
    with contextlib.suppress(OSError, Unreadable):
        entries = list(({**(files.read_json(_memory_file()) or {}), **_memory()}).items())
        files.write_json(_memory_file(), dict(entries[-REMEMBERED:]))


@functools.cache
def _save_at_exit() -> None:
    atexit.register(_save)


def file_digest(path: Path) -> str:
    """sha256 of a file's content, as 64 hex digits. Raises BadInput for what is no file."""
    with files.open_file(path) as file:
        facts = os.fstat(file.fileno())
        return _read(file) if facts.st_size < LARGE else _remembered(path, file, facts)


def _remembered(path: Path, file: BinaryIO, facts: os.stat_result) -> str:
    key = str(path.resolve())
    identity = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
    known = _memory().get(key)
    if isinstance(known, list) and known[:-1] == identity:
        return known[-1]
    digest = _read(file)
    if 0 < facts.st_ctime < time.time() - SETTLED:
        _memory()[key] = [*identity, digest]
        _save_at_exit()
    return digest


def _read(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """sha256 of the names and contents of a folder's shards."""
    digest = hashlib.sha256()
    for path in files.shards(folder):
        digest.update(_entry(path))
    return digest.hexdigest()


def _entry(path: Path) -> bytes:
    return os.fsencode(path.name) + f"\0{file_digest(path)}\n".encode()


def model_digest(model: str) -> str:
    """What identifies a model: the digests of its folder's files, or the Hub id itself.

    An adapter's base counts as well.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        digest.update(_entry(path))
    base = (files.read_json(folder / "adapter_config.json") or {}).get("base_model_name_or_path")
    if base and isinstance(base, str):
        digest.update(model_digest(model_path(base)).encode())
    return digest.hexdigest()
