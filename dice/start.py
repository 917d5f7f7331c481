"""Before round 1: what can be known to be wrong is found, and nothing is written before that."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from dice import launch, store, trust
from dice.checks import after_preparation, before_preparation, previous
from dice.console import say
from dice.engines import resolve_engine
from dice.errors import BadInput, StageFailed
from dice.recipe import ROOT, Recipe
from dice.recipe_io import load_recipe, origin
from dice.stage import differences


def start(name: str, overrides: Sequence[str]) -> store.Run:
    """Check a recipe, make what it needs, and write its run's recipe.yaml.

    Raises BadInput for anything that can't work: a data set, template, model or batch size.
    """
    recipe = load(name, overrides)
    if recipe.trust_remote_code:
        say(f"trust     code of {recipe.policy} and {recipe.reference} is run (trust_remote_code)", mark="!")

    def place(key: str) -> str:
        return origin(name, overrides, key)

    for check in before_preparation(recipe, place):
        check.examine()
    if recipe.prepare:
        prepare(recipe.prepare)
    for check in after_preparation(recipe, place, download=True):
        check.examine()
    return _write(recipe)


def load(name: str, overrides: Sequence[str]) -> Recipe:
    """The recipe as its run will have it: `generate.engine: auto` is the engine that is installed."""
    recipe = load_recipe(name, overrides)
    trust.run_code(recipe.trust_remote_code)
    return replace(recipe, generate=replace(recipe.generate, engine=resolve_engine(recipe.generate.engine)))


def _write(recipe: Recipe) -> store.Run:
    before = previous(recipe)
    for change in differences(asdict(before), asdict(recipe)) if before else ():
        say(f"recipe    {change}", mark="!")
    return store.create_run(recipe)


def prepare(command: str) -> None:
    """Run the recipe's own preparation; it is expected to return at once when there is nothing to do.

    One program with arguments, no shell; `python` is this Python. Raises BadInput where it can't be
    run, StageFailed where it fails.
    """
    try:
        words = shlex.split(command)
        if words[0] == "python":
            words[0] = sys.executable
        status = subprocess.run(words, cwd=ROOT, env=launch.environment()).returncode
    except (ValueError, IndexError, OSError) as error:
        raise BadInput(f"prepare: {command!r} is no command that can be run ({error})") from None
    if status == BadInput.status:
        raise BadInput(f"prepare: {command} could not be run (see above)")
    if status:
        raise StageFailed(f"prepare: {command} failed with status {status}")
