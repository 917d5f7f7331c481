"""What became of the fuzzer's inputs: refused, accepted, or one of the things that must not happen."""

import re
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dice.errors import BadInput

KINDS = ("traceback", "hang", "unclear", "changed")  # what must not happen
SECONDS = 20.0  # a reader that takes longer hangs
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # in a message they would move the terminal's cursor


class Hang(BaseException):
    """Raised by the clock; not an Exception, so that nothing takes it for one of its own."""


@dataclass
class Tally:
    """What became of the inputs of one reader."""

    name: str
    refused: int = 0  # a clear line
    accepted: int = 0
    drops: int = 0  # of the accepted: some rows were dropped and counted
    faults: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    @property
    def tried(self) -> int:
        return self.refused + self.accepted + sum(map(len, self.faults.values()))

    def attempt(self, what: str, read: Callable[[], int]) -> None:
        """Let a reader read; `read` returns how many rows it dropped and counted."""
        try:
            with limited():
                dropped = read()
        except BadInput as error:
            problem = unclear(str(error))
            if problem:
                self.faults["unclear"].append(f"{what}: {problem}: {str(error)!r:.300}")
            else:
                self.refused += 1
        except Changed as change:
            self.faults["changed"].append(f"{what}: {change}")
        except Hang:
            self.faults["hang"].append(f"{what}: over {SECONDS:.0f} s\n{traceback.format_exc(limit=-4)}")
        except Exception:
            self.faults["traceback"].append(f"{what}\n{traceback.format_exc(limit=-6)}")
        else:
            self.accepted += 1
            self.drops += dropped > 0


class Changed(Exception):
    """A result that is not what it was, and nobody said so."""


def unclear(message: str) -> str | None:
    """What is wrong with a message, if anything."""
    if not message.strip():
        return "it is empty"
    if CONTROL.search(message):
        return "it is not one line of plain text"
    return "it is longer than 2,000 characters" if len(message) > 2000 else None


@contextmanager
def limited() -> Iterator[None]:
    """Raises Hang in the middle of what takes too long, a system call that waits included."""

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1.0)  # again: a callback of C code may swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
