"""What a disk may refuse, in one line that says where and what to do."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ADVICE = dict.fromkeys(NO_ROOM, "make room") | {
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "allow access",
    errno.EPERM: "allow access",
    errno.EIO: "see to the disk",
    errno.ESTALE: "see to the file server",
}


def refusal(error: OSError, where: Path | None = None) -> str | None:
    """One line for what a disk refused, None for any other error; `where` stands in for an unnamed file."""
    if error.errno not in ADVICE:
        return None
    return _line(str(error.filename or where or "a file"), error.errno)


def _line(place: str, number: int) -> str:
    advice = f"{ADVICE[number]}, then the same command goes on; what is finished is kept"
    return f"{place}: {os.strerror(number).lower()}: {advice}"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors in this block name the file: opening one tells its name, writing to it doesn't."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def cause(log: Sequence[str], folder: Path) -> str | None:
    """The `refusal` that a command ended with, from its last lines or, where even they found no room, a try.

    Libraries raise errors of their own, which say what the system said: in the log.
    """
    for line in reversed(log):
        for number in ADVICE:
            if os.strerror(number).lower() in line.lower():
                said = line.removeprefix("error: ")
                return said if said != line else _line(str(folder), number)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return refusal(error, folder)
    return None
