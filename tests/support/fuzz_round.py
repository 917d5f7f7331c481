"""The commands that are fuzzed: each on copies of a finished run of which one file was spoiled."""

import importlib
import io
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from fake_world import make_data, make_settings
from fuzz_tally import Changed, Tally
from fuzz_values import replaced

from dice.data.dataset_dir import register
from dice.launch import processes
from dice.launch.worker import Worker
from dice.run.files import read_json, remove
from dice.run.run import open_run
from dice.stages import evaluate
from dice.stages.order import ROUND, STAGES, execute
from dice.stages.prepare import start
from dice.tools import model_card, status

UNSTABLE = ("seconds", "resumed", "commit", "versions")  # of a manifest


@dataclass(frozen=True)
class Round:
    """A finished run with the fake engine: a round, its evaluation, its data; and an untouched copy."""

    folder: Path
    settings: list[str]

    @property
    def run(self) -> Path:
        return self.folder / "work" / "results" / "tiny"

    @classmethod
    def make(cls, folder: Path) -> "Round":
        work = folder / "work"
        settings = [*make_settings(make_data(work / "data"), work / "results"), "rounds=1"]
        made = cls(folder, settings)
        with in_process(), redirect_stdout(io.StringIO()):
            loop(made)
        shutil.copytree(work, folder / "kept")
        return made

    def drive(self, command: "Command", tally: Tally, examples: int, seed: int) -> None:
        """Run a command on so many spoiled copies."""
        rng = random.Random(f"{seed} {tally.name}")
        for _ in range(examples):
            shutil.rmtree(self.folder / "work")
            shutil.copytree(self.folder / "kept", self.folder / "work")
            if command.unfinished:
                self._unfinish(command.unfinished)
            before = self.results(self.run)
            files = sorted(path for path in (self.folder / "work").rglob("*") if path.is_file())
            path = rng.choice(
                [path for path in files if command.reads(path.relative_to(self.folder / "work"))]
            )
            how = replaced(rng, path, files)
            what = f"{path.relative_to(self.folder / 'work')} {how}"
            # What a stage makes depends on its run's recipe and on data sets, which may be other ones.
            given = path.name == "recipe.yaml" or not path.is_relative_to(self.run)
            expected = {} if command.unfinished and given else self._expected(command, before)
            if path.is_file() and not path.is_symlink():
                what += f" {path.read_bytes()!r:.600}"
            tally.attempt(what, lambda expected=expected: self._attempt(command, expected))

    def _expected(self, command: "Command", before: dict[str, object]) -> dict[str, object]:
        """What is to be there after a command: what was, or what an untouched run's stage made."""
        if not command.unfinished:
            return before
        made = (*STAGES[command.unfinished].outputs, f"{command.unfinished}.manifest.json")
        whole = self.results(self.folder / "kept" / "results" / "tiny")
        return {
            name: whole[name] for name in whole if name.startswith(tuple(f"round-1/{one}" for one in made))
        }

    def _attempt(self, command: "Command", expected: dict[str, object]) -> int:
        said = io.StringIO()
        with in_process(), redirect_stdout(said):
            command.run(self)
        if expected and command.keeps and "! " not in said.getvalue():
            found = self.results(self.run)
            if command.unfinished:
                found = {name: found.get(name) for name in expected}
            if changed := _differences(expected, found):
                raise Changed(", ".join(changed[:5]))
        return 0

    def _unfinish(self, name: str) -> None:
        for later in ROUND[ROUND.index(STAGES[name]) :]:
            for output in (*later.outputs, f"{later.name}.manifest.json"):
                remove(self.run / "round-1" / output)

    def results(self, run: Path) -> dict[str, object]:
        """The contents of a run's files, as far as they are to be the same every time."""
        found: dict[str, object] = {}
        for path in sorted(run.rglob("*")):
            name = str(path.relative_to(run))
            if "logs" in path.parts or path.name == ".lock" or not path.is_file():
                continue
            found[name] = path.read_bytes()
            if name.endswith(".manifest.json") and (manifest := read_json(path)):
                found[name] = {key: value for key, value in manifest.items() if key not in UNSTABLE}
        return found


@dataclass(frozen=True)
class Command:
    """A command on a run; `keeps`: what it leaves must be what the untouched run holds, unless it says so."""

    run: Callable[[Round], object]
    reads: Callable[[Path], bool] = lambda path: "logs" not in path.parts and path.name != ".lock"
    keeps: bool = False
    unfinished: str = ""  # the stage that a killed run is about to begin


def _differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]


def loop(on: Round) -> None:
    """What iter.sh does."""
    start("tiny", on.settings)
    opened = open_run(on.run)
    for stage in ROUND:
        execute(stage, opened, 1)
    evaluate.show(execute(evaluate.STAGE, opened, 0))
    status.show_paths(opened)


def one(name: str) -> Callable[[Round], None]:
    """What `python -m dice STAGE RUN 1` does."""

    def run(on: Round) -> None:
        execute(STAGES[name], open_run(on.run), 1)

    return run


@contextmanager
def in_process() -> Iterator[None]:
    """Workers and the fake trainer in this process, and no waiting for the disk."""

    def run_workers(name: str, folder: Path, arguments: list[str], *_: object) -> None:
        worker = Worker(0, 1, 0, folder / f"{name.rpartition('.')[2]}.progress")
        try:
            importlib.import_module(name).work(worker, *arguments)
        finally:
            shutil.rmtree(worker.progress, ignore_errors=True)

    def run_logged(command: list[str], *_: object, **__: object) -> None:
        importlib.import_module(command[2]).make_policy(*command[3:])

    kept = processes.run_workers, processes.run_logged, os.fsync
    processes.run_workers, processes.run_logged, os.fsync = run_workers, run_logged, lambda handle: None
    sys.modules.pop("dice_judge", None)
    try:
        yield
    finally:
        processes.run_workers, processes.run_logged, os.fsync = kept


def plan(on: Round) -> None:
    from dice.tools.plan import show_plan

    show_plan("tiny", on.settings)


COMMANDS = {
    "iter.sh on a finished run": Command(loop, keeps=True),
    **{f"{s.name} after a kill": Command(one(s.name), unfinished=s.name, keeps=True) for s in ROUND},
    "status": Command(lambda on: status.show_run(open_run(on.run))),
    "register": Command(lambda on: register(str(on.run / "round-1"), "mine")),
    "export (model card)": Command(lambda on: model_card.of_round(open_run(on.run), 1)),
    "plan": Command(plan),
}
