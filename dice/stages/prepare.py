"""Before round 1: what can be known to be wrong is found, and nothing is written before that."""

import contextlib
import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from dice.errors import BadInput, StageFailed, Unmade, counted
from dice.inference.load import resolve_engine
from dice.launch import machines, processes, progress
from dice.launch.console import console, say, shown
from dice.launch.devices import NODE_VARIABLES, node_rank
from dice.models import remote_code
from dice.recipe.keys import Recipe
from dice.recipe.load import load_recipe, origin
from dice.recipe.paths import ROOT
from dice.run import lock
from dice.run.manifests import differences
from dice.run.run import Run, create_run, open_run
from dice.run.stage import Stage, facts
from dice.run.state import Found
from dice.stages import train_reward_model
from dice.stages.checks import Check, after_preparation, before_preparation, previous
from dice.stages.order import ROUND, STAGES


def start(name: str, overrides: Sequence[str], force: bool = False) -> Run:
    """Check a recipe, make what it needs, and write its run's recipe.yaml.

    Raises BadInput for anything that can't work (a data set, template, model or batch size), and, without
    `force`, for a recipe with which finished stages would have to run again.
    """

    def place(key: str) -> str:
        return origin(name, overrides, key)

    def examine_all(checks: list[Check]) -> None:
        for check in checks:
            if isinstance(told := check.examine(), Unmade):
                say(f"{check.topic}: {told}", mark="!")

    with machines.meeting("start") as meeting:
        recipe = load(name, overrides)
        run = Run(recipe.run_dir, recipe)
        meeting.agree(partial(facts, run))
        _introduce(name, run)
        examine_all(before_preparation(recipe, place))
        if not meeting.leads:
            examine = lambda: examine_all(after_preparation(recipe, place, download=True))  # noqa: E731
            meeting.follow(lambda: {"checks": examine, "run": partial(_require_shared, run)})
            return run
        changes = _changes(run)
        if not force:
            _refuse(run, _set_otherwise(run))
        if recipe.prepare:
            lock.require_free(run.path)  # what another loop has begun with must stay as it is
            with lock.alone(ROOT):  # a run that was started beside this one prepares the same files
                prepare(recipe.prepare, run.path)
        meeting.announce("checks")
        examine_all(after_preparation(recipe, place, download=True))
        if not force:
            _refuse(run, _given_otherwise(run, changes))
        meeting.gather()
        create_run(recipe)
        meeting.announce("run")
        meeting.gather()
        return run


def prepare_recipe(name: str, overrides: Sequence[str]) -> None:
    """Make what a recipe's `prepare` makes, and nothing of a run.

    Raises BadInput where another loop works on the recipe's run, and as `prepare` does.
    """
    recipe = load(name, overrides)
    if not recipe.prepare:
        say("prepare   this recipe needs nothing made")
        return
    lock.require_free(recipe.run_dir)
    with lock.alone(ROOT):
        prepare(recipe.prepare, recipe.run_dir)
    say(f"prepare   what {Path(name).name} starts from is here", mark="+")


def hold(run: Run, name: str, overrides: Sequence[str]) -> None:
    """Take a run for the loop; with several nodes node 0 does.

    Raises BadInput where another has it, or has given it another recipe.
    """
    if node_rank() > 0:
        return
    lock.take_for_loop(run.path)
    held = open_run(run.path).recipe  # as it is now that nobody else can write it
    if changes := differences(load(name, overrides).model_dump(), held.model_dump()):
        raise BadInput(f"{run.path}: another iter.sh has just begun it with another recipe ({changes[0]})")


def load(name: str, overrides: Sequence[str]) -> Recipe:
    """The recipe as its run will have it: `generate.engine: auto` is the engine that is installed."""
    recipe = load_recipe(name, overrides)
    remote_code.allow(recipe.trust_remote_code)
    return recipe.sampling(engine=resolve_engine(recipe.generate.engine))


def _introduce(name: str, run: Run) -> None:
    """The first lines of a run's story."""
    recipe = run.recipe
    console.print(f"DICE {Path(name).name}: {counted(recipe.rounds, 'round')} in {shown(run.path)}")
    if recipe.trust_remote_code:
        say(f"trust     code of {recipe.policy} and {recipe.reference} is run (trust_remote_code)", mark="!")


