"""The grid's results as Markdown and as a picture."""

import math
from pathlib import Path
from typing import Any

from dice.errors import counted
from dice.run.files import write_text
from dice.tools.ablation.claims import Verdict, verdicts
from dice.tools.ablation.grid import AXES, Grid
from dice.tools.ablation.results import Figures, Mean, Place, as_json, summary

COLUMNS = {"win_rate": "win rate against the start", "quality": "quality", "mean_chars": "characters"}
INK, ERROR = "#2f6f9f", "#8a8a8a"


def places(grid: Grid) -> list[Place]:
    """The rows of the table, axis by axis."""
    found = [Place(axis, value, grid.axis_rounds) for axis in grid.axes for value in AXES[axis]]
    return found + [Place("rounds", str(t), t) for t in range(grid.rounds + 1)]


def markdown(figures: Figures, grid: Grid, command: str) -> str:
    """The table, then the claims."""
    seeds = sorted({cell.seed for cell in grid.cells})
    lines = [
        f"# Ablation of {grid.name}",
        "",
        f"`{command}`",
        "",
        f"Seeds {', '.join(map(str, seeds))}; means, and standard errors over seeds. The seed is that of",
        "sampling, mixing and training; all runs begin with the same models, and answer the same held-out",
        f"prompts. All axes but that of the rounds are compared after {counted(grid.axis_rounds, 'round')}.",
        "",
        f"| axis | value | {' | '.join(COLUMNS.values())} | seeds |",
        f"| --- | --- | {' | '.join('---' for _ in COLUMNS)} | --- |",
    ]
    for place in places(grid):
        cells = [_shown(summary(figures, place, measure), measure) for measure in COLUMNS]
        if place == Place("rounds", "0", 0):
            cells[0] = "-"
        count = len(figures.get(place, {}))
        lines.append(f"| {place.axis} | {_value(place)} | {' | '.join(cells)} | {count} |")
    lines += ["", "![The same as a picture](ablation.svg)", ""]
    heading = ("the paper says", "here", "measured", "difference", "95% interval")
    lines += [f"| {' | '.join(heading)} |", f"| {' | '.join('---' for _ in heading)} |"]
    lines += [_claim(verdict) for verdict in verdicts(figures, grid)]
    lines += [
        "",
        "A difference is taken seed by seed; its interval is Student's t over the seeds. \"Can't tell\" is a",
        "difference whose interval has zero in it.",
    ]
    return "\n".join(lines) + "\n"


def _value(place: Place) -> str:
    return "the start" if place == Place("rounds", "0", 0) else place.value


def _shown(found: Mean, measure: str) -> str:
    if not found.count:
        return "not run"
    scale, digits, unit = {"win_rate": (100, 1, "%"), "quality": (1, 3, "")}.get(measure, (1, 1, ""))
    error = "" if math.isnan(found.error) else f" ± {scale * found.error:.{digits}f}{unit}"
    return f"{scale * found.mean:.{digits}f}{unit}{error}"


def _claim(verdict: Verdict) -> str:
    found = verdict.found
    scale, unit = verdict.scale
    cells = ["-", "-"]
    if found.count:
        cells[0] = f"{scale * found.mean:+.1f}{unit}"
    if not math.isnan(found.margin):
        low, high = (scale * (found.mean + sign * found.margin) for sign in (-1, 1))
        cells[1] = f"{low:+.1f}{unit} to {high:+.1f}{unit}"
    return f"| {verdict.claim} | **{verdict.says}** | {verdict.measured} | {cells[0]} | {cells[1]} |"


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
        rows = [place for place in places(grid) if place.axis == axis]
        for panel, measure in zip(panels[:, column], ("win_rate", "mean_chars"), strict=True):
            _panel(panel, rows, [summary(figures, place, measure) for place in rows], measure)
        panels[0, column].set_title(axis)
    panels[0, 0].set_ylabel("win rate, %")
    panels[1, 0].set_ylabel("characters")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _panel(panel: Any, rows: list[Place], means: list[Mean], measure: str) -> None:
    scale = 100 if measure == "win_rate" else 1
    there = [(at, mean) for at, mean in enumerate(means) if mean.count]
    panel.errorbar(
        [at for at, _ in there],
        [scale * mean.mean for _, mean in there],
        yerr=[0 if math.isnan(mean.error) else scale * mean.error for _, mean in there],
        fmt="o", color=INK, ecolor=ERROR, capsize=3,
    )  # fmt: skip
    panel.set_xticks(range(len(rows)), [_value(place) for place in rows], rotation=30, ha="right")
    panel.set_xlim(-0.5, len(rows) - 0.5)
    panel.grid(axis="y", alpha=0.3)
    if measure == "win_rate":
        panel.axhline(50, color=ERROR, linewidth=0.8, linestyle="--")


def write(grid: Grid, figures: Figures, command: str) -> list[Path]:
    """Write table, picture and figures into the grid's folder."""
    files = [grid.folder / name for name in ("ablation.md", "ablation.svg", "ablation.json")]
    write_text(files[0], markdown(figures, grid, command))
    draw(figures, grid, files[1])
    write_text(files[2], as_json(figures))
    return files
