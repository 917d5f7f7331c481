"""What of a run is done: a table of rounds and stages, and where everything lies."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from dice import manifests, store
from dice.console import console
from dice.errors import printable
from dice.recipe import ROOT, resolve
from dice.stage import manifest_of
from dice.store import Run

STAGES = ("generate", "score", "pair", "train")


def show_run(run: Run) -> None:
    """One line per stage of every round: done (what, how long), begun, or still to do."""
    rounds = run.recipe.rounds
    told = f"{shown(run.path)}: {rounds} round{'s' * (rounds > 1)}, policy {run.recipe.policy}"
    console.print(f"\n{printable(told)}")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    for t in range(1, rounds + 1):
        for index, stage in enumerate(STAGES):
            heading = f"round {t}" if index == 0 else ""
            table.add_row(heading, stage, *_state(run.round_dir(t), stage))
    if run.recipe.evaluate.judge:
        table.add_row("evaluation", "evaluate", *_state(run.path / "evaluate", "evaluate"))
    console.print(table)


def _state(folder: Path, stage: str) -> tuple[str | Text, str]:
    """What a stage did or has begun, and its seconds."""
    if manifest := manifests.read(folder / f"{stage}.manifest.json"):
        return printable(manifest["summary"]), f"{manifest['seconds']:,.0f} s"
    if (folder / f"{stage}.started.json").exists():
        parts = {"generate": "responses", "score": "scores"}.get(stage)
        written = len(store.shards(folder / parts)) if parts else 0
        return f"begun{f', {written} shards written' if parts else ''}", ""
    return Text("to do", style="dim"), ""


def show_all() -> None:
    """Every run under results/, with the stages that are done."""
    runs = sorted(path.parent for path in resolve("results").glob("*/recipe.yaml"))
    if not runs:
        console.print("no runs under results/ yet; `bash scripts/run_dice/iter.sh tiny` makes one")
    for path in runs:
        run = store.open_run(path)
        rounds = range(1, run.recipe.rounds + 1)
        done = sum(manifest_of(run, t, stage) is not None for t in rounds for stage in STAGES)
        console.print(f"{shown(path)}: {done} of {len(STAGES) * run.recipe.rounds} stages done")


def show_places(run: Run) -> None:
    """Where a finished run's models, data sets and logs lie."""
    places = {
        "models": "round-*/model",
        "data sets": "round-*/dataset (LLaMA-Factory: dataset_dir)",
        "logs": "round-*/logs",
        "recipe": "recipe.yaml",
    }
    console.print()
    for what, where in places.items():
        console.print(f"{what:<10}{shown(run.path)}/{where}")


def shown(path: Path) -> str:
    """A path relative to the repository where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
