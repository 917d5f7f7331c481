"""The grid's results as Markdown and as a picture."""

import math
from pathlib import Path
from typing import Any

from dice.run.files import write_text
from dice.tools.ablation.claims import Verdict, verdicts
from dice.tools.ablation.grid import Grid
from dice.tools.ablation.results import (
    MEASURES,
    START,
    Figures,
    Mean,
    Measure,
    Setting,
    as_json,
    settings,
    summary,
)
from dice.tools.templates import template

INK, ERROR = "#2f6f9f", "#8a8a8a"


def markdown(figures: Figures, grid: Grid, command: str) -> str:
    """The table, then the claims."""
    return template("ablation.md").render(
        grid=grid,
        command=command,
        seeds=sorted({cell.seed for cell in grid.cells}),
        measures=[*MEASURES.values()],
        rows=[(setting, *_row(figures, setting)) for setting in settings(grid)],
        claims=[(verdict, *_difference(verdict)) for verdict in verdicts(figures, grid)],
    )


def _row(figures: Figures, setting: Setting) -> tuple[list[str], int]:
    """What a setting came to, measure by measure, and by how many seeds."""
    cells = [_shown(summary(figures, setting, name), how) for name, how in MEASURES.items()]
    if setting == START:
        cells[0] = "-"  # a win rate against itself
    return cells, len(figures.get(setting, {}))


def _shown(found: Mean, how: Measure) -> str:
    if not found.count:
        return "not run"
    error = "" if math.isnan(found.error) else f" ± {how.scale * found.error:.{how.digits}f}{how.unit}"
    return f"{how.scale * found.mean:.{how.digits}f}{how.unit}{error}"


def _difference(verdict: Verdict) -> tuple[str, str]:
    """The difference that was found and its interval; a dash for what can't be told."""
    found, how = verdict.found, MEASURES[verdict.measure]
    mean, low, high = (
        f"{how.scale * value:+.1f}{how.unit}"
        for value in (found.mean, found.mean - found.margin, found.mean + found.margin)
    )
    return (mean if found.count else "-"), ("-" if math.isnan(found.margin) else f"{low} to {high}")


def draw(figures: Figures, grid: Grid, path: Path) -> None:
    """One panel per axis: the win rate, beneath it the length; bars are standard errors."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "dice"  # or ids differ from one drawing to the next
    from matplotlib import pyplot

    axes = [*grid.axes, "rounds"]
    figure, panels = pyplot.subplots(
        2, len(axes), figsize=(3.1 * len(axes), 5), sharey="row", squeeze=False, layout="constrained"
    )
    for column, axis in enumerate(axes):
        rows = [setting for setting in settings(grid) if setting.axis == axis]
        for panel, measure in zip(panels[:, column], ("win_rate", "mean_chars"), strict=True):
            means = [summary(figures, setting, measure) for setting in rows]
            _panel(panel, rows, means, MEASURES[measure].scale)
        panels[0, column].set_title(axis)
    panels[0, 0].set_ylabel("win rate, %")
    panels[1, 0].set_ylabel("characters")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _panel(panel: Any, rows: list[Setting], means: list[Mean], scale: int) -> None:
    there = [(at, mean) for at, mean in enumerate(means) if mean.count]
    panel.errorbar(
        [at for at, _ in there],
        [scale * mean.mean for _, mean in there],
        yerr=[0 if math.isnan(mean.error) else scale * mean.error for _, mean in there],
        fmt="o", color=INK, ecolor=ERROR, capsize=3,
    )  # fmt: skip
    panel.set_xticks(range(len(rows)), [*map(str, rows)], rotation=30, ha="right")
    panel.set_xlim(-0.5, len(rows) - 0.5)
    panel.grid(axis="y", alpha=0.3)
    if scale == 100:  # a win rate
        panel.axhline(50, color=ERROR, linewidth=0.8, linestyle="--")


def write(grid: Grid, figures: Figures, command: str) -> list[Path]:
    """Write table, picture and figures into the grid's folder."""
    files = [grid.folder / name for name in ("ablation.md", "ablation.svg", "ablation.json")]
    write_text(files[0], markdown(figures, grid, command))
    draw(figures, grid, files[1])
    write_text(files[2], as_json(figures))
    return files
