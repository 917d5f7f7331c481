"""What a stage had written for another recipe: set aside until the new outputs are complete.

The outputs move to `.STAGE.before/`, the manifest last, so that a kill at any moment leaves word of what
belongs where: a manifest in its place, beside such a folder, is of outputs on their way there.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dice.errors import BadInput
from dice.run import files, manifests


def place(folder: Path, stage: str) -> Path:
    """Where a stage's earlier outputs are kept."""
    return folder / f".{stage}.before"


def set_aside(folder: Path, stage: str, outputs: Iterable[str]) -> None:
    """Move a stage's outputs and manifest out of the way."""
    _move(folder, place(folder, stage), (*outputs, f"{stage}.manifest.json"))


def bring_back(folder: Path, stage: str, outputs: Iterable[str], basis: dict[str, Any]) -> None:
    """Where outputs were set aside for a recipe that came to nothing, and theirs is back: use them."""
    source, name = place(folder, stage), f"{stage}.manifest.json"
    if not source.is_dir():
        return
    in_place = (folder / name).exists()
    try:
        manifest = manifests.read((folder if in_place else source) / name)
    except BadInput:  # nothing to go back to
        return
    if not manifest or manifests.basis_of(manifest) != basis:
        return
    if in_place:  # killed while they were set aside, or when all of this folder was about to go
        spoiled = manifests.damaged(source, manifest)
        lost = manifests.damaged(folder, manifest)
        _move(source, folder, [output for output in lost if output not in spoiled])
    else:
        _move(source, folder, (*outputs, name))
    files.remove(source)


def _move(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            files.remove(target / name)
            (source / name).replace(target / name)
