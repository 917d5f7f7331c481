"""Why a worker can't go on, in a file that its parent reads: one line on the terminal, not a traceback."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dice.errors import BadInput, StageFailed, printable
from dice.launch import disk_errors

VARIABLE = "DICE_COMPLAINT"  # the file's path, in the environment of what DICE starts


@contextlib.contextmanager
def complaining() -> Iterator[None]:
    """Input that can't be used, and what a disk refuses, end this process with a line for its parent."""
    try:
        yield
    except BadInput as error:
        _end(error.status, str(error))
    except OSError as error:
        if not (line := disk_errors.refusal(error)):
            raise
        _end(StageFailed.status, printable(line))


def _end(status: int, line: str) -> None:
    with contextlib.suppress(OSError, KeyError):  # a full disk; a process that was started by hand
        Path(os.environ[VARIABLE]).write_text(f"{status}\n{line}", encoding="utf-8")
    sys.exit(f"error: {line}")


def read(path: Path, label: str) -> BadInput | StageFailed | None:
    """What a command has complained of; None where it has not."""
    try:
        status, _, line = path.read_text(encoding="utf-8").partition("\n")
    except OSError:
        return None
    if not line:  # there was no room for it
        return None
    return BadInput(line) if status == str(BadInput.status) else StageFailed(f"{label}: {line}")
