"""What the runs of a grid came to: figures by setting and seed, means and standard errors over seeds."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from dice.tools.ablation.grid import CENTER, Cell, Grid

CONFIDENCE = 0.95


class Measure(NamedTuple):
    """A column of the table, and how it is shown."""

    title: str
    digits: int
    unit: str = ""
    scale: int = 1  # what to multiply a value by


MEASURES = {
    "win_rate": Measure("win rate against the start", 1, "%", 100),
    "quality": Measure("quality", 3),
    "mean_chars": Measure("characters", 1),
}


class Setting(NamedTuple):
    """A row of the table: a value of an axis, after so many rounds."""

    axis: str
    value: str
    round: int

    def __str__(self) -> str:
        return "the start" if self == START else self.value


START = Setting("rounds", "0", 0)


def settings(grid: Grid) -> list[Setting]:
    """The rows of the table, axis by axis."""
    found = [Setting(*value, grid.axis_rounds) for value in grid.values]
    return found + [Setting("rounds", str(t), t) for t in range(grid.rounds + 1)]


@dataclass(frozen=True)
class Mean:
    """Of one number per seed; the error is the standard error, NaN for a single seed."""

    mean: float
    error: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Mean":
        array = np.array(list(values), float)
        if not len(array):
            return cls(math.nan, math.nan, 0)
        error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.nan
        return cls(float(array.mean()), float(error), len(array))

    @property
    def margin(self) -> float:
        """Half the width of the confidence interval: Student's t, since seeds are few."""
        if self.count < 2:
            return math.nan
        return float(stdtrit(self.count - 1, (1 + CONFIDENCE) / 2)) * self.error


Figures = dict[Setting, dict[int, dict[str, float]]]  # setting -> seed -> measure -> value


def collect(grid: Grid) -> Figures:
    """The figures of every run that is done, by setting and seed."""
    figures: Figures = defaultdict(dict)
    for cell in grid.cells:
        if cell.is_done:
            for setting, row in _rows(cell, grid):
                figures[setting][cell.seed] = {name: row[name] for name in MEASURES}
    return figures


def _rows(cell: Cell, grid: Grid) -> Iterable[tuple[Setting, dict[str, float]]]:
    results = {row["model"]: row for row in cell.results or ()}
    for axis, value in cell.values:
        yield Setting(axis, value, grid.axis_rounds), results[f"round-{grid.axis_rounds}"]
    if cell.name == CENTER:
        yield START, results["DPO"] | {"win_rate": 0.5}
        for t in range(1, grid.rounds + 1):
            yield Setting("rounds", str(t), t), results[f"round-{t}"]


def summary(figures: Figures, setting: Setting, measure: str) -> Mean:
    """The mean of a measure at a setting."""
    return Mean.of(row[measure] for row in figures.get(setting, {}).values())


def difference(figures: Figures, first: Setting, second: Setting, measure: str) -> Mean:
    """Of a measure at two settings, seed by seed; seeds that one of them lacks are left out."""
    ours, theirs = figures.get(first, {}), figures.get(second, {})
    return Mean.of(
        ours[seed][measure] - theirs[seed][measure] for seed in sorted(ours.keys() & theirs.keys())
    )


def as_json(figures: Figures) -> str:
    """All figures, a row per setting and seed."""
    rows = [
        {**setting._asdict(), "seed": seed, **row}
        for setting, by_seed in figures.items()
        for seed, row in by_seed.items()
    ]
    return json.dumps(rows, indent=1) + "\n"
