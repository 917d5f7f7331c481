"""What makes a node end, in words that the other nodes can show."""

from typing import Literal

import msgspec

from dice.errors import BadInput, StageFailed, printable
from dice.launch import disk_errors

LONGEST = 1 << 15  # bytes of a value in the store where nodes meet


class Failure(msgspec.Struct):
    """Why a node ends, with the status of `BadInput` or `StageFailed`."""

    node: str
    cause: str
    status: Literal[1, 2] = 1

    def encoded(self) -> str:
        half = LONGEST // 16  # of the middle, in characters, only so much that the whole is short enough
        cause = self.cause if len(self.cause) <= 2 * half else f"{self.cause[:half]} … {self.cause[-half:]}"
        return msgspec.json.encode(Failure(self.node, cause, self.status)).decode()


def node_name(rank: int, name: bytes | str) -> str:
    """A node as it is shown: its rank, and its machine's name out of the value of `node/RANK`."""
    text = name.decode(errors="replace") if isinstance(name, bytes) else name
    return f"node {rank} ({printable(text.partition(' ')[2][:100])})"


def as_error(failures: list[Failure]) -> BadInput | StageFailed:
    """What other nodes failed of, nothing in it that moves a terminal's cursor."""
    texts = [f"{failure.node}: {failure.cause}" for failure in failures]
    if all(failure.status == BadInput.status for failure in failures):
        return BadInput("; ".join(texts))
    return StageFailed("\n".join(texts))


def in_words(error: BaseException) -> str:
    """An error for those who don't see its traceback."""
    if isinstance(error, BadInput | StageFailed):
        return str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "it was interrupted"
    refused = disk_errors.refusal(error) if isinstance(error, OSError) else None
    return refused or f"{type(error).__name__}: {error}"
