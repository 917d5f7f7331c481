"""Stages that a run has in common with another one: taken over instead of done again.

A stage is a function of its inputs and of the part of the recipe that it names, and its manifest has both.
So where another run's manifest has what this run's would have, its outputs are this run's outputs. They
are checked against their digests, then linked (or copied, across file systems); files of a run are only
ever replaced, never written into, so what one run does later leaves the other as it is.

An evaluation is of all models of a run, so hardly any two runs have one in common. But the answers of the
models that both begin with are the same: these are taken over, a model at a time.
"""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from dice.errors import BadInput
from dice.launch import machines
from dice.launch.console import say
from dice.run.lock import locked
from dice.run.manifests import Manifest
from dice.run.run import Run, open_run
from dice.run.stage import Stage, facts, require_unchanged
from dice.run.state import State
from dice.stages import agreement, evaluate, train_reward_model
from dice.stages.order import stages_of

BESIDE = (agreement.STAGE, train_reward_model.STAGE)  # sampling waits for neither


def reuse(run: Run) -> None:
    """Take over what a run has in common with those beside it, under the same results/.

    Stages are gone through in their order, up to the first that nobody else has done.
    """
    others = [*_beside(run)]
    with machines.meeting("share") as meeting:
        meeting.agree(partial(facts, run))
        if not meeting.leads:
            meeting.follow()
            return
        with locked(run.path):
            for stage, t in stages_of(run):
                done = stage.state(run, t).was_done or take_over(stage, run, t, others)
                if not done and stage is evaluate.STAGE:
                    take_over_answers(run, others)
                if not done and stage not in BESIDE:
                    return


def _beside(run: Run) -> Iterator[Run]:
    for file in sorted(run.path.parent.glob("*/recipe.yaml")):
        with contextlib.suppress(BadInput):  # a run of another version
            if file.parent != run.path:
                yield open_run(file.parent)


def take_over(stage: Stage, run: Run, t: int, others: Iterable[Run]) -> Run | None:
    """Take over a stage of round t that has not begun; returns the run that it is from, or None."""
    if stage.state(run, t).begun_at:
        return None
    try:
        basis = stage.basis(run, t)
        require_unchanged(stage, run, t, basis["inputs"], stages_of(run))
    except BadInput:  # a stage before it is still to be done, or was done with other files
        return None
    for other in others:
        with contextlib.suppress(BadInput, OSError):  # being replaced at this moment
            found = stage.state(other, t)
            if found.basis != basis or stage.state(other, t, thorough=True).state is not State.DONE:
                continue
            stage.files(run, t).take_over(stage.folder(other, t), found.manifest)
            say(f"{stage.name:<10}as in {other.path.name}: {found.manifest.summary}", mark="=")
            return other
    return None


def take_over_answers(run: Run, others: Iterable[Run]) -> None:
    """Begin an evaluation with the answers of models that others have evaluated in the same way."""
    stage, found = evaluate.STAGE, {}
    if stage.state(run, 0).begun_at:
        return
    basis = stage.basis(run, 0)
    for other in others:
        with contextlib.suppress(BadInput, OSError):  # being replaced at this moment
            theirs = stage.state(other, 0, thorough=True)
            if theirs.state is State.DONE and _asks_alike(theirs.basis, basis):
                found |= _answers(stage.folder(other, 0), theirs.manifest, basis["inputs"])
    if found:
        stage.files(run, 0).begin_with(basis, found)
        names = sorted({Path(name).parent.name for name in found})
        say(f"{stage.name:<10}answers of {', '.join(names)} as in other runs", mark="=")


def _asks_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two evaluations ask the same prompts in the same way."""
    return one["recipe"] == other["recipe"] and one["inputs"]["prompts"] == other["inputs"]["prompts"]


def _answers(folder: Path, manifest: Manifest, models: dict[str, str]) -> dict[str, tuple[Path, str]]:
    """The shards that an evaluation in `folder` has of some models: name here -> (file, its digest).

    `models` are names with digests; a model may have another name there.
    """
    found = {}
    for name, digest in manifest.outputs.items():
        kind, _, rest = name.partition("/")
        theirs, _, shard = rest.partition("/")
        for ours, model in models.items():
            if kind == "responses" and manifest.inputs.get(theirs) == model:
                found[f"responses/{ours}/{shard}"] = (folder / name, digest)
    return found
