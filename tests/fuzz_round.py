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

from conftest import make_data, make_settings
from fuzz_tally import Changed, Tally
from fuzz_values import replaced

from dice import card, evaluate, export, launch, stage, status, store
from dice.start import start
from dice.worker import Worker

UNSTABLE = ("seconds", "resumed", "commit", "versions")  # of a manifest
STAGES = ("generate", "score", "pair", "train")
# What a killed run lacks before a stage: its own outputs and the later ones'.
OUTPUTS = {name: importlib.import_module(f"dice.{name}").STAGE.outputs for name in STAGES}


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
            before = self.results()
            files = sorted(path for path in (self.folder / "work").rglob("*") if path.is_file())
            path = rng.choice(
                [path for path in files if command.reads(path.relative_to(self.folder / "work"))]
            )
            how = replaced(rng, path, files)
            what = f"{path.relative_to(self.folder / 'work')} {how}"
            if path.is_file() and not path.is_symlink():
                what += f" {path.read_bytes()!r:.600}"
            tally.attempt(what, lambda before=before: self._attempt(command, before))

    def _attempt(self, command: "Command", before: dict[str, object]) -> int:
        said = io.StringIO()
        with in_process(), redirect_stdout(said):
            command.run(self)
        if (
            command.keeps
            and "! " not in said.getvalue()
            and (changed := _differences(before, self.results()))
        ):
            raise Changed(", ".join(changed[:5]))
        return 0

    def _unfinish(self, name: str) -> None:
        for later in STAGES[STAGES.index(name) :]:
            for output in (*OUTPUTS[later], f"{later}.manifest.json"):
                store.remove(self.run / "round-1" / output)

    def results(self) -> dict[str, object]:
        """The contents of a run's files, as far as they are to be the same every time."""
        found: dict[str, object] = {}
        for path in sorted(self.run.rglob("*")):
            name = str(path.relative_to(self.run))
            if "logs" in path.parts or path.name == ".lock" or not path.is_file():
                continue
            found[name] = path.read_bytes()
            if name.endswith(".manifest.json") and (manifest := store.read_json(path)):
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
    opened = store.open_run(on.run)
    for name in STAGES:
        stage.execute(importlib.import_module(f"dice.{name}").STAGE, opened, 1)
    evaluate.show(stage.execute(evaluate.STAGE, opened, 0))
    status.show_places(opened)


def one(name: str) -> Callable[[Round], None]:
    """What `python -m dice STAGE RUN 1` does."""

    def run(on: Round) -> None:
        stage.execute(importlib.import_module(f"dice.{name}").STAGE, store.open_run(on.run), 1)

    return run


@contextmanager
def in_process() -> Iterator[None]:
    """Workers and the fake trainer in this process, and no waiting for the disk."""

    def run_workers(name: str, folder: Path, arguments: list[str], unit: str, gpus_each: int = 1) -> None:
        worker = Worker(0, 1, 0, folder / f"{name}.progress")
        try:
            importlib.import_module(f"dice.{name}").work(worker, *arguments)
        finally:
            shutil.rmtree(worker.progress, ignore_errors=True)

    def run_logged(command: list[str], *_: object, **__: object) -> None:
        importlib.import_module(command[2]).train(*command[3:])

    kept = launch.run_workers, launch.run_logged, os.fsync
    launch.run_workers, launch.run_logged, os.fsync = run_workers, run_logged, lambda handle: None
    sys.modules.pop("dice_judge", None)
    try:
        yield
    finally:
        launch.run_workers, launch.run_logged, os.fsync = kept


def plan(on: Round) -> None:
    from dice.plan import show_plan

    show_plan("tiny", on.settings)


COMMANDS = {
    "iter.sh on a finished run": Command(loop, keeps=True),
    **{f"{name} after a kill": Command(one(name), unfinished=name) for name in STAGES},
    "status": Command(lambda on: status.show_run(store.open_run(on.run))),
    "register": Command(lambda on: export.register(str(on.run / "round-1"), "mine")),
    "export (model card)": Command(lambda on: card.of_round(store.open_run(on.run), 1)),
    "plan": Command(plan),
}
