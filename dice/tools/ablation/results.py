"""What the runs of a grid came to: figures by place and seed, means and standard errors over seeds."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from dice.tools.ablation.grid import CENTER, Cell, Grid

MEASURES = ("win_rate", "quality", "mean_chars")
CONFIDENCE = 0.95


class Place(NamedTuple):
    """A row of the table: a value of an axis, after so many rounds."""

    axis: str
    value: str
    round: int


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


Figures = dict[Place, dict[int, dict[str, float]]]  # place -> seed -> measure -> value


def collect(grid: Grid) -> Figures:
    """The figures of every run that is done, by place and seed."""
    figures: Figures = defaultdict(dict)
    for cell in grid.cells:
        if cell.is_done:
            for place, row in _rows(cell, grid):
                figures[place][cell.seed] = {name: row[name] for name in MEASURES}
    return figures


def _rows(cell: Cell, grid: Grid) -> Iterable[tuple[Place, dict[str, float]]]:
    results = {row["model"]: row for row in cell.results or ()}
    for axis, value in cell.values:
        yield Place(axis, value, grid.axis_rounds), results[f"round-{grid.axis_rounds}"]
    if cell.name == CENTER:
        yield Place("rounds", "0", 0), results["DPO"] | {"win_rate": 0.5}
        for t in range(1, grid.rounds + 1):
            yield Place("rounds", str(t), t), results[f"round-{t}"]


def summary(figures: Figures, place: Place, measure: str) -> Mean:
    """The mean of a measure at a place."""
    return Mean.of(row[measure] for row in figures.get(place, {}).values())


def difference(figures: Figures, first: Place, second: Place, measure: str) -> Mean:
    """Of a measure at two places, seed by seed; seeds that one of them lacks are left out."""
    ours, theirs = figures.get(first, {}), figures.get(second, {})
    return Mean.of(
        ours[seed][measure] - theirs[seed][measure] for seed in sorted(ours.keys() & theirs.keys())
    )


def as_json(figures: Figures) -> str:
    """All figures, a row per place and seed."""
    rows = [
        {**place._asdict(), "seed": seed, **row}
        for place, by_seed in figures.items()
        for seed, row in by_seed.items()
    ]
    return json.dumps(rows, indent=1) + "\n"
