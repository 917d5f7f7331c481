"""What a disk may refuse, in one line that says where and what to do."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ADVICE = dict.fromkeys(NO_ROOM, "make room") | {
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EACCES: "allow access",
    errno.EPERM: "allow access",
    errno.EROFS: "make it writable",
    errno.EIO: "see to the disk",
    errno.ESTALE: "see to the file server",
}


def refusal(error: OSError, where: Path | str = "a file") -> str | None:
    """One line for what a disk refused, None for any other error; `where` stands in for an unnamed file."""
    if error.errno not in ADVICE:
        return None
    refused = f"{error.filename or where}: {os.strerror(error.errno).lower()}"
    return f"{refused}: {ADVICE[error.errno]}, then the same command goes on; what is finished is kept"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors in this block name the file: opening one tells its name, writing to it doesn't."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def refusal_of_writing(folder: Path) -> str | None:
    """The `refusal` that writing 64 KiB into a folder meets with now; None where there is none.

    A program that failed for want of room has often found none for its last words either.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return refusal(error, folder)
    return None
