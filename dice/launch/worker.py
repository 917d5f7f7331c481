"""A stage's worker process, alone or under torchrun.

    python -m dice.launch.worker MODULE PROGRESS [ARGUMENT ...]

What it prints goes to the stage's log.
"""

import fcntl
import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dice.launch.complaint import complaining
from dice.launch.devices import forget_launcher, gpus
from dice.launch.processes import die_with_parent
from dice.launch.progress import Counter

Item = TypeVar("Item")


@dataclass(frozen=True)
class Worker:
    """This process among its kind, and where it reports."""

    rank: int
    world_size: int
    local_rank: int
    progress: Path

    def share(self, items: list[Item]) -> list[Item]:
        """This worker's items: every world_size-th, the same whatever is already done."""
        return items[self.rank :: self.world_size]

    def claims(self, name: str) -> "Claims":
        """For sharing out numbered items as workers become free, instead of beforehand."""
        return Claims(self.progress / f"{name}.claims", self.rank, self.world_size)

    def counter(self) -> Counter:
        return Counter(self.progress / f"{self.rank}.json")


class Claims:
    """Numbered items, each for the worker that asks first, for as long as it keeps this object.

    An item is a byte of a file that all workers share, a claim is a lock on it: locks are known to other
    machines on a shared file system, and go with a process that is killed. Where the file system
    knows no locks, every world_size-th item is a worker's.
    """

    def __init__(self, path: Path, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("ab")

    def take(self, number: int) -> bool:
        """Whether the item is this worker's from now on."""
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # systems differ in how they say that it is taken
            return False
        except OSError:
            return number % self.world_size == self.rank
        return True


def main(module: str, progress: str, *arguments: str) -> None:
    die_with_parent()
    worker = Worker(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        progress=Path(progress),
    )
    _leave_torchrun(worker)
    with complaining():
        importlib.import_module(module).work(worker, *arguments)


def _leave_torchrun(worker: Worker) -> None:
    """Become an independent process on its own part of this machine's GPUs.

    Workers never talk to each other, and vLLM would take torchrun's variables for its own.
    """
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    forget_launcher(os.environ, "MASTER_ADDR", "MASTER_PORT")
    if neighbours > 1 and (found := gpus()):
        each = len(found) // neighbours
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(found[worker.local_rank * each :][:each])


if __name__ == "__main__":
    main(*sys.argv[1:])
