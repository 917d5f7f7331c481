"""TensorBoard. Its file is written anew each time, and what was written before is removed."""

from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from dice.recipe.keys import Recipe
from dice.run import files
from dice.tools.loggers.entries import COLUMNS, Entry, table

SHOWN = 20  # pairs of a round: they are text on a page


def send(recipe: Recipe, entries: Sequence[Entry], folder: Path) -> None:
    """Write all entries to one file in `tensorboard/`, figures in single precision."""
    home = folder / "tensorboard"
    before = [*home.glob("events.*")]
    with SummaryWriter(str(home)) as writer:
        for entry in entries:
            for name, value in entry.figures.items():
                writer.add_scalar(name, value, entry.step)
            if entry.pairs:
                writer.add_text("pairs", _markdown(table(entry.pairs)[:SHOWN]), entry.step)
    for path in before:
        files.remove(path)


def _markdown(rows: Sequence[Sequence[object]]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
