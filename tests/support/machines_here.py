"""Several machines on one run, as groups of processes on this one: the same iter.sh on each."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from loops import ITER

from dice.recipe.paths import ROOT


def free_port() -> int:
    """A port of which the next one is free, too.

    None of those that the system gives to outgoing connections: one of these would take it meanwhile, or a
    client that keeps trying would connect to itself.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000, 2)
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port


class Node:
    """One of the machines, at work on iter.sh."""

    def __init__(
        self, rank: int, port: int, logs: Path, arguments: list[str], count: int = 2, **env: str
    ) -> None:
        logs.mkdir(exist_ok=True)
        self.outputs = {name: logs / f"node-{rank}.{name}" for name in ("out", "err")}
        own = {"NNODES": str(count), "NODE_RANK": str(rank)}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with self.outputs["out"].open("w") as out, self.outputs["err"].open("w") as err:
            self.process = subprocess.Popen(
                ["bash", ITER, *arguments],
                cwd=ROOT,
                env={**os.environ, "DICE_PYTHON": sys.executable, **own, **env},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def text(self, name: str) -> str:
        return self.outputs[name].read_text()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def nodes_on(
    logs: Path, arguments: list[str], count: int = 2, port: int | None = None
) -> Iterator[list[Node]]:
    """The same iter.sh on so many nodes, which are killed at the end."""
    port = port or free_port()
    nodes = [Node(rank, port, logs, arguments, count) for rank in range(count)]
    try:
        yield nodes
    finally:
        for node in nodes:
            node.kill()
