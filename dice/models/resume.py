"""Checkpoints of a training that was interrupted: which of them can be gone on with.

The trainer writes a checkpoint file by file, from every process. It is complete once `complete.json`
stands in it, written last, with the size of every file; older checkpoints are removed only then.
"""

from pathlib import Path
from typing import Any

from dice.errors import BadInput
from dice.run.files import read_json, remove, write_json

MARKER = "complete.json"


def complete(checkpoint: Path, policy: str, processes: int) -> None:
    """Mark a checkpoint as complete. `policy` identifies what the training began with."""
    files = {str(path.relative_to(checkpoint)): path.stat().st_size for path in _files(checkpoint)}
    write_json(checkpoint / MARKER, {"policy": policy, "processes": processes, "files": files})


def remove_before(checkpoint: Path) -> None:
    """Remove the checkpoints of earlier steps."""
    for other in checkpoint.parent.glob("checkpoint-*"):
        if 0 <= _step(other) < _step(checkpoint):
            remove(other)


def check_processes(work: Path, processes: int) -> None:
    """Raises BadInput where the last complete checkpoint is of another number of processes."""
    found = _complete(work)
    its = facts(found[-1]).get("processes") if found else processes
    if its != processes:
        raise BadInput(
            f"{found[-1]} is of a training with {its} processes (GPUs), here are {processes}: go on with "
            f"{its}, or remove {work} to begin the training anew"
        )


def last_complete(work: Path) -> Path | None:
    """The last complete checkpoint of a working folder; whatever else lies there is removed."""
    found = next(reversed(_complete(work)), None)
    for path in list(work.iterdir()) if work.is_dir() else []:
        if path != found:
            remove(path)
    return found


def _complete(work: Path) -> list[Path]:
    return [path for path in sorted(work.glob("checkpoint-[0-9]*"), key=_step) if is_complete(path)]


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has every file that it had when it was marked, whole."""
    files = facts(checkpoint).get("files")
    found = {str(path.relative_to(checkpoint)): path.stat().st_size for path in _files(checkpoint)}
    return bool(files) and isinstance(files, dict) and files.items() <= found.items()


def facts(checkpoint: Path) -> dict[str, Any]:
    """What was written down of a checkpoint: policy, processes, files. Empty where nothing was."""
    return read_json(checkpoint / MARKER) or {}


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARKER)


def _step(checkpoint: Path) -> int:
    step = checkpoint.name.rpartition("-")[2]
    return int(step) if step.isdigit() else -1
