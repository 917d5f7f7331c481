"""What of a run is done, running, failed and why: a table of rounds and stages, and where everything lies."""

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from dice.errors import BadInput, counted, printable
from dice.launch.console import console, shown
from dice.launch.progress import PREPARING, read_counters
from dice.recipe.paths import ROOT, resolve
from dice.recipe.seal import is_sealed
from dice.run import files, lock
from dice.run.run import Run, open_run
from dice.run.stage import Stage
from dice.run.state import Found, State
from dice.stages.order import ROUND, stages_of
from dice.tools.benchmarks.results import in_words, results


def show(run: str | None, check: bool) -> bool:
    """What is known of a run, or of all of them. Returns whether a `check` found a file to be changed."""
    if run is None:
        if check:
            raise BadInput("status: --check needs a run")
        show_all()
    return run is not None and not show_preparation(run) and show_run(open_run(run), check)


def show_preparation(run: str) -> bool:
    """Say how far the preparation of a run is that is not begun. Returns whether there is one at work."""
    told = _preparing()
    is_its = told and Path(told["run"]) in (Path(run).absolute(), resolve(run), resolve("results") / run)
    if not is_its or (Path(told["run"]) / "recipe.yaml").is_file():
        return False
    console.print(_in_words(told))
    return True


def _preparing() -> dict[str, Any] | None:
    """What the `prepare` that is at work in this checkout has counted last; None where none is."""
    return files.read_json(PREPARING) if lock.is_taken(ROOT) else None


def _in_words(told: dict[str, Any]) -> str:
    done, total, unit = told["done"], told["total"], told["unit"]
    count = f"step {done:,} of {total:,}" if unit == "steps" else f"{done:,} of {total:,} {unit}"
    return printable(f"{shown(Path(told['run']))}: preparing: {count}; log {shown(Path(told['log']))}")


def show_run(run: Run, check: bool = False) -> bool:
    """One line per stage of every round: done (what, how long), running, failed and why, or still to do.

    With `check` every file is compared with its manifest. Returns whether one was found to be changed.
    """
    rounds, worker = run.recipe.rounds, lock.holder(run.path)
    told = f"{shown(run.path)}: {counted(rounds, 'round')}, policy {run.recipe.policy}"
    console.print(f"\n{printable(told)}")
    console.print(f"{worker} is at work on it" if worker else "nobody is at work on it")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    for _ in range(4):
        table.add_column(overflow="fold")  # a name that is longer than its column is not cut off
    broken, failures, headings = [], [], set()
    states = [(stage, t, stage.state(run, t, check)) for stage, t in stages_of(run)]
    # Of the unfinished stages, the one that was begun last is the one at work.
    running = max((found.begun_at for *_, found in states), default=0.0) if worker else 0.0
    for stage, t, found in states:
        heading = f"round {t}" if t else "before" if stage.name in ("train_rm", "agree") else "evaluation"
        cells = _cells(run, stage, t, found, running > 0 and found.begun_at == running)
        table.add_row("" if heading in headings else heading, stage.name, *cells)
        headings.add(heading)
        broken += [found.unreadable] if found.unreadable else []
        broken += [f"{shown(stage.folder(run, t) / name)} {what}" for name, what in found.damage.items()]
        if found.error:
            failures.append(f"\n{heading}, {stage.name}: {found.error}")
    for result in results(run):
        table.add_row(result.benchmark, result.model, printable(in_words(result)), "")
    console.print(table)
    for line in "\n".join([*failures, *(broken if check else [])]).splitlines():
        console.print(printable(line))
    if check and not is_sealed(run.path / "recipe.yaml"):
        console.print("recipe.yaml has no digest, as those of earlier versions: an edit would go unnoticed")
    if check and not broken:
        console.print("every file is what its stage wrote")
    return check and bool(broken)


def _cells(run: Run, stage: Stage, t: int, found: Found, running: bool) -> tuple[str | Text, str]:
    """What a stage did, does or failed of, and its seconds."""
    if found.unreadable:
        return Text("its manifest was changed", "red"), ""
    if found.manifest:
        return printable(found.manifest.summary), f"{found.manifest.seconds:,.0f} s"
    folder = stage.folder(run, t)
    progress = read_counters(folder / f"{stage.name}.progress")
    parts = len(files.shards(folder / stage.shards)) if stage.shards else 0
    so_far = f", {counted(parts, 'shard')} written" if parts else ""
    if found.state is State.FAILED:
        return Text.assemble(("failed", "red"), f"{so_far}; why is told below"), ""
    if found.state is State.NEVER_BEGUN:
        return Text("to do", "dim"), ""
    if running:
        done = f", {progress.done:,} of {progress.total:,}" if progress.total else ""
        return Text.assemble(("running", "green"), f"{done}{so_far}"), ""
    return Text.assemble(("interrupted", "yellow"), f"{so_far}; goes on from there"), ""


def show_all() -> None:
    """Every run under results/, with the stages that are done."""
    if told := _preparing():
        console.print(_in_words(told))
    runs = sorted(path.parent for path in resolve("results").glob("*/recipe.yaml"))
    if not runs and not told:
        console.print("no runs under results/ yet; `bash scripts/run_dice/iter.sh tiny` makes one")
    for path in runs:
        try:
            run = open_run(path)
            in_rounds = [(stage, t) for stage, t in stages_of(run) if stage in ROUND]
            done = sum(stage.state(run, t).was_done for stage, t in in_rounds)
        except (BadInput, OSError) as error:  # of another version, spoiled, or not ours to read
            console.print(f"{shown(path)}: can't be read: {printable(str(error))}")
            continue
        worker = f"; {name} is at work on it" if (name := lock.holder(path)) else ""
        console.print(f"{shown(path)}: {done} of {len(in_rounds)} stages done{worker}")


def show_paths(run: Run) -> None:
    """Where a finished run's models, data sets and logs lie."""
    paths = {
        "models": "round-*/model",
        "data sets": "round-*/dataset (LLaMA-Factory: dataset_dir)",
        "logs": "round-*/logs",
        "recipe": "recipe.yaml",
        "report": "report.html",
    }
    if not (run.path / paths["report"]).is_file():
        del paths["report"]
    console.print()
    for what, where in paths.items():
        console.print(f"{what:<10}{shown(run.path)}/{where}")
