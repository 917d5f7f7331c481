"""The paper's questions, and those asked since, as a grid: which runs there are, and what they change.

Every run differs from the recipe in one thing. The recipe itself runs for the most rounds, which answers
the question of rounds as well; the others run for `axis_rounds` and are compared with it after as many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dice.errors import BadInput
from dice.recipe.keys import Recipe
from dice.recipe.load import load_recipe, load_resolved
from dice.recipe.paths import ROOT
from dice.run.run import Run
from dice.run.stage import preview
from dice.stages.order import stages_of
from dice.stages.prepare import load

PAPER: dict[str, dict[str, list[str]]] = {
    "reward": {
        "implicit": ["score.reward=implicit"],
        "reward_model": ["score.reward=reward_model"],
        "judge": ["score.reward=judge"],
        "random": ["score.reward=random"],
    },
    "balance": {"on": ["pair.alpha=auto"], "off": ["pair.alpha=0"]},
    "gamma": {gamma: [f"replay.gamma={gamma}"] for gamma in ("0", "0.25", "0.5", "0.75", "1")},
}
# What was published since, each asked for by its name.
OPTIONS: dict[str, dict[str, list[str]]] = {
    "rejected": {value: [f"pair.rejected={value}"] for value in ("worst", "sigma", "random")},
    "confidence": {value: [f"pair.min_confidence={value}"] for value in ("0", "0.55", "0.65")},
    "select": {value: [f"replay.select={value}"] for value in ("random", "top", "bottom")},
    "normalize": {value: [f"score.normalize={value}"] for value in ("none", "tokens")},
    "average": {value: [f"score.average_rounds={value}"] for value in ("1", "2")},
    "reference": {value: [f"score.reference={value}"] for value in ("previous", "first")},
    "smoothing": {
        "none": ["train.smoothing=none"],
        "confidence": ["train.smoothing=confidence"],
        "consistency": ["train.smoothing=consistency", "score.consistency=true"],
    },
    "loss": {
        "dpo": ["train.loss=dpo"],
        "length_normalized": ["train.loss=length_normalized", "train.pref_beta=5"],
        "wpo": ["train.loss=wpo"],
    },
}
AXES = PAPER | OPTIONS
FROM_ROUND_2 = ("average", "reference", "smoothing")  # axes with values that change nothing in round 1
CENTER = "dice"  # the value that stands for the recipe as it is
OWN_KEYS = {"seeds": "1,2,3", "axes": ",".join(PAPER), "axis_rounds": "1"}
ROUNDS = 3


@dataclass(frozen=True)
class Cell:
    """A run of the grid. `values` are those of the axes that it stands for: all of them for the center."""

    name: str  # of the cell, whatever the seed
    seed: int
    values: tuple[tuple[str, str], ...]  # (axis, value)
    overrides: tuple[str, ...]
    recipe: Recipe

    @property
    def run(self) -> Run:
        return Run(self.recipe.run_dir, self.recipe)

    @cached_property
    def results(self) -> list[dict[str, Any]] | None:
        """What its evaluation found, a row per model; None where not all of its run is done by this recipe.

        That is so if every stage would be skipped, were it run now. Looked up once.
        """
        try:
            if load_resolved(self.run.path / "recipe.yaml") != self.recipe:
                return None
            found = [preview(stage, self.run, t) for stage, t in stages_of(self.run)]
        except (FileNotFoundError, BadInput):
            return None
        if not all(manifest and not changes for manifest, changes in found):
            return None
        results = found[-1][0].figures.get("results", [])
        rounds = {f"round-{t}" for t in range(1, self.recipe.rounds + 1)}
        return results if rounds <= {row["model"] for row in results} else None

    @property
    def is_done(self) -> bool:
        return self.results is not None


@dataclass(frozen=True)
class Grid:
    """All runs, the center of each seed before what shares with it."""

    name: str  # of the recipe
    folder: Path  # where the table goes; runs begin with its name
    axes: tuple[str, ...]
    rounds: int  # of the center
    axis_rounds: int  # of everything else
    cells: list[Cell]

    @property
    def values(self) -> list[tuple[str, str]]:
        """Every (axis, value) that a run stands for, in the order of the axes."""
        there = {value for cell in self.cells for value in cell.values}
        return [(axis, value) for axis in self.axes for value in AXES[axis] if (axis, value) in there]


def make_grid(name: str, words: Sequence[str]) -> Grid:
    """The grid of a recipe with `key=value` overrides, of which `OWN_KEYS` are the grid's own.

    Raises BadInput for anything unknown, and for a recipe that judges no answers.
    """
    own = dict(OWN_KEYS) | _own(words)
    given = [word for word in words if word.partition("=")[0] not in OWN_KEYS]
    asked = {word.partition("=")[0] for word in given}
    if "seed" in asked:
        raise BadInput("seed=...: a grid has several; use seeds=1,2,3")
    given += [] if "rounds" in asked else [f"rounds={ROUNDS}"]
    recipe = load_recipe(name, given)
    if not recipe.evaluate.judge:
        raise BadInput(f"{name}: the table is made of evaluations, and this recipe has no evaluate.judge")
    prefix = recipe.run if "run" in asked else f"ablate-{recipe.run}"
    wanted, seeds = _wanted(own["axes"]), _seeds(own["seeds"])
    axes = tuple(wanted)
    axis_rounds = _number("axis_rounds", own["axis_rounds"])
    if not 1 <= axis_rounds <= recipe.rounds:
        raise BadInput(f"axis_rounds is {axis_rounds}; it must be between 1 and rounds, {recipe.rounds}")
    if axis_rounds == 1 and (later := [axis for axis in axes if axis in FROM_ROUND_2]):
        raise BadInput(f"axis_rounds is 1; axis {later[0]} needs 2 or more, for round 1 tells nothing of it")
    given = [word for word in given if not word.startswith("run=")]
    given += ["register=null"] if recipe.register else []  # one name for the pairs of many runs
    values = _values(name, given, wanted)
    cells = []
    for seed in seeds:
        for cell, (stands_for, changes) in values.items():
            rounds = [] if cell == CENTER else [f"rounds={axis_rounds}"]
            overrides = [f"run={prefix}-{cell}-seed-{seed}", f"seed={seed}", *given, *changes, *rounds]
            cells.append(Cell(cell, seed, stands_for, tuple(overrides), load(name, overrides)))
    folder = ROOT / recipe.results_dir / prefix
    return Grid(name, folder, axes, recipe.rounds, axis_rounds, cells)


def _own(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    return {key: value for key, _, value in pairs if key in OWN_KEYS}


def _wanted(text: str) -> dict[str, list[str]]:
    """The axes by name, and the values of each: all of them, or those of `axis:value`."""
    words = text.split(",")
    wanted: dict[str, list[str]] = {}
    for word in words:
        axis, colon, value = word.partition(":")
        if axis not in AXES:
            raise BadInput(f"axes: unknown axis {axis!r}; there are {', '.join(AXES)}")
        if colon and value not in AXES[axis]:
            raise BadInput(f"axes: {axis} has no value {value!r}; there are {', '.join(AXES[axis])}")
        wanted.setdefault(axis, []).extend([value] if colon else AXES[axis])
    _each_once("axes", words)
    return wanted


def _seeds(text: str) -> list[int]:
    seeds = [_number("seeds", seed) for seed in text.split(",")]
    _each_once("seeds", seeds)
    return seeds


def _each_once(key: str, values: Sequence[int | str]) -> None:
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise BadInput(f"{key}: {twice[0]} is there more than once")


def _number(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadInput(f"{key}: {text!r} is no number")
    return int(text)


Values = dict[str, tuple[tuple[tuple[str, str], ...], list[str]]]


def _values(name: str, given: list[str], wanted: dict[str, list[str]]) -> Values:
    """Cells by name: what they stand for and change. A value that changes nothing is the center."""
    plain = load_recipe(name, given)
    found: Values = {}
    stands_for: list[tuple[str, str]] = []
    for axis, values in wanted.items():
        for value, changes in AXES[axis].items():
            if load_recipe(name, [*given, *changes]) == plain:
                stands_for.append((axis, value))
            elif value in values:
                found[f"{axis}-{value}"] = (((axis, value),), changes)
    return {CENTER: (tuple(stands_for), []), **found}
