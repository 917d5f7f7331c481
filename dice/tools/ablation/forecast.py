"""What of a grid is still to be run, and how long that takes."""

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from dice.errors import BadInput
from dice.launch import hardware
from dice.stages import evaluate, train_reward_model
from dice.stages.order import ROUND, stages_of
from dice.tools.ablation.grid import Cell, Grid
from dice.tools.plan.budget import Budget, budget


@dataclass(frozen=True)
class Expected:
    """A run of the grid. Seconds are NaN where they can't be told."""

    cell: Cell
    shared: list[str]  # stages that a run before it will have done
    seconds: float


def forecast(grid: Grid) -> list[Expected]:
    """All runs in their order. A stage takes what it took in the grid so far, else what `plan` says."""
    measured = _measured(grid)
    known: set[str] = set()
    return [_expected(cell, known, measured) for cell in grid.cells]


def _expected(cell: Cell, known: set[str], measured: dict[str, list[float]]) -> Expected:
    planned = _budget(cell)
    shared, seconds = [], []
    for name, t, key in _stages(cell):
        if key in known:
            shared.append(f"{name} {t}" if t else name)
        else:
            cost = planned.at(t).cost(name) if planned else None
            seconds.append(fmean(measured.get(name, [cost.seconds if cost else math.nan])))
        known.add(key)
    return Expected(cell, shared, 0.0 if cell.is_done else sum(seconds))


def _stages(cell: Cell) -> Iterator[tuple[str, int, str]]:
    """(stage, round, what it depends on): the settings of all stages up to it. Evaluations differ always."""
    recipe, path = cell.recipe, []
    if train_reward_model.is_wanted(recipe):
        yield "train_rm", 0, json.dumps([train_reward_model.STAGE.settings(cell.run, 0)])
    for t in range(1, recipe.rounds + 1):
        for stage in ROUND:
            path.append([t, stage.name, stage.settings(cell.run, t)])
            yield stage.name, t, json.dumps(path)
    yield evaluate.STAGE.name, 0, json.dumps([recipe.run])


def _budget(cell: Cell) -> Budget | None:
    try:
        return budget(cell.recipe, hardware.find())
    except BadInput:  # data that `prepare` is still to make
        return None


def _measured(grid: Grid) -> dict[str, list[float]]:
    """Seconds of every stage that was run in the grid, in one go."""
    found = defaultdict(list)
    for cell in grid.cells:
        for stage, t in stages_of(cell.run):
            with contextlib.suppress(BadInput):  # spoiled: what makes it anew says so
                manifest = stage.manifest(cell.run, t)
                if manifest and not manifest.resumed and not manifest.shared_from:
                    found[stage.name].append(manifest.seconds)
    return found
