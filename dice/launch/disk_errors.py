"""What a disk may refuse, in one line that says where and what to do."""

import contextlib
import errno
import os
import re
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
# How a line begins that tells an error, in Python and in C programs; torchrun puts a process before it.
ERROR = r"^(\[\w+\]: )?[\w./-]+: "


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


def told(log: Sequence[str]) -> str | None:
    """The `refusal` of DICE's own that a command ended with: from the last lines of its log."""
    ends = tuple(_line("", number) for number in ADVICE)
    ours = (line for line in reversed(log) if line.startswith("error: ") and line.endswith(ends))
    return next((line.removeprefix("error: ") for line in ours), None)


def tried(folder: Path) -> str | None:
    """The `refusal` that writing into a folder meets with now, when there may be no room for a log either."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return refusal(error, folder)
    return None


def cause(log: Sequence[str]) -> str | None:
    """What a disk seems to have refused the program that wrote these lines.

    Libraries raise errors of their own, with what the system said in them. A text that a program shows
    may say the same, so only lines of an error's form count, and the rest of the log should be shown too.
    """
    for line in reversed(log):
        for number in ADVICE.keys() - DENIED:
            said, code = re.escape(os.strerror(number)), rf"\[Errno {number}\] "
            if re.search(rf"{ERROR}(.*{code}{said}|(.*: )?{said}( \(os error {number}\))?$)", line.strip()):
                return f"{line.strip()[:300]}: {_advice(number)}"
    return None
