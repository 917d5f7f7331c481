"""What a disk may refuse, in one line that says where and what to do."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM)  # libraries complain of these without ending
ADVICE = dict.fromkeys(NO_ROOM, "make room") | dict.fromkeys(DENIED, "allow access")
ADVICE |= {
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EIO: "see to the disk",
    errno.ESTALE: "see to the file server",
}


def refusal(error: OSError, where: Path | None = None) -> str | None:
    """One line for what a disk refused, None for any other error; `where` stands in for an unnamed file."""
    if error.errno not in ADVICE:
        return None
    return _line(str(error.filename or where or "a file"), error.errno)


def _line(place: str, number: int) -> str:
    return f"{place}: {os.strerror(number).lower()}: {_advice(number)}"


def _advice(number: int) -> str:
    return f"{ADVICE[number]}, then the same command goes on; what is finished is kept"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors in this block name the file: opening one tells its name, writing to it doesn't."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def cause(log: Sequence[str], folder: Path) -> str | None:
    """The `refusal` that a command ended with: from the last lines of its log, which lies in `folder`.

    Libraries raise errors of their own, with what the system said in them. Where not even the log found
    room, a try tells.
    """
    for line in reversed(log):
        for number in ADVICE:
            if os.strerror(number).lower() in line.lower():
                if line.startswith("error: "):  # ours
                    return line.removeprefix("error: ")
                if number not in DENIED:
                    return f"{line.strip()[:300]}: {_advice(number)} (its log is in {folder})"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return refusal(error, folder)
    return None
