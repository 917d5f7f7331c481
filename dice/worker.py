"""A stage's worker process: `python -m dice.worker STAGE PROGRESS ARGUMENTS`, alone or under torchrun.

What it prints goes to the stage's log. Input that can't be used is reported to the parent in a
file, so that the terminal shows one line instead of a traceback.
"""

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dice.console import Counter
from dice.errors import BadInput
from dice.launch import die_with_parent, gpu_count

Item = TypeVar("Item")

TORCHRUN_VARIABLES = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip


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

    def counter(self) -> Counter:
        return Counter(self.progress / f"{self.rank}.json")


def main(stage: str, progress: str, *arguments: str) -> None:
    die_with_parent()
    worker = Worker(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        progress=Path(progress),
    )
    _leave_torchrun(worker)
    try:
        importlib.import_module(f"dice.{stage}").work(worker, *arguments)
    except BadInput as error:
        worker.progress.mkdir(parents=True, exist_ok=True)
        (worker.progress / "bad-input.txt").write_text(str(error), encoding="utf-8")
        sys.exit(f"error: {error}")


def _leave_torchrun(worker: Worker) -> None:
    """Become an independent process on one GPU.

    Workers never talk to each other, and vLLM would take torchrun's variables for its own.
    """
    for name in [*os.environ]:
        if name in TORCHRUN_VARIABLES or name.startswith("TORCHELASTIC_"):
            del os.environ[name]
    if worker.world_size > 1 and gpu_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(index) for index in range(gpu_count())]
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[worker.local_rank]


if __name__ == "__main__":
    main(*sys.argv[1:])
