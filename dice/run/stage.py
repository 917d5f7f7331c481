"""What every stage shares: skip what is done, go on where it stopped, end with a manifest.

A stage is a function of its inputs and of the part of the recipe that it names. Its manifest
records both; a stage whose manifest holds is skipped. Where it doesn't (another recipe, other inputs,
outputs that were changed), that is said, and only `force` runs the stage again: finished work is never
thrown away unasked. What it had written for another recipe is set aside until the new outputs are
complete: where they never are, the earlier recipe brings it back.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dice.errors import BadInput
from dice.launch import devices, machines
from dice.launch.console import say
from dice.launch.failures import in_words
from dice.launch.processes import Launch
from dice.run.lock import Held, locked
from dice.run.manifests import ANEW, Manifest, commit, differences, digests_of, versions
from dice.run.run import Run, recipe_digest
from dice.run.state import Found, StageFiles


@dataclass
class Outcome:
    """What a stage did, for the terminal and, but for `notes`, under the same names for its manifest."""

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
    outputs: tuple[str, ...]  # files and folders of the stage's folder that are its own
    run: Callable[[Run, int], Outcome]
    folder: Callable[[Run, int], Path] = Run.round_dir
    shards: str = ""  # the folder among the outputs that has its shards
    working: tuple[str, ...] = ()  # folders that a killed stage goes on with; gone once it is done
    needs: Callable[[Run, int], list[tuple[str, int]]] = lambda run, t: []  # (stage, round) that it reads of
    parts: tuple[str, ...] = ()  # patterns of what else it has finished before it is done
    # Which inputs are the user's, the same in the whole run, if it has them: name -> key of the recipe.
    given: Callable[[Run, int], dict[str, str]] = lambda run, t: {}
    expendable: bool = False  # whether it runs again without being forced to
    launches: Callable[[Run, int], list[Launch]] = lambda run, t: []  # what all nodes take part in

    def basis(self, run: Run, t: int) -> dict[str, Any]:
        """What it would be done with now: the digests of its inputs, and its part of the recipe."""
        return {"inputs": self.inputs(run, t), "recipe": self.settings(run, t)}

    def files(self, run: Run, t: int) -> StageFiles:
        """The files that say how far it has come."""
        return StageFiles(self.folder(run, t), self.name, self.outputs, self.working)

    def state(self, run: Run, t: int, thorough: bool = False) -> Found:
        """Which state it is in; `thorough`: all its outputs are read and compared with its manifest."""
        return self.files(run, t).state(thorough)

    def manifest(self, run: Run, t: int) -> Manifest | None:
        """Its manifest; None where it is not done. Raises BadInput where that was changed."""
        return self.files(run, t).manifest()

    def has_parts(self, run: Run, t: int) -> bool:
        """Whether it has finished anything that takes time to do again, done or not."""
        patterns = (f"{self.shards}/*.jsonl", *self.parts) if self.shards else self.parts
        return any(next(self.folder(run, t).glob(pattern), None) for pattern in patterns)


Order = Callable[[Run], Iterable[tuple[Stage, int]]]  # the stages of a run with their rounds


def makers(*rounds: int) -> list[tuple[str, int]]:
    """The stages that made the models with which these rounds ended; those before round 1 were given."""
    return [("train", t) for t in rounds if t > 0]


def execute(stage: Stage, run: Run, t: int, force: bool = False, order: Order = lambda run: ()) -> Manifest:
    """Run a stage of round t unless its manifest says that it is done; returns the manifest.

    `order` gives all stages of the run. `force` runs this one again where its manifest does not hold.
    Raises BadInput where it doesn't, where an earlier stage is missing or its output is not what it wrote,
    and where the user's files are not what an earlier stage has read; StageFailed where a worker failed.
    Finished shards are kept in all these cases.

    With several nodes, node 0 does all this, and the others what it asks them for.
    """
    with _noting_failure(stage, run, t), machines.meeting(stage.name, t) as meeting:
        meeting.agree(partial(facts, run))
        if not meeting.leads:
            return _follow(stage, run, t, meeting)
        with locked(run.path):
            stages = [*order(run)]
            named = {one.name: one for one, _ in stages}
            for name, number in stage.needs(run, t):
                require(named[name], run, number, same_recipe=True)
            return _execute(stage, run, t, force, stages)


def facts(run: Run) -> dict[str, str]:
    """What must be the same on all nodes."""
    return {
        "run": str(run.path),
        "recipe": recipe_digest(run.recipe),
        "commit": str(commit()),
        "number of workers (NPROC_PER_NODE)": str(devices.workers_per_node()),
    }


def _follow(stage: Stage, run: Run, t: int, meeting: machines.Meeting) -> Manifest:
    """Another node's part."""
    meeting.follow(lambda: {launch.part: launch.run for launch in stage.launches(run, t)})
    manifest = stage.manifest(run, t)
    say(f"{stage.name:<10}{manifest.summary} (node {meeting.rank})", mark="+")
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
                    stage.files(run, t).fail(in_words(error))
        raise


