"""What of a run is done, running, failed and why: a table of rounds and stages, and where everything lies."""

import contextlib
from pathlib import Path

from rich.table import Table
from rich.text import Text

from dice.errors import BadInput, counted, printable
from dice.launch.console import console, shown
from dice.launch.progress import read_counters
from dice.recipe.keys import resolve
from dice.run import files, lock, manifests
from dice.run.manifests import damaged
from dice.run.run import Run, open_run
from dice.run.stage import STAGES
from dice.stages import train_reward_model
from dice.tools.benchmarks.results import in_words, results

PARTS = {"generate": "responses", "score": "scores"}  # where a stage's shards are


def show_run(run: Run, check: bool = False) -> bool:
    """One line per stage of every round: done (what, how long), running, failed and why, or still to do.

    With `check` every file is compared with its manifest. Returns whether one was found to be changed.
    """
    rounds, worker = run.recipe.rounds, lock.holder(run.path)
    told = f"{shown(run.path)}: {counted(rounds, 'round')}, policy {run.recipe.policy}"
    console.print(f"\n{printable(told)}")
    console.print(f"{worker} is at work on it" if worker else "nobody is at work on it")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    broken, failures = [], []
    places = [(f"round {t}", run.round_dir(t), STAGES) for t in range(1, rounds + 1)]
    if train_reward_model.is_wanted(run.recipe):
        places.insert(0, ("before", train_reward_model.folder_of(run, 0), ("train_rm",)))
    if run.recipe.evaluate.judge:
        places.append(("evaluation", run.path / "evaluate", ("evaluate",)))
    all_stages = [(folder, stage) for _, folder, stages in places for stage in stages]
    running = _latest(all_stages) if worker else None
    for heading, folder, stages in places:
        for index, stage in enumerate(stages):
            state = _state(folder, stage, (folder, stage) == running)
            table.add_row("" if index else heading, stage, *state)
            broken += _broken(folder, stage) if check else []
            if failed := files.read_json(folder / f"{stage}.failed.json"):
                failures.append(f"\n{heading}, {stage}: {failed.get('error')}")
    for result in results(run):
        table.add_row(result.benchmark, result.model, printable(in_words(result)), "")
    console.print(table)
    for line in "\n".join([*failures, *broken]).splitlines():
        console.print(printable(line))
    if check and not broken:
        console.print("every file is what its stage wrote")
    return bool(broken)


def _latest(stages: list[tuple[Path, str]]) -> tuple[Path, str] | None:
    """The unfinished stage that was begun last: the one at work where any is."""

    def begun(place: tuple[Path, str]) -> float:
        folder, stage = place
        with contextlib.suppress(OSError):  # not begun, or done at this moment
            return (folder / f"{stage}.started.json").stat().st_mtime
        return 0.0

    latest = max(stages, key=begun)
    return latest if begun(latest) else None


def _state(folder: Path, stage: str, running: bool) -> tuple[str | Text, str]:
    """What a stage did, does or failed of, and its seconds."""
    try:
        manifest = manifests.read(folder / f"{stage}.manifest.json")
    except BadInput:
        return Text("its manifest was changed", "red"), ""
    if manifest:
        return printable(manifest["summary"]), f"{manifest['seconds']:,.0f} s"
    progress = read_counters(folder / f"{stage}.progress")
    parts = len(files.shards(folder / PARTS[stage])) if stage in PARTS else 0
    so_far = f", {counted(parts, 'shard')} written" if parts else ""
    if (folder / f"{stage}.failed.json").exists():
        return Text.assemble(("failed", "red"), f"{so_far}; why is told below"), ""
    if not (folder / f"{stage}.started.json").exists():
        return Text("to do", "dim"), ""
    if running:
        done = f", {progress.done:,} of {progress.total:,}" if progress.total else ""
        return Text.assemble(("running", "green"), f"{done}{so_far}"), ""
    return Text.assemble(("interrupted", "yellow"), f"{so_far}; goes on from there"), ""


def _broken(folder: Path, stage: str) -> list[str]:
    try:
        manifest = manifests.read(folder / f"{stage}.manifest.json") or {}
    except BadInput as error:
        return [str(error)]
    return [f"{shown(folder / name)} {what}" for name, what in damaged(folder, manifest).items()]


def show_all() -> None:
    """Every run under results/, with the stages that are done."""
    runs = sorted(path.parent for path in resolve("results").glob("*/recipe.yaml"))
    if not runs:
        console.print("no runs under results/ yet; `bash scripts/run_dice/iter.sh tiny` makes one")
    for path in runs:
        try:
            run = open_run(path)
        except (BadInput, OSError) as error:  # of another version, spoiled, or not ours to read
            console.print(f"{shown(path)}: can't be read: {printable(str(error))}")
            continue
        rounds = range(1, run.recipe.rounds + 1)
        done = sum((run.round_dir(t) / f"{name}.manifest.json").is_file() for t in rounds for name in STAGES)
        worker = f"; {name} is at work on it" if (name := lock.holder(path)) else ""
        total = len(STAGES) * run.recipe.rounds
        console.print(f"{shown(path)}: {done} of {total} stages done{worker}")


def show_places(run: Run) -> None:
    """Where a finished run's models, data sets and logs lie."""
    places = {
        "models": "round-*/model",
        "data sets": "round-*/dataset (LLaMA-Factory: dataset_dir)",
        "logs": "round-*/logs",
        "recipe": "recipe.yaml",
        "report": "report.html",
    }
    if not (run.path / places["report"]).is_file():
        del places["report"]
    console.print()
    for what, where in places.items():
        console.print(f"{what:<10}{shown(run.path)}/{where}")
