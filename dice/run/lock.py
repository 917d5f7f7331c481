"""One process at a time works on a run: the lock, and who has it.

iter.sh takes the lock for its whole loop, on a file descriptor that its stages inherit; a stage that is
run by hand takes it for itself. The kernel frees it when its last holder ends, however that happens.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from dice.errors import BadInput, printable

INHERITED = "DICE_LOCK_FD"  # the loop's file descriptor, in the environment of its stages
GRACE = 3.0  # seconds in which the processes of a run that was just killed are gone


class Held(BadInput):
    """Another process works on the run."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder for this process, unless the loop around it does.

    Raises Held, naming the other one, where it is locked already. Where the file system knows no locks,
    there is none.
    """
    if _is_inherited(folder):
        yield
        return
    path = folder / ".lock"
    if path.is_dir():
        raise BadInput(f"{path} is a folder, so that nothing can take this run; remove it")
    with path.open("a+", encoding="utf-8") as file:
        _take(file.fileno(), folder)
        _sign(file.fileno(), f"process {os.getpid()}")
        try:
            yield
        finally:
            file.truncate(0)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block about this folder, and keep others waiting.

    For what several runs share: a registry of data sets, the files that a recipe prepares. Where the file
    system knows no locks, nobody waits.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_taken(folder: Path) -> bool:
    """Whether another process is in such a block; not known, so False, where the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return False


def take_for_loop(folder: Path) -> None:
    """Take the lock on the inherited file descriptor, for the loop: this process's parent.

    Raises Held, naming the other one, where a run is locked already.
    """
    descriptor = int(os.environ[INHERITED])
    _take(descriptor, folder)
    _sign(descriptor, f"iter.sh, process {os.getppid()}")


def require_free(folder: Path) -> None:
    """Raises Held, naming the other one, where a run is locked already."""
    if (folder / ".lock").exists():
        with locked(folder):
            pass


def holder(folder: Path) -> str | None:
    """Who works on a run at this moment; None where nobody does. Whoever may read the run may ask."""
    try:
        with (folder / ".lock").open(encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return printable(file.read()) or "another process"
    except OSError:  # never begun, or a file system without locks
        pass
    return None


def _is_inherited(folder: Path) -> bool:
    """Whether the loop that this process belongs to holds this run."""
    try:
        ours = os.fstat(int(os.environ[INHERITED]))
        return os.path.samestat(ours, (folder / ".lock").stat())
    except (KeyError, ValueError, OSError):
        return False


def _take(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + GRACE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            other = os.pread(descriptor, 1000, 0).decode(errors="replace") or "another process"
            raise Held(f"{folder}: {other} is at work on this run") from None
        except OSError:
            return


def _sign(descriptor: int, name: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{name} on {socket.gethostname()}".encode(), 0)