def _execute(stage: Stage, run: Run, t: int, force: bool, stages: Iterable[tuple[Stage, int]]) -> Manifest:
    files, basis = stage.files(run, t), stage.basis(run, t)
    require_unchanged(stage, run, t, basis["inputs"], stages)
    files.restore(basis)
    if manifest := _done_before(stage, run, t, basis, force):
        files.tidy()
        say(f"{stage.name:<10}done before: {manifest.summary}", mark="=")
        return manifest
    resumed = files.begin(basis)
    begun = time.monotonic()
    outcome = stage.run(run, t)
    seconds = time.monotonic() - begun
    manifest = Manifest(
        stage=stage.name,
        round=t,
        **basis,
        outputs=digests_of(files.folder, stage.outputs),
        **{name: value for name, value in vars(outcome).items() if name != "notes"},
        seconds=round(seconds, 1),
        resumed=resumed,
        versions=versions(),
        commit=commit(),
    )
    files.finish(manifest)
    say(f"{stage.name:<10}{outcome.summary}, {seconds:.0f} s{_dropped(outcome.dropped)}", mark="+")
    for mark, lines in ((" ", outcome.notes), ("!", outcome.warnings)):
        for line in lines:
            say(f"{'':<10}{line}", mark=mark)
    return manifest


def _done_before(stage: Stage, run: Run, t: int, basis: dict[str, Any], force: bool) -> Manifest | None:
    """The manifest of a stage that is done, else None: then it has been said why.

    Outputs of the same basis that are undamaged stay, to be gone on with; those of another basis are
    set aside. Raises BadInput where something would be lost, without `force`.
    """
    files = stage.files(run, t)
    found = files.state()
    if found.unreadable:
        if not force:
            raise BadInput(found.unreadable)
        say(found.unreadable, mark="!")
    changes = differences(found.basis, basis) if found.basis else []
    if found.manifest and not changes:
        found = files.state(thorough=True)
        if not found.damage:
            return found.manifest
    loses = found.manifest or stage.has_parts(run, t) or (changes and files.aside())
    if loses and not force and not stage.expendable and (found.manifest or changes or not found.basis):
        raise BadInput(_refusal(stage, files.folder, found, changes))
    if changes or found.damage:
        how = "runs again" if found.manifest else "begins anew, not where it stopped"
        say(f"{stage.name:<10}{how}: {'; '.join(changes or found.reasons[:3])}", mark="!")
    if found.manifest and changes:
        files.set_aside()
    elif found.manifest:
        files.reopen(found.manifest, found.damage)
    return None


def _refusal(stage: Stage, folder: Path, found: Found, changes: list[str]) -> str:
    """Why a stage does not run again, in one line."""
    if changes:
        how = "was done" if found.manifest else "has begun"
        return (
            f"{folder}: {stage.name} {how} with something else ({'; '.join(changes)}); {ANEW}, "
            "run=NAME begins another run"
        )
    if reasons := found.reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        return f"{folder / reasons[0]} since {stage.name} wrote it{more}; put it back, or {ANEW}"
    return f"{folder}: what {stage.name} has made is there, but not its manifest; {ANEW}"


def require(stage: Stage, run: Run, t: int, same_recipe: bool = False) -> None:
    """Raises BadInput where a stage of round t is not done, or its files are not as it left them.

    `same_recipe`: also where it was done with another recipe than the run's. The message says which file,
    or what to run first.
    """
    folder, found = stage.folder(run, t), stage.state(run, t, thorough=True)
    command = f"python -m dice {stage.name} {run.path}" + (f" {t}" if t else "")
    if found.unreadable:
        raise BadInput(found.unreadable)
    if found.manifest is None:
        raise BadInput(f"{folder}: {stage.name} is not done; run `{command}` first")
    if found.damage:
        who = f"{stage.name} of round {t}" if t else stage.name
        raise BadInput(
            f"{folder / found.reasons[0]} since {who} wrote it; put it back, or "
            f"{ANEW} (iter.sh --force, or `{command} --force`)"
        )
    if same_recipe and (changes := differences(found.manifest.recipe, stage.settings(run, t))):
        raise BadInput(
            f"{folder}: {stage.name} was done with another recipe ({'; '.join(changes)}); "
            f"run `{command} --force` first"
        )


def require_unchanged(
    stage: Stage, run: Run, t: int, inputs: dict[str, str], stages: Iterable[tuple[Stage, int]]
) -> None:
    """Raises BadInput where inputs that are the user's are not what an earlier one of `stages` has read.

    A run is of one policy, one reference, and the same data in every round.
    """
    now = {key: inputs[name] for name, key in stage.given(run, t).items() if name in inputs}
    before = itertools.takewhile(lambda one: (one[0].name, one[1]) != (stage.name, t), stages)
    for earlier, number in before if now else ():
        known = manifest.inputs if (manifest := earlier.state(run, number).manifest) else {}
        for name, key in earlier.given(run, number).items():
            if key in now and known.get(name, now[key]) != now[key]:
                who = f"{earlier.name} of round {number}" if number else earlier.name
                raise BadInput(
                    f"{run.path}: what {key} names was changed since {who} read it; put it back, or "
                    f"iter.sh {ANEW}, run=NAME begins another run"
                )


def preview(stage: Stage, run: Run, t: int) -> tuple[Manifest | None, list[str]]:
    """What `execute` would find, nothing changed: (manifest, why the stage would run all the same).

    A stage that never ran has neither. Outputs are looked for, not read through. Raises BadInput where the
    manifest was changed.
    """
    found = stage.state(run, t)
    if found.unreadable:
        raise BadInput(found.unreadable)
    if not found.manifest:
        return None, []
    try:
        changes = differences(found.basis, stage.basis(run, t))
    except (BadInput, OSError):
        return found.manifest, ["an input is gone"]
    return found.manifest, changes or found.reasons


def _dropped(dropped: dict[str, int]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
    return f" (dropped: {reasons})" if reasons else ""