def _require_shared(run: Run) -> None:
    """Raises BadInput where what node 0 has written is not to be seen here."""
    if not (run.path / "recipe.yaml").is_file():
        raise BadInput(f"{run.path}: node 0 has made it, but it is not here; all nodes need one file system")


def _changes(run: Run) -> set[str]:
    """The keys of the recipe that are not as the run was started with before; how they differ is said."""
    before = previous(run.recipe)
    changes = differences(before.model_dump(), run.recipe.model_dump()) if before else []
    for change in changes:
        say(f"recipe    {change}", mark="!")
    return {change.partition(" ")[0] for change in changes}


def _refuse(run: Run, superseded: Iterable[tuple[Stage, int]]) -> None:
    """Raises BadInput where there are stages that the recipe would have run again."""
    lost = [f"{stage.name} of round {t}" if t else stage.name for stage, t in superseded]
    if lost:
        others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise BadInput(
            f"{run.path}: {lost[0]}{others} would have to run again with this recipe; --force does that, "
            "run=NAME begins another run"
        )


def _begun(run: Run) -> Iterator[tuple[Stage, int, Found]]:
    """The stages that have anything to lose, with their rounds."""
    rounds = itertools.takewhile(lambda t: run.round_dir(t).is_dir(), itertools.count(1))
    before = [(STAGES[name], t) for name, t in train_reward_model.maker(run.recipe)]
    for stage, t in [*before, *((stage, t) for t in rounds for stage in ROUND)]:
        found = stage.state(run, t)
        if found.unreadable:
            raise BadInput(found.unreadable)
        if found.basis and (found.manifest or stage.has_parts(run, t) or stage.files(run, t).aside()):
            yield stage, t, found


def _set_otherwise(run: Run) -> Iterator[tuple[Stage, int]]:
    """The stages of other settings than the recipe's, unless those of this recipe come back."""
    for stage, t, found in _begun(run):
        if found.basis.get("recipe") != json.loads(json.dumps(stage.settings(run, t))):
            aside = stage.files(run, t).aside()
            with contextlib.suppress(BadInput, OSError):  # without its inputs nothing can be compared
                if aside and aside.basis == stage.basis(run, t):
                    continue
            yield stage, t


def _given_otherwise(run: Run, changed: set[str]) -> Iterator[tuple[Stage, int]]:
    """The stages that have read other models or data than the `changed` keys of the recipe name."""
    changed = changed | ({"prompts", "replay.dataset"} if "dataset_dir" in changed else set())
    for stage, t, found in _begun(run):
        names = [name for name, key in stage.given(run, t).items() if _is_among(key, changed)]
        if not names or t > run.recipe.rounds:
            continue
        with contextlib.suppress(BadInput, OSError):  # an earlier output is gone: the stage says so
            now, known = stage.inputs(run, t), found.basis.get("inputs", {})
            if any(known.get(name) != now[name] for name in names if name in now):
                yield stage, t


def _is_among(key: str, keys: set[str]) -> bool:
    """Whether one of some keys is this one, a group that has it, or a part of it."""
    return any(f"{one}.".startswith(f"{key}.") or f"{key}.".startswith(f"{one}.") for one in keys)


def prepare(command: str, run: Path) -> None:
    """Run the preparation of a recipe's run; it is expected to return at once when there is nothing to do.

    `status` tells of it meanwhile. One program with arguments, no shell; `python` is this Python.
    Raises BadInput where it can't be run, StageFailed where it fails.
    """
    try:
        words = shlex.split(command)
        if words[0] == "python":
            words[0] = sys.executable
        # What it trains, it trains on this machine alone.
        own = {key: value for key, value in processes.environment().items() if key not in NODE_VARIABLES}
        own[progress.IN_PREPARATION] = str(run)
        # Killed with the loop, it leaves nothing at work beside the preparation of the next start.
        ending = partial(processes.die_with_parent, os.getpid())
        process = subprocess.Popen(words, cwd=ROOT, env=own, preexec_fn=ending)
        try:
            processes.wait_for(process)
        finally:
            processes.end(process)
            progress.PREPARING.unlink(missing_ok=True)
        status = process.returncode
    except (ValueError, IndexError, OSError) as error:
        raise BadInput(f"prepare: {command!r} is no command that can be run ({error})") from None
    if status == BadInput.status:
        raise BadInput(f"prepare: {command} could not be run (see above)")
    if status:
        raise StageFailed(f"prepare: {command} failed with status {status}")
