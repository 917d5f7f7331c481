"""Stages that a run has in common with another one: taken over instead of done again.

A stage is a function of its inputs and of the part of the recipe that it names, and its manifest has both.
So where another run's manifest has what this run's would have, its outputs are this run's outputs. They
are checked against their digests, then linked (or copied, across file systems); files of a run are only
ever replaced, never written into, so what one run does later leaves the other as it is.
"""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from dice.errors import BadInput
from dice.launch import machines
from dice.launch.console import say
from dice.run import files, manifests
from dice.run.lock import locked
from dice.run.manifests import basis_of, damaged
from dice.run.run import Run, open_run
from dice.run.stage import Stage, facts, seal, unseal
from dice.stages import train_reward_model
from dice.stages.order import STAGES


def share(run: Run) -> None:
    """Take over what a run has in common with those beside it, under the same results/.

    Stages are looked at in their order, up to the first that nobody else has done.
    """
    others = [*_beside(run)]
    todo = [(stage, t) for t in range(1, run.recipe.rounds + 1) for stage in STAGES]
    with machines.meeting("share") as meeting:
        meeting.agree(partial(facts, run))
        if not meeting.leads:
            meeting.follow()
            return
        with locked(run.path):
            if train_reward_model.is_wanted(run.recipe) and not _is_done(train_reward_model.STAGE, run, 0):
                adopt(train_reward_model.STAGE, run, 0, others)
            for stage, t in todo:
                if not _is_done(stage, run, t) and not adopt(stage, run, t, others):
                    return


def _beside(run: Run) -> Iterator[Run]:
    for file in sorted(run.path.parent.glob("*/recipe.yaml")):
        with contextlib.suppress(BadInput):  # a run of another version
            if file.parent != run.path:
                yield open_run(file.parent)


def _is_done(stage: Stage, run: Run, t: int) -> bool:
    return (stage.folder(run, t) / f"{stage.name}.manifest.json").exists()


def adopt(stage: Stage, run: Run, t: int, others: Iterable[Run]) -> Run | None:
    """Take over a stage of round t that has not begun; returns the run that it is from, or None."""
    folder = stage.folder(run, t)
    if (folder / f"{stage.name}.started.json").exists():
        return None
    try:
        basis = {"inputs": stage.inputs(run, t), "recipe": stage.settings(run, t)}
    except BadInput:  # a stage before it is still to be done
        return None
    for other in others:
        source = stage.folder(other, t)
        try:
            manifest = manifests.read(source / f"{stage.name}.manifest.json")
            same = manifest and basis_of(manifest) == basis and not damaged(source, manifest)
        except (BadInput, OSError):  # spoiled, or being replaced at this moment
            continue
        if same:
            # Where this is killed, the stage itself goes on with what has been taken over.
            files.write_json(folder / f"{stage.name}.started.json", basis)
            for name in manifest["outputs"]:
                _link(source / name, folder / name)
            seal(folder, manifest["outputs"])
            manifest["shared_from"] = str(source)
            manifests.write(folder / f"{stage.name}.manifest.json", manifest)
            unseal(stage, folder)
            files.remove(folder / f"{stage.name}.started.json")
            say(f"{stage.name:<10}as in {other.path.name}: {manifest['summary']}", mark="=")
            return other
    return None


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file, or a copy of it; whatever was there goes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    files.remove(target)
    files.link(source, target)
