"""`python -m dice ablate RECIPE`: the paper's questions as a grid of runs, which ablate.sh makes."""

import math
from collections.abc import Sequence

from dice.errors import counted
from dice.launch.console import console, say, shown
from dice.tools.ablation import table
from dice.tools.ablation.forecast import forecast
from dice.tools.ablation.grid import Grid, make_grid
from dice.tools.ablation.results import collect
from dice.tools.plan import hours

COMMAND = "bash scripts/run_dice/ablate.sh"


def show_cells(name: str, words: Sequence[str]) -> None:
    """Print a line for each run that is still to be done: its overrides, separated by tabs."""
    for cell in make_grid(name, words).cells:
        if not cell.is_done:
            print("\t".join(cell.overrides))


def show_plan(name: str, words: Sequence[str]) -> None:
    """Print all runs, what they share, and how long they take."""
    grid = make_grid(name, words)
    rows = forecast(grid)
    console.print(f"\nablation of {name}: {counted(len(rows), 'run')}, table in {shown(grid.folder)}\n")
    for row in rows:
        state = "done" if row.cell.is_done else hours(row.seconds)
        shared = f"shares {', '.join(row.shared)}" if row.shared else ""
        console.print(f"{row.cell.recipe.run:<48}{state:>8}   {shared}".rstrip())
    known = [row.seconds for row in rows if not math.isnan(row.seconds)]
    untold = "" if len(known) == len(rows) else "   and what can't be told"
    console.print(f"{'in all':<48}{hours(sum(known)):>8}{untold}\n")


def show_table(name: str, words: Sequence[str]) -> bool:
    """Print and write the table of what is done. Returns whether that is everything."""
    grid = make_grid(name, words)
    figures = collect(grid)
    command = " ".join([COMMAND, name, *words])
    files = table.write(grid, figures, command)
    console.print(table.markdown(figures, grid, command))
    say(f"{'ablate':<10}{', '.join(shown(file) for file in files)}", mark="+")
    return _complete(grid)


def _complete(grid: Grid) -> bool:
    missing = [cell.recipe.run for cell in grid.cells if not cell.is_done]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        say(f"{'':<10}not done: {', '.join(missing[:3])}{more}", mark="!")
    return not missing
