"""Weights & Biases. An offline run is written anew each time, and what was written before is removed."""

import os
from collections.abc import Sequence
from pathlib import Path

import wandb

from dice.recipe.keys import Recipe
from dice.run import files
from dice.tools.loggers.entries import COLUMNS, Entry, table
from dice.tools.loggers.ledger import ordered

SETTINGS = {
    "console": "off", "silent": True, "disable_git": True, "x_disable_stats": True, "init_timeout": 30.0,
    "finish_timeout": 200.0, "finish_timeout_raises": True,
}  # fmt: skip


def send(recipe: Recipe, entries: Sequence[Entry], folder: Path) -> None:
    """Send the entries that our run does not have. Raises what wandb raises where it can't be reached."""
    name, rows = ordered(folder / "wandb.json", entries)
    project = os.environ.get("WANDB_PROJECT", "dice")
    with wandb.init(
        project=project, id=name, name=recipe.run, resume="allow", dir=folder, config=recipe.model_dump(),
        settings=wandb.Settings(**SETTINGS),
    ) as run:  # fmt: skip
        for group, axis in {(key.partition("/")[0], row.axis) for row in rows for key in row.figures}:
            run.define_metric(f"{group}/*", step_metric=axis)
        for step in range(run.starting_step, len(rows)):  # 0 offline, else what the server does not have
            run.log(_row(rows[step]), step=step)
    if run.offline:
        for other in {*folder.glob(f"wandb/offline-run-*-{name}")} - {Path(run.dir).parent}:
            files.remove(other)


def _row(entry: Entry) -> dict[str, object]:
    row = {**entry.figures, entry.axis: entry.step}
    if entry.pairs:
        row[f"pairs/round-{entry.step}"] = wandb.Table(columns=[*COLUMNS], data=table(entry.pairs))
    return row
