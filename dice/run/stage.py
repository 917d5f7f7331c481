"""What every stage shares: skip what is done, go on where it stopped, end with a manifest.

A stage is a function of its inputs and of the part of the recipe that it names. Its manifest
records both; a stage whose manifest holds is skipped. Where it doesn't (another recipe, other inputs,
outputs that were changed), that is said, and only `force` runs the stage again: finished work is never
thrown away unasked. What it had written for another recipe is set aside until the new outputs are
complete: where they never are, the earlier recipe brings it back.
"""

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dice.errors import BadInput
from dice.launch import devices, machines
from dice.launch.console import say
from dice.launch.processes import Launch
from dice.run import aside, files, manifests
from dice.run.lock import Held, locked
from dice.run.manifests import ANEW, basis_of, commit, damaged, differences, digests_of, require, versions
from dice.run.run import Run, recipe_digest

STAGES = ("generate", "score", "pair", "train")  # of a round, in their order

MODULES = {"train_rm": "train_reward_model"}  # stages whose module has another name


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


def _nothing(run: Run, t: int) -> list[Any]:
    return []


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
    needs: Callable[[Run, int], list[tuple[str, int]]] = _nothing  # (stage, round) whose files it reads
    parts: tuple[str, ...] = ()  # patterns of what it has finished before it is done
    expendable: bool = False  # whether it runs again without being forced to
    launches: Callable[[Run, int], list[Launch]] = _nothing  # what all nodes take part in


def stage_named(name: str) -> Stage:
    """The stage of that name: `STAGE` of its module."""
    return importlib.import_module(f"dice.stages.{MODULES.get(name, name)}").STAGE


def execute(stage: Stage, run: Run, t: int, force: bool = False) -> dict[str, Any]:
    """Run a stage of round t unless its manifest says that it is done; returns the manifest.

    `force` runs it again where its manifest does not hold. Raises BadInput where it doesn't, and where an
    earlier stage is missing or its output is not what it wrote; StageFailed where a worker failed.
    Finished shards are kept in all these cases.

    With several nodes, node 0 does all this, and the others what it asks them for.
    """
    with _noting_failure(stage, run, t), machines.meeting(stage.name, t) as meeting:
        meeting.agree(partial(facts, run))
        if not meeting.leads:
            return _follow(stage, run, t, meeting)
        with locked(run.path):
            files.remove(_failed(stage, run, t))  # of an earlier attempt
            return _execute(stage, run, t, force)


def facts(run: Run) -> dict[str, str]:
    """What must be the same on all nodes."""
    return {
        "run": str(run.path),
        "recipe": recipe_digest(run.recipe),
        "commit": str(commit()),
        "number of workers (NPROC_PER_NODE)": str(devices.workers_per_node()),
    }


def _follow(stage: Stage, run: Run, t: int, meeting: machines.Meeting) -> dict[str, Any]:
    """Another node's part."""
    meeting.follow(lambda: {launch.part: launch.run for launch in stage.launches(run, t)})
    manifest = manifests.read(stage.folder(run, t) / f"{stage.name}.manifest.json") or {}
    say(f"{stage.name:<10}{manifest.get('summary')} (node {meeting.rank})", mark="+")
    return manifest


@contextlib.contextmanager
def _noting_failure(stage: Stage, run: Run, t: int) -> Iterator[None]:
    """Leaves word of why a stage failed, for `status`. A run that another process has is not written to."""
    try:
        yield
    except Held:
        raise
    except Exception as error:
        # Suppressed: that other process, or a full disk, say, which is what the error is about to tell.
        with contextlib.suppress(BadInput, OSError):
            if devices.node_rank() == 0:
                with locked(run.path):
                    files.write_json(_failed(stage, run, t), {"error": machines.in_words(error)})
        raise


def _failed(stage: Stage, run: Run, t: int) -> Path:
    return stage.folder(run, t) / f"{stage.name}.failed.json"


def _execute(stage: Stage, run: Run, t: int, force: bool) -> dict[str, Any]:
    folder = stage.folder(run, t)
    started, finished = folder / f"{stage.name}.started.json", folder / f"{stage.name}.manifest.json"
    for name, number in stage.needs(run, t):
        require(run, number, name)
        _require_same_recipe(stage_named(name), run, number)
    basis = {"inputs": stage.inputs(run, t), "recipe": stage.settings(run, t)}
    aside.bring_back(folder, stage.name, stage.outputs, basis)
    if manifest := _still_valid(stage, folder, basis, force):
        unseal(stage, folder)
        for leftover in (started, *(folder / name for name in stage.working)):
            files.remove(leftover)
        say(f"{stage.name:<10}done before: {manifest['summary']}", mark="=")
        return manifest
    resumed = files.read_json(started) == basis
    if not resumed:
        for output in (*stage.outputs, *stage.working):
            files.remove(folder / output)
    files.remove_leftovers(folder)
    files.write_json(started, basis)

    begun = time.monotonic()
    outcome = stage.run(run, t)
    seconds = time.monotonic() - begun
    manifest = {
        "stage": stage.name,
        "round": t,
        **basis,
        "outputs": {
            name: digest for output in stage.outputs for name, digest in digests_of(folder, output).items()
        },
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
    unseal(stage, folder)
    for over in (started, *(folder / name for name in stage.working), aside.place(folder, stage.name)):
        files.remove(over)
    say(f"{stage.name:<10}{outcome.summary}, {seconds:.0f} s{_dropped(outcome.dropped)}", mark="+")
    for mark, lines in ((" ", outcome.notes), ("!", outcome.warnings)):
        for line in lines:
            say(f"{'':<10}{line}", mark=mark)
    return manifest


def _require_same_recipe(needed: Stage, run: Run, t: int) -> None:
    """Raises BadInput where a stage that is done was done with another recipe than the run's."""
    manifest = manifests.manifest_of(run, t, needed.name) or {}
    recipe = manifest.get("recipe", needed.settings(run, t))
    if changes := differences(recipe, needed.settings(run, t)):
        raise BadInput(
            f"{needed.folder(run, t)}: {needed.name} was done with another recipe ({'; '.join(changes)}); "
            f"run `python -m dice {needed.name} {run.path}{f' {t}' if t else ''} --force` first"
        )


def _still_valid(stage: Stage, folder: Path, basis: dict[str, Any], force: bool) -> dict[str, Any] | None:
    """The manifest of a stage that is done, else None: then it has been said why.

    Outputs of the same basis that are undamaged stay, to be gone on with; those of another basis are
    set aside. Raises BadInput where something would be lost, without `force`.
    """
    started, finished = folder / f"{stage.name}.started.json", folder / f"{stage.name}.manifest.json"
    manifest = _read(finished, force)
    before = manifest or files.read_json(started)
    if not before:
        if finished_parts(stage, folder) and not force and not stage.expendable:
            raise BadInput(f"{folder}: what {stage.name} has made is there, but not its manifest; {ANEW}")
        return None
    if changes := differences(basis_of(before), basis):
        if not force and not stage.expendable and (manifest or finished_parts(stage, folder)):
            raise BadInput(
                f"{folder}: {stage.name} {'was done' if manifest else 'has begun'} with something else "
                f"({'; '.join(changes)}); {ANEW}, run=NAME begins another run"
            )
        how = "runs again" if manifest else "begins anew, not where it stopped"
        say(f"{stage.name:<10}{how}: {'; '.join(changes)}", mark="!")
        if manifest:
            aside.set_aside(folder, stage.name, stage.outputs)
    elif manifest:
        broken = damaged(folder, manifest)
        if not broken:
            return manifest
        reasons = [f"{name} {what}" for name, what in broken.items()]
        if not force and not stage.expendable:
            raise BadInput(
                f"{folder / reasons[0]} since {stage.name} wrote it{_more(reasons)}; put it back, or {ANEW}"
            )
        say(f"{stage.name:<10}runs again: {'; '.join(reasons[:3])}", mark="!")
        files.write_json(started, basis)
        for name in broken:
            files.remove(folder / name)
        seal(folder, {name: digest for name, digest in manifest["outputs"].items() if name not in broken})
        files.remove(finished)
    return None


def seal(folder: Path, outputs: dict[str, str]) -> None:
    """Note the digests of a stage's shards beside them, since it is going to be without a manifest."""
    for name, digest in outputs.items():
        if "/" in name and name.endswith(".jsonl"):
            files.seal(folder / name, digest)


def unseal(stage: Stage, folder: Path) -> None:
    """Remove a stage's own seals, now that it has a manifest; others of its folder may still be at work."""
    for output in stage.outputs:
        files.remove_seals(folder / output)


def _read(path: Path, force: bool) -> dict[str, Any] | None:
    """A manifest, or None where there is none; with `force` also where it can't be used."""
    try:
        return manifests.read(path)
    except BadInput as error:
        if not force:
            raise
        say(str(error), mark="!")
        files.remove(path)
        return None


def _more(reasons: list[str]) -> str:
    return f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""


def finished_parts(stage: Stage, folder: Path) -> bool:
    """Whether an unfinished stage has finished anything that takes time to do again."""
    return any(next(folder.glob(pattern), None) for pattern in stage.parts)


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
    return manifest, differences(basis_of(manifest), basis) or missing


def _dropped(dropped: dict[str, int]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
    return f" (dropped: {reasons})" if reasons else ""
